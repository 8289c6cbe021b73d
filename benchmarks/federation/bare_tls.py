"""What a loopback connection could carry at most: a TLS socket that reads, and keeps nothing.

python -m benchmarks.federation.bare_tls FOLDER BYTES   # of a `Stage`; prints its address
"""

from __future__ import annotations

import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.federation.stage import Device
from fedserver.authority import Authority

__all__ = ["context_of", "receive", "send_s"]

_PIECE = 1 << 20


def receive(folder: Path, size: int) -> None:
    """Takes connections, one after another, of so many bytes each, and acknowledges them."""
    authority = Authority.open(folder / "authority")
    certificate = authority.server_certificate(["localhost"], now=int(time.time()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load(context, certificate.chain, certificate.key)
    context.load_verify_locations(cadata=authority.root_pem.decode())
    context.verify_mode = ssl.CERT_REQUIRED
    piece = memoryview(bytearray(_PIECE))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(f"localhost:{listening.getsockname()[1]}", flush=True)
        while True:
            accepted, _ = listening.accept()
            with context.wrap_socket(accepted, server_side=True) as connection:
                left = size
                while left:
                    left -= connection.recv_into(piece, min(left, _PIECE))
                connection.sendall(b"!")


def send_s(address: str, device: Device, root: bytes, chunks: Sequence[bytes]) -> float:
    """Seconds from the first byte to the acknowledgement of the last."""
    context = context_of(device, root)
    host, _, port = address.partition(":")
    with (
        socket.create_connection((host, int(port))) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        begin = time.perf_counter()
        for chunk in chunks:
            connection.sendall(chunk)
        connection.recv(1)
        return time.perf_counter() - begin


def context_of(device: Device, root: bytes) -> ssl.SSLContext:
    """What a client says and asks at a handshake. `root`: the authority's certificate, PEM."""
    context = ssl.create_default_context(cadata=root.decode())
    _load(context, device.tls.chain, device.tls.key)
    return context


def _load(context: ssl.SSLContext, chain: bytes, key: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(chain + key)
        file.flush()
        context.load_cert_chain(file.name)


if __name__ == "__main__":
    receive(Path(sys.argv[1]), int(sys.argv[2]))
