"""A server as an operator has it, with clients and a task, so that only what is measured is left.

The authority, the database and the ledger are made by the server's own parts before its process
starts: to enrol some hundred clients over the network would take longer than to measure them.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.federation.processes import FED, Process, started
from fedclient.identity import Tls, authority_pem, signing_request
from fedcore.federated.task import Task
from fedcore.secagg import Identity
from fedcore.secagg.identity import Certificate
from fedcore.v1 import enrolment_service_pb2
from fedcore.wire.envelope import TASK, Place, proof_statement, seal, signed_bytes
from fedcore.wire.versions import installed_version
from fedserver.authorisation import Caller
from fedserver.config import Config, load
from fedserver.enrolment import Enrolment
from fedserver.federation.interface import Submission
from fedserver.opening import opened
from fedserver.parts import Parts
from fedserver.store.records import Idempotency, TokenRecord

__all__ = ["Device", "Stage"]

_TENANT = "default"
_TOKEN = bytes(range(32))
_FAR_MS = 2**50
_SETTINGS = """\
[server]
port = 0
enrolment_port = 0
ops_port = 0
hosts = ["localhost"]
state_directory = "state"
notice_s = 0
drain_s = 1

[authority]
directory = "authority"

[limits]
disk_free = 0.0
calls_per_second = 1000
calls_at_once = 1000

[rounds]
most_attempts = 1000

[logging]
level = "warning"
"""


@dataclass(frozen=True, slots=True)
class Device:
    """An enrolled client: what identifies its connections, and the key that signs its messages.

    `certificate`: of that key.
    """

    id: bytes
    tls: Tls
    signing: Ed25519PrivateKey = field(repr=False)
    certificate: Certificate

    @property
    def identity(self) -> Identity:
        """By which it is known in secure aggregation."""
        return Identity.restore(self.signing.private_bytes_raw(), self.certificate)

    def signed(self, payload: bytes, *, method: str, place: Place) -> Any:
        """The envelope over a payload of this client."""
        key = self.signing.public_key().public_bytes_raw()
        return seal(payload, method=method, place=place, sign=self.signing.sign, key=key)


class Stage:
    """A folder with all that a server needs, `clients` that are enrolled and a task that runs.

    `model`: the first model's file, of a task whose model is plain arrays.
    """

    def __init__(self, folder: Path, *, clients: int, task: Task, model: bytes = b"") -> None:
        self.folder, self.task = folder, task
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "server.toml").write_text(_SETTINGS, "utf-8")
        domain, host = ("--trust-domain", "bench.example"), ("--host", "localhost")
        command = [*FED, "ca", "init", *domain, *host, "--directory", "authority"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        self.devices: Sequence[Device] = ()
        asyncio.run(self._prepare(clients, model))

    @contextmanager
    def serving(self, *, cores: frozenset[int] | None = None) -> Iterator[Process]:
        """The server's process, which tells its `Process.address` and `ops`; else as `started`."""
        command = ["server", "start", "--config", "server.toml", "--format", "jsonl"]
        with started([*FED, *command], folder=self.folder, cores=cores) as process:
            found = json.loads(process.line())["data"]
            process.address, process.ops = found["service"], int(found["ops"])
            yield process

    @property
    def root(self) -> bytes:
        """The authority's certificate, PEM."""
        return authority_pem(self._root)

    def config(self) -> Config:
        """The settings of the server, with paths that hold anywhere."""
        found = load(self.folder / "server.toml")
        server = found.server.model_copy(update={"state_directory": self.folder / "state"})
        keys = found.authority.model_copy(update={"directory": self.folder / "authority"})
        return found.model_copy(update={"server": server, "authority": keys})

    async def _prepare(self, clients: int, model: bytes) -> None:
        async with opened(self.config()) as parts:
            self._root = parts.authority.root
            self.registrar = parts.authority.registrar.public_key
            identity = await parts.store.server_identity()
            token = TokenRecord(hashlib.sha256(_TOKEN).digest(), _TENANT, clients, _FAR_MS)
            await parts.store.create_token(token)
            enrolment = Enrolment(
                parts.store,
                parts.authority,
                registrar=parts.authority.registrar,
                address="localhost:1",
                server_id=identity.server_id,
                version=installed_version(),
            )
            enrolled = (_enrolled(enrolment, self._root, index) for index in range(clients))
            self.devices = await asyncio.gather(*enrolled)
            await _submit(parts, self.task, model)
            await parts.federation.stop()


async def _enrolled(enrolment: Enrolment, root: bytes, index: int) -> Device:
    key, signing = ec.generate_private_key(ec.SECP256R1()), Ed25519PrivateKey.generate()
    asked = signing_request(key)
    request = enrolment_service_pb2.EnrolRequest(
        signing_request=asked,
        token=_TOKEN,
        identity_key=signing.public_key().public_bytes_raw(),
        identity_proof=signing.sign(proof_statement(asked, root)),
        sdk_version=installed_version(),
    )
    answer = await enrolment.enrol(request, peer=f"bench-{index}")
    tls = Tls.certified(key, list(answer.certificate_chain))
    return Device(answer.client_id, tls, signing, Certificate.decode(answer.identity_certificate))


async def _submit(parts: Parts, task: Task, model: bytes) -> None:
    author = Ed25519PrivateKey.generate()
    caller = Caller(
        "user",
        name="bench",
        tenant=_TENANT,
        role="researcher",
        identity_key=author.public_key().public_bytes_raw(),
    )
    signature = author.sign(signed_bytes(task.canonical, method=TASK, place=Place()))
    once = Idempotency(caller.principal, "SubmitTask", bytes(16), bytes(32), b"")
    submission = Submission(task.canonical, signature, model)
    await parts.federation.submit(caller, submission, once=once)
