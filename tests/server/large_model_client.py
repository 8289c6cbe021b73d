"""A device's process that fetches a large model and sends a large update, and counts its memory.

python large_model_client.py FOLDER ADDRESS   # root.pem, tls.key, tls.pem, signing.key in it
"""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedclient.connection import Connection
from fedclient.identity import Tls
from fedclient.stopping import Stop
from fedclient.transfer import download, upload
from fedcore.v1 import client_service_pb2, round_service_pb2
from fedcore.v1.common_pb2 import Envelope
from fedcore.wire.envelope import Place, seal
from fedcore.wire.versions import installed_version

_PIECE = 1 << 20


def main(folder: Path, address: str) -> None:
    stop = Stop()
    key, chain = (folder / "tls.key").read_bytes(), (folder / "tls.pem").read_bytes()
    tls = Tls(key, chain, begins=0, ends=2**40)
    signing = Ed25519PrivateKey.from_private_bytes((folder / "signing.key").read_bytes())
    connection = Connection(address, root=(folder / "root.pem").read_bytes(), tls=tls)
    part = _assigned(connection, stop)
    train = _order(connection, part, stop)
    before = _resident("VmRSS")
    path = download(
        connection,
        train.model_digest,
        size=train.model_bytes,
        folder=folder / "models",
        stop=stop,
        moved=lambda moved, whole: None,
    )
    _say(downloaded=path.stat().st_size, growth=_resident("VmHWM") - before)
    sys.stdin.readline()  # until the server's memory was looked at
    place = Place(part.round.task_id, part.round.round, part.round.attempt, part.nonce)

    def sealed(payload: bytes) -> Envelope:
        key = signing.public_key().public_bytes_raw()
        return seal(payload, method="UploadService.Commit", place=place, sign=signing.sign, key=key)

    def source() -> Iterator[tuple[int, bytes]]:
        for offset in range(0, train.update_bytes, _PIECE):
            yield offset, bytes(min(_PIECE, train.update_bytes - offset))

    upload(
        connection,
        part.assignment_id,
        size=train.update_bytes,
        header=b"",
        source=source,
        seal=sealed,
        stop=stop,
        moved=lambda moved, whole: None,
    )
    _say(uploaded=train.update_bytes, growth=_resident("VmHWM") - before)
    connection.close()


def _assigned(connection: Connection, stop: Stop) -> client_service_pb2.Assignment:
    while True:
        ask = client_service_pb2.CheckInRequest(
            request_id=secrets.token_bytes(16),
            sdk_version=installed_version(),
            programs=["bench"],
            datasets=["toy"],
        )
        answer = connection.call(connection.clients.CheckIn, ask, stop=stop)
        if answer.HasField("assignment"):
            return answer.assignment


def _order(
    connection: Connection, part: client_service_pb2.Assignment, stop: Stop
) -> round_service_pb2.Train:
    seen = 0
    while True:
        ask = round_service_pb2.NextRequest(
            assignment_id=part.assignment_id, seen=seen, wait_ms=10_000
        )
        found = connection.call(connection.rounds.Next, ask, stop=stop)
        if found.HasField("train"):
            return found.train
        seen = found.number


def _resident(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    raise AssertionError(key)


def _say(**values: int) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
