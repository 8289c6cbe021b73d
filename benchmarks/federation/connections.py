"""One channel for each client, as each device has its own, with its own certificate."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import grpc

from benchmarks.federation.stage import Device
from fedcore.wire.channels import client_options

__all__ = ["channel_to", "connected"]


def channel_to(address: str, device: Device, root: bytes) -> grpc.aio.Channel:
    """A channel of a device. `root`: the authority's certificate, PEM."""
    credentials = grpc.ssl_channel_credentials(root, device.tls.key, device.tls.chain)
    # Of its own: grpc shares a connection between channels that look alike.
    options = (*client_options(retries=False), ("grpc.use_local_subchannel_pool", 1))
    return grpc.aio.secure_channel(address, credentials, options=options)


@asynccontextmanager
async def connected(
    address: str, devices: Sequence[Device], root: bytes
) -> AsyncIterator[Sequence[grpc.aio.Channel]]:
    """A channel for each of the devices, with the handshakes done."""
    channels = [channel_to(address, device, root) for device in devices]
    try:
        for channel in channels:  # one after another: a storm of handshakes is another question
            await channel.channel_ready()
        yield channels
    finally:
        for channel in channels:
            await channel.close()
