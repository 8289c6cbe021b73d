"""Every RPC of the protocol on a real server without a network: from a request's bytes on.

The descriptors say which RPCs there are, and the permissions who may call them, so that a new one
is called like all others. Behind them stand the real services, federation and store; what is left
out is TLS, the signature that only the caller can make, which is made here, and pacing.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from fedcore.errors import FedcoreError, ServerError
from fedcore.federated.task import Task
from fedcore.v1 import admin_service_pb2, common_pb2
from fedcore.wire.envelope import TASK, Place, seal, signed_bytes
from fedcore.wire.failures import FAILURE_KEY
from fedcore.wire.versions import installed_version
from fedserver.admission import Admission, LoopLag
from fedserver.audit_heads import AuditHeads
from fedserver.authentication import Authenticator
from fedserver.authorisation import ANYONE, CLIENT, PERMISSIONS, Caller, Permission
from fedserver.authority import Authority
from fedserver.enrolment import Enrolment
from fedserver.federation.interface import Assigned, CheckIn, Submission
from fedserver.services.admin import AdminService, Invitation
from fedserver.services.assignment import RoundService, SecAggService
from fedserver.services.client import ClientService
from fedserver.services.enrolment import EnrolmentService
from fedserver.services.overview import About
from fedserver.services.transfer import ModelService, ModelUploadService, UploadService
from fedserver.serving import SERVICES, Gate, Service, methods_of
from fedserver.store.records import Idempotency
from tests.fuzz.judge import Finding, Target
from tests.server.federation.device import Device
from tests.server.federation.world import World, task_of

__all__ = ["NAMES", "PLAIN", "RPCS", "Calls", "Rpc", "selecting"]

# What stands in a seed for something that a server draws anew each time, and is as long.
NAMES: Mapping[str, bytes] = {
    "assignment": b"[an assignment.]",
    "masked_assignment": b"[one masked too]",
    "upload": b"[an open upload]",
    "model": b"[digest of the model it began..]",
    "server": b"[the server now]",
}
PLAIN = task_of(clients=3, secure="", deadline_s=3600, heartbeat_s=3600)
_MASKED = task_of(clients=3, seed=4, deadline_s=3600, heartbeat_s=3600)
_HELD_S = 0.005  # how long a call may be held until something happens
_VERSION = installed_version()
_SPARE_BYTES = 8 << 20  # a life begins, and a driver works meanwhile
_STATUSES_OF_FAULTS = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)


@dataclass(frozen=True)
class Rpc:
    """An RPC, and who may call it."""

    service: str
    method: str
    permission: Permission
    request: type[Message]

    @property
    def name(self) -> str:
        return f"{self.service}.{self.method}"

    @property
    def path(self) -> str:
        return f"/{SERVICES[self.service].full_name}/{self.method}"


RPCS: list[Rpc] = sorted(
    (
        Rpc(
            name,
            method.name,
            PERMISSIONS[f"/{descriptor.full_name}/{method.name}"],
            GetMessageClass(method.input_type),
        )
        for name, descriptor in SERVICES.items()
        for method in descriptor.methods
    ),
    key=lambda rpc: rpc.name,
)


def selecting(rpc: Rpc, data: bytes, *, sealed: bool = False) -> bytes:
    """The input of `Calls.target` that calls an RPC with these bytes."""
    return bytes((RPCS.index(rpc), 0xFF * sealed)) + data


@dataclass
class _Context:
    """As much of gRPC's context as a handler asks for."""

    caller: Caller
    message: bytes
    status: grpc.StatusCode | None = None
    details: str = ""

    async def read(self) -> bytes:
        return self.message

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    def time_remaining(self) -> float:
        return 60.0

    def peer(self) -> str:
        return "ipv4:127.0.0.1:50000"

    def set_code(self, status: grpc.StatusCode) -> None:
        self.status = status

    def set_details(self, details: str) -> None:
        self.details = details

    def set_trailing_metadata(self, metadata: tuple[tuple[str, Any], ...]) -> None:
        [raw] = [value for key, value in metadata if key == FAILURE_KEY]
        failure = common_pb2.Failure.FromString(raw)
        if self.status in _STATUSES_OF_FAULTS or failure.code == ServerError.code:
            raise Finding(f"the server failed: {self.details}")  # the error itself is its context


@dataclass
class _Served:
    """A running federation: its services, and the bytes for which the names in seeds stand."""

    world: World
    services: dict[str, Service]
    handlers: dict[str, Any]
    names: dict[bytes, bytes] = field(default_factory=dict)


class Calls:
    """A server for many calls; it begins anew before it is full of what they left behind."""

    def __init__(self, *, calls_a_life: int = 2000) -> None:
        self._runner = asyncio.Runner()
        self._calls_a_life, self._left = calls_a_life, 0
        self._served: _Served | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def close(self) -> None:
        if self._served is not None:
            self._runner.run(self._served.world.stop())
            self._served = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def end(self) -> None:
        self.close()
        self._runner.close()

    def target(self) -> Target:
        """All RPCs as one target; `selecting` gives a request the form that it takes."""
        return Target("rpcs", lambda data: self.take(*_selected(data)), _SPARE_BYTES)

    def take(self, rpc: Rpc, data: bytes, sealed: bool = False) -> None:
        """Calls with a request's bytes; `sealed`: they are the payload, and are signed first."""
        if self._left <= 0 or self._served is None:
            self.close()
            self._folder = tempfile.TemporaryDirectory(dir=_memory())
            self._served = self._runner.run(_serving(Path(self._folder.name)))
            self._left = self._calls_a_life
        self._left -= 1
        for name, value in self._served.names.items():
            data = data.replace(name, value)
        self._runner.run(self._call(self._served, rpc, data, sealed))

    async def _call(self, served: _Served, rpc: Rpc, data: bytes, sealed: bool) -> None:
        caller = _caller_of(rpc.permission, served.world)
        if sealed:
            data = await _sealed(served, rpc, caller, data)
        answering = served.handlers[rpc.path](None, _Context(caller, data))
        if not rpc.permission.waits:
            await answering
            return
        with contextlib.suppress(TimeoutError):  # whoever calls has gone away
            await asyncio.wait_for(answering, _HELD_S)


async def _serving(folder: Path) -> _Served:
    now = int(time.time())
    authority = Authority.create(folder / "ca", trust_domain="fl.test", now=now)
    world = World(folder, PLAIN, clients=3)
    await world.start()
    await world.enrol()
    first = await world.submit()
    parts = await _assigned(world, first.task_id)
    masked = await _assigned(world, await _submitted(world, _MASKED))
    assert world.federation is not None
    caller = world.devices[0].caller
    size = PLAIN.layout.upload_bytes
    upload = await world.federation.begin_upload(caller, parts[0], size=size, header=None)
    store, federation = world.store, world.federation
    identity = await store.server_identity()
    heads = AuditHeads(store, folder / "heads", signer=b"s" * 32)
    enrolment = Enrolment(
        store,
        authority,
        registrar=authority.registrar,
        address="localhost:1",
        server_id=identity.server_id,
        version=_VERSION,
    )

    async def drained() -> None:
        """The server goes on, or nothing would be left to call."""

    services: dict[str, Service] = {
        "AdminService": AdminService(
            store,
            federation,
            Authenticator(store, authority, now_ms=_now_ms),
            about=About(identity.server_id, _VERSION, 1, "sqlite"),
            invitation=Invitation("localhost:1", authority.root_digest),
            now_ms=_now_ms,
            draining=lambda: False,
            drain=drained,
            audit=heads,
        ),
        "ClientService": ClientService(federation, enrolment, version=_VERSION, now_ms=_now_ms),
        "EnrolmentService": EnrolmentService(enrolment),
        "ModelService": ModelService(federation),
        "ModelUploadService": ModelUploadService(federation),
        "RoundService": RoundService(federation, now_ms=_now_ms),
        "SecAggService": SecAggService(federation),
        "UploadService": UploadService(federation),
    }

    async def identify(context: Any) -> Caller:
        found: Caller = context.caller
        return found

    lag = LoopLag()
    admission = Admission(now_s=time.monotonic, lag=lag, disk_free=lambda: 1.0, rate=1e9, burst=1e9)
    gate = Gate.of(
        admission=admission,
        identify=identify,
        audit=store.append_audit,
        metrics=world.metrics,
    )
    handlers = {}
    for rpc in RPCS:
        methods = methods_of(services[rpc.service], rpc.service, gate=gate)
        handlers[rpc.path] = methods[rpc.path.rpartition("/")[2]].stream_unary
    names = {
        NAMES["assignment"]: parts[0],
        NAMES["masked_assignment"]: masked[0],
        NAMES["upload"]: upload.upload_id,
        NAMES["model"]: first.model_digest,
        NAMES["server"]: identity.server_id,
    }
    return _Served(world, services, handlers, names)


async def _submitted(world: World, task: Task) -> str:
    """The id of another task, which is handed in as well."""
    assert world.federation is not None
    signature = world.author.sign(signed_bytes(task.canonical, method=TASK, place=Place()))
    once = Idempotency(world.user.principal, "SubmitTask", b"another request.", bytes(32))
    submission = Submission(task.canonical, signature, b"")
    return (await world.federation.submit(world.user, submission, once=once)).task_id


async def _assigned(world: World, task_id: str) -> list[bytes]:
    """The assignments of all devices in a task's first round."""

    async def one(device: Device) -> bytes:
        request_id = hashlib.sha256(task_id.encode()).digest()[:16]
        none = frozenset[str]()
        ask = CheckIn(request_id, task_id, "1", none, frozenset({"toy"}), none)
        assert world.federation is not None
        answer = await world.federation.check_in(device.caller, ask)
        assert isinstance(answer, Assigned), answer
        return answer.assignment_id

    return list(await asyncio.gather(*map(one, world.devices)))


def _caller_of(permission: Permission, world: World) -> Caller:
    if permission.roles == ANYONE:
        return Caller("anonymous", address="ipv4:127.0.0.1")
    if permission.roles & CLIENT:
        return world.devices[0].caller
    user = world.user
    return Caller(
        "user",
        name=user.name,
        tenant=user.tenant,
        role="admin",
        identity_key=user.identity_key,
    )


async def _sealed(served: _Served, rpc: Rpc, caller: Caller, data: bytes) -> bytes:
    """A request whose envelope holds these bytes, signed by the caller for where they belong."""
    service, world = served.services[rpc.service], served.world
    identity = world.author if caller.kind == "user" else world.devices[0].identity
    place = Place()
    with contextlib.suppress(DecodeError, FedcoreError):
        payload = service.payloads[rpc.method].FromString(data)
        place = await service.place(caller, payload)
        if isinstance(payload, admin_service_pb2.Submission):
            signed = signed_bytes(payload.task, method=TASK, place=Place())
            payload.signature = identity.sign(signed)
            data = payload.SerializeToString()
    request = rpc.request()
    envelope = seal(data, method=rpc.name, place=place, sign=identity.sign, key=caller.identity_key)
    getattr(request, rpc.permission.envelope).CopyFrom(envelope)
    return request.SerializeToString()


def _selected(data: bytes) -> tuple[Rpc, bytes, bool]:
    """Which RPC a campaign's input calls: its first byte counts them, its second is for sealing."""
    rpc = RPCS[data[0] % len(RPCS)] if data else RPCS[0]
    return rpc, data[2:], bool(rpc.permission.envelope and data[1:2] > b"\x7f")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
