"""Clients enrolled by one process that speak from another: their keys go there in a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.federation.stage import Device, Stage
from fedclient.identity import Tls
from fedcore.federated.task import Task
from fedcore.secagg import Certificate

__all__ = ["PassedOn", "read", "write"]

_NAME = "clients.json"


@dataclass(frozen=True)
class PassedOn:
    """What those clients have to know. `root`: PEM; `registrar`: who certifies their identities."""

    task: Task
    root: bytes
    registrar: bytes
    devices: Sequence[Device]


def write(stage: Stage) -> None:
    """A file in the stage's folder, for the eyes of this user."""
    path = stage.folder / _NAME
    path.touch(mode=0o600)
    shared = [stage.task.canonical.decode(), stage.root.decode(), stage.registrar.hex()]
    path.write_text(json.dumps([*shared, [_text_of(device) for device in stage.devices]]))


def read(folder: Path) -> PassedOn:
    """What `write` wrote."""
    task, root, registrar, devices = json.loads((folder / _NAME).read_text())
    found = [_device_of(*texts) for texts in devices]
    return PassedOn(
        Task.from_canonical(task.encode()), root.encode(), bytes.fromhex(registrar), found
    )


def _text_of(device: Device) -> list[str]:
    return [
        device.id.hex(),
        device.tls.key.decode(),
        device.tls.chain.decode(),
        device.signing.private_bytes_raw().hex(),
        device.certificate.encode().hex(),
    ]


def _device_of(name: str, key: str, chain: str, signing: str, certificate: str) -> Device:
    return Device(
        bytes.fromhex(name),
        Tls(key.encode(), chain.encode(), 0, 0),
        Ed25519PrivateKey.from_private_bytes(bytes.fromhex(signing)),
        Certificate.decode(bytes.fromhex(certificate)),
    )
