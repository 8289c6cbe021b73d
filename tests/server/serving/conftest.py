"""A server on loopback ports with a real store and authority, a federation of canned answers, and
callers with certificates of every sort."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedcore.errors import NotFoundError
from fedcore.v1 import common_pb2
from fedcore.wire.envelope import Place, seal
from fedserver.app import Addresses, Server
from fedserver.audit_heads import AuditHeads
from fedserver.authority import Authority
from fedserver.authority_acts import AuthorityActs
from fedserver.certificate_lists import CertificateLists
from fedserver.config import Config
from fedserver.federation import interface
from fedserver.metrics import Metrics
from fedserver.parts import Parts
from fedserver.store.records import (
    CertificateRecord,
    ClientRecord,
    ModelRecord,
    RoundRef,
    TaskRecord,
    TokenRecord,
)
from fedserver.store.sqlite.store import SqliteStore
from tests.server.databases import opened
from tests.server.serving.places import place as place

REF = RoundRef("digits-1", 3, 1)
PLACE = Place(task_id="digits-1", round=3, attempt=1, nonce=b"n" * 32)
MODEL = hashlib.sha256(b"model").digest()
TIMEOUT_S = 10


class CannedFederation:
    """Answers as a federation would that knows one assignment, one upload and one model.

    All of them belong to the client `owner`; the task belongs to the tenant "default".
    """

    def __init__(self, owner: bytes) -> None:
        self.owner = owner
        self.calls: list[tuple[str, Any]] = []
        self.draining = self.stopped = False
        self.drained = asyncio.Event()
        self.raises: BaseException | None = None
        self.block: Callable[[], Any] | None = None
        self.submitted: dict[bytes, bytes] = {}

    async def _note(self, name: str, *values: Any) -> None:
        self.calls.append((name, values))
        if self.block is not None:
            await self.block()
        if self.raises is not None:
            raise self.raises

    def _own(self, caller: Any) -> None:
        if caller.kind == "client" and caller.id != self.owner:
            raise NotFoundError("there is no such assignment", why="it is not the caller's")

    def _seen(self, caller: Any) -> None:
        if caller.tenant != "default":
            raise NotFoundError("there is no such thing", why="it is another tenant's")

    async def check_in(self, caller: Any, ask: Any) -> Any:
        await self._note("check_in", caller, ask)
        if self.draining:
            return interface.RetryLater(1000, 2000)
        return interface.Assigned(b"a" * 16, REF, b"d" * 32, PLACE.nonce, 30_000, 1_000)

    async def heartbeat(self, caller: Any, assignment_id: bytes, *, progress: int) -> Any:
        await self._note("heartbeat", assignment_id, progress)
        self._own(caller)
        return interface.Beat(cancel=False, deadline_ms=5)

    async def next(self, caller: Any, assignment_id: bytes, *, seen: int, wait_s: float) -> Any:
        await self._note("next", assignment_id, seen, wait_s)
        self._own(caller)
        return interface.Instruction(seen + 1, 7, interface.Train(MODEL, 10, 20, b"{}", True))

    async def place(
        self, caller: Any, *, assignment_id: bytes = b"", upload_id: bytes = b""
    ) -> Place:
        await self._note("place", assignment_id, upload_id)
        self._own(caller)
        return PLACE

    async def secagg(self, caller: Any, assignment_id: bytes, message: Any) -> None:
        await self._note("secagg", assignment_id, message)

    async def begin_upload(self, caller: Any, assignment_id: bytes, **options: Any) -> Any:
        await self._note("begin_upload", assignment_id, options)
        self._own(caller)
        return interface.UploadProgress(b"u" * 16, 5)

    async def put_chunk(self, caller: Any, upload_id: bytes, **options: Any) -> int:
        await self._note("put_chunk", upload_id, options)
        self._own(caller)
        return int(options["offset"]) + len(options["data"])

    async def commit_upload(self, caller: Any, upload_id: bytes, **options: Any) -> None:
        await self._note("commit_upload", upload_id, options)

    async def begin_model(self, caller: Any, sha256: bytes, *, size: int) -> Any:
        await self._note("begin_model", sha256, size)
        return interface.ModelProgress(7)

    async def put_model_chunk(self, caller: Any, sha256: bytes, **options: Any) -> int:
        await self._note("put_model_chunk", sha256, options)
        self._seen(caller)
        return int(options["offset"]) + len(options["data"])

    async def commit_model(self, caller: Any, sha256: bytes, *, size: int) -> None:
        await self._note("commit_model", sha256, size)
        self._seen(caller)

    async def report(self, caller: Any, report: Any) -> None:
        await self._note("report", report)

    async def task(self, caller: Any, task_id: str) -> Any:
        await self._note("task", task_id)
        self._own(caller)
        return interface.SignedTask(b"{}", b"k" * 32, b"s" * 64)

    async def model(self, caller: Any, digest: bytes) -> Any:
        await self._note("model", digest)
        self._own(caller)
        self._seen(caller)
        return interface.ModelDescription(5, "digits-1", 3, b"")

    async def model_chunk(self, caller: Any, digest: bytes, *, offset: int, length: int) -> Any:
        await self._note("model_chunk", digest, offset, length)
        self._own(caller)
        self._seen(caller)
        return interface.ModelChunk(b"model"[offset : offset + length], 5)

    async def submit(self, caller: Any, submission: Any, *, once: Any) -> Any:
        await self._note("submit", submission, once)
        return interface.SubmittedTask("digits-1", MODEL)

    async def cancel(self, caller: Any, task_id: str, *, reason: str, once: Any) -> None:
        await self._note("cancel", task_id, reason, once)
        self._seen(caller)

    async def spent(self, caller: Any, task_id: str) -> Any:
        await self._note("spent", task_id)
        return interface.Spent(1.5, 3.0, {3: 1.5})

    async def certificate(self, caller: Any, task_id: str) -> bytes:
        await self._note("certificate", task_id)
        return b'{"epsilon": 1.5}'

    async def show_round(self, caller: Any, ref: RoundRef) -> Any:
        await self._note("show_round", ref)
        return interface.RoundWaits("waits for uploads", (self.owner,))

    async def changed(self, caller: Any, task_id: str, *, after: int, wait_s: float) -> None:
        await self._note("changed", task_id, after, wait_s)

    async def collect(self) -> None:
        """Housekeeping, which nobody calls from outside."""

    async def drain(self) -> None:
        self.draining = True
        self.drained.set()

    async def stop(self) -> None:
        self.stopped = True


@dataclass(frozen=True)
class Holder:
    """Who holds a certificate: what to show at a handshake, and what to sign with."""

    key_pem: bytes
    chain_pem: bytes
    identity: Ed25519PrivateKey
    id: bytes = b""
    fingerprint: bytes = b""

    @property
    def identity_key(self) -> bytes:
        return self.identity.public_key().public_bytes_raw()

    def seal(self, payload: Any, method: str, place: Place) -> common_pb2.Envelope:
        return seal(
            payload.SerializeToString(),
            method=method,
            place=place,
            sign=self.identity.sign,
            key=self.identity_key,
        )


@dataclass
class World:
    """An authority, a store and a server before them."""

    authority: Authority
    store: SqliteStore
    federation: CannedFederation
    server: Server
    addresses: Addresses
    server_id: bytes
    metrics: Metrics
    heads: AuditHeads
    place: Place = PLACE
    model: bytes = MODEL
    _channels: dict[Any, grpc.aio.Channel] = field(default_factory=dict)

    async def client(
        self,
        *,
        client_id: bytes,
        tenant: str = "default",
        enrolled: bool = True,
        age_s: int = 0,
        authority: Authority | None = None,
        certified_tenant: str | None = None,
    ) -> Holder:
        """A client that holds a certificate, and by default a row in the store."""
        issuer, key, identity = authority or self.authority, new_key(), new_identity()
        issued = issuer.issue_client(
            key.public_key(),
            client_id=client_id,
            tenant=certified_tenant or tenant,
            now=int(time.time()) - age_s,
        )
        if enrolled:
            token_sha256 = hashlib.sha256(client_id).digest()
            await self.store.create_token(
                TokenRecord(token_sha256, tenant, 1, int(time.time() * 1000) + 60_000)
            )
            await self.store.enrol(
                token_sha256,
                ClientRecord(client_id, tenant, raw(identity), f"spiffe://{client_id.hex()}"),
                CertificateRecord(
                    issued.serial, issued.fingerprint, client_id, issued.not_after * 1000
                ),
                key_hash=hashlib.sha256(b"key" + client_id).digest(),
                reply=b"",
            )
        return Holder(pem_of(key), chain_of(issued.chain), identity, client_id, issued.fingerprint)

    def user(
        self,
        role: str,
        *,
        tenant: str = "default",
        name: str = "ada",
        authority: Authority | None = None,
        age_s: int = 0,
    ) -> Holder:
        """A user with a role."""
        key, identity = new_key(), new_identity()
        issued = (authority or self.authority).issue_user(
            key.public_key(),
            name=name,
            tenant=tenant,
            role=role,
            identity_key=raw(identity),
            now=int(time.time()) - age_s,
        )
        return Holder(pem_of(key), chain_of(issued.chain), identity, fingerprint=issued.fingerprint)

    def channel(self, holder: Holder | None, *, enrolment: bool = False) -> grpc.aio.Channel:
        """A connection with this certificate, or with none."""
        which = (holder.fingerprint if holder else b"", enrolment)
        if which not in self._channels:
            target = self.addresses.enrolment if enrolment else self.addresses.service
            self._channels[which] = self.connection(holder, target)
        return self._channels[which]

    def connection(self, holder: Holder | None, target: str) -> grpc.aio.Channel:
        """A connection to this host:port, for its caller to close."""
        credentials = grpc.ssl_channel_credentials(
            self.authority.root_pem,
            holder.key_pem if holder else None,
            holder.chain_pem if holder else None,
        )
        return grpc.aio.secure_channel(target, credentials, options=(("grpc.enable_retries", 0),))

    async def call(
        self,
        holder: Holder | None,
        method: str,
        request: Any,
        *,
        enrolment: bool = False,
        limit_s: float | None = TIMEOUT_S,
    ) -> tuple[grpc.StatusCode, bytes, Any]:
        """The status, the answer's bytes, and the failure's trailing metadata of a raw call."""
        data = request if isinstance(request, bytes) else request.SerializeToString()
        rpc = self.channel(holder, enrolment=enrolment).unary_unary(method)(data, timeout=limit_s)
        try:
            return grpc.StatusCode.OK, await rpc, None
        except grpc.aio.AioRpcError as error:
            return error.code(), b"", error

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()
        await self.server.stop()
        await self.store.close()


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def new_identity() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


def raw(identity: Ed25519PrivateKey) -> bytes:
    return identity.public_key().public_bytes_raw()


def pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def chain_of(chain: Any) -> bytes:
    return b"".join(
        x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)
        for der in chain
    )


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(
        tmp_path_factory.mktemp("authority") / "ca", trust_domain="fl.test", now=int(time.time())
    )


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Another federation's authority, of the same name."""
    return Authority.create(
        tmp_path_factory.mktemp("stranger") / "ca", trust_domain="fl.test", now=int(time.time())
    )


def settings(directory: Path, **sections: Any) -> Config:
    server = {"port": 0, "enrolment_port": 0, "ops_port": 0, "notice_s": 0, "drain_s": 5}
    server |= {"state_directory": str(directory), "hosts": ["localhost"], "host": "127.0.0.1"}
    limits = {"calls_per_second": 1e6, "calls_at_once": 1_000_000, "disk_free": 0.0}
    return Config.of(
        {
            "server": server | sections.get("server", {}),
            "limits": limits | sections.get("limits", {}),
        }
    )


@asynccontextmanager
async def a_world(directory: Path, authority: Authority, **sections: Any) -> AsyncIterator[World]:
    metrics, database = Metrics(), directory / "fed.db"
    store = await opened(database, keys=[b"k" * 32])
    federation = CannedFederation(owner=b"c" * 16)
    heads = AuditHeads(store, directory / "head", signer=b"s" * 32)
    # Of lists of its own: all worlds share the authority, and no log has what others issued.
    acts = AuthorityActs(store, CertificateLists(directory), database)
    parts = Parts(store, authority, federation, metrics, heads, acts)
    server = Server(settings(directory, **sections), parts)
    try:
        addresses = await server.start()
    except BaseException:
        await store.close()
        raise
    server_id = (await store.server_identity()).server_id
    world = World(authority, store, federation, server, addresses, server_id, metrics, heads)
    await store.add_task(
        TaskRecord(
            "digits-1", "default", "digits", b"{}", b"d" * 32, b"k" * 32, b"s" * 64, 5, "user:ada"
        ),
        ModelRecord(MODEL, "digits-1", b"", 0, 5),
    )
    lease = await store.acquire_lease("digits-1", "test", 60_000)
    assert lease is not None
    await store.open_round(
        REF,
        phase="PENDING",
        state={"lost": {"00": ["SHARES", "late"], "01": ["SHARES", "late"]}},
        base_model=MODEL,
        deadline_ms=None,
        lease_token=lease.token,
    )
    try:
        yield world
    finally:
        await world.close()


@pytest.fixture
async def world(tmp_path: Path, authority: Authority) -> AsyncIterator[World]:
    async with a_world(tmp_path, authority) as made:
        yield made


@pytest.fixture
def make_world(tmp_path: Path, authority: Authority) -> Iterator[Any]:
    """A world with other settings: `async with make_world(limits={...}) as world`."""

    def made(**sections: Any) -> Any:
        return a_world(tmp_path, authority, **sections)

    yield made


@pytest.fixture
def certified() -> Callable[[Authority, bytes], tuple[bytes, bytes]]:
    """A client's certificate in PEM, and its fingerprint."""

    def made(issuer: Authority, client_id: bytes) -> tuple[bytes, bytes]:
        issued = issuer.issue_client(
            new_key().public_key(), client_id=client_id, tenant="default", now=int(time.time())
        )
        return chain_of(issued.chain[:1]), issued.fingerprint

    return made


@pytest.fixture(scope="session")
def canned() -> type[CannedFederation]:
    """The federation of canned answers, to be made with the id of the client that owns all."""
    return CannedFederation
