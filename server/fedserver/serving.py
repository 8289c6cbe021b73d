"""How a service becomes RPCs: every one behind the same gate, none without a permission.

A gRPC interceptor sees neither the peer's certificate nor the message, so the gate stands in the
handler: room, who calls, what that role may do, a deadline, the message itself, its signature. Each
step raises; only what passed all of them reaches the service, as `(caller, request)`. A signed
request arrives as its payload. Nothing that an error says of the server's inside leaves it.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import grpc
import structlog
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from fedcore.errors import (
    EnvelopeError,
    FedcoreError,
    ForbiddenError,
    InvalidRequestError,
    OverloadedError,
    ServerError,
    StoreError,
    UnauthenticatedError,
)
from fedcore.v1 import (
    admin_service_pb2,
    client_service_pb2,
    enrolment_service_pb2,
    model_service_pb2,
    model_upload_service_pb2,
    round_service_pb2,
    secagg_service_pb2,
    upload_service_pb2,
)
from fedcore.wire.channels import METADATA_BYTES
from fedcore.wire.envelope import Place, opened
from fedcore.wire.failures import failure_of, metadata_of, status_of
from fedserver.admission import Admission, Rates, refused
from fedserver.authorisation import Caller, Permission, authorise, permission_of
from fedserver.calls import Context, Methods, message_of, peer_address
from fedserver.disk import finished
from fedserver.federation.interface import ElsewhereError
from fedserver.metrics import Metrics
from fedserver.networks import network_of
from fedserver.passing import Passing, RelayedError
from fedserver.store.records import AuditEntry

__all__ = ["SERVICES", "Gate", "Service", "methods_of"]

_FILES = (
    admin_service_pb2,
    client_service_pb2,
    enrolment_service_pb2,
    model_service_pb2,
    model_upload_service_pb2,
    round_service_pb2,
    secagg_service_pb2,
    upload_service_pb2,
)
SERVICES: Mapping[str, ServiceDescriptor] = {
    service.name: service
    for file in _FILES
    for service in file.DESCRIPTOR.services_by_name.values()
}

# Who is refused again and again is counted in the metrics; the audit log need not be filled by it.
_AUDITED_A_SECOND, _AUDITED_AT_ONCE = 0.1, 20

Method: TypeAlias = Callable[[Caller, Any], Awaitable[Message]]


class Service(Protocol):
    """An implementation of a service: besides this, one method of the RPC's name for each RPC.

    `async def CheckIn(self, caller: Caller, request) -> response`.
    """

    @property
    def payloads(self) -> Mapping[str, type[Message]]:
        """What the envelope of each signed RPC holds, by the RPC's name."""

    async def place(self, caller: Caller, payload: Any, /) -> Place:
        """Where a payload, whose signature is not checked yet, says that it belongs.

        Raises: NotFoundError unless that is the caller's.
        """


@dataclass(frozen=True, slots=True)
class Gate:
    """What stands before every RPC of a port.

    `identify`: who calls, or UnauthenticatedError. `audit`: writes a refusal into the audit log.
    `passing`: the way to other servers, None where there are none.
    """

    admission: Admission
    identify: Callable[[Context], Awaitable[Caller]]
    audit: Callable[[AuditEntry], Coroutine[Any, Any, object]]
    metrics: Metrics
    audited: Rates
    passing: Passing | None = None
    now_s: Callable[[], float] = time.monotonic

    @classmethod
    def of(
        cls,
        *,
        admission: Admission,
        identify: Callable[[Context], Awaitable[Caller]],
        audit: Callable[[AuditEntry], Coroutine[Any, Any, object]],
        metrics: Metrics,
        passing: Passing | None = None,
    ) -> Gate:
        """A gate that writes at most 20 refusals of a caller at once, then one in 10 seconds."""
        rates = Rates(rate=_AUDITED_A_SECOND, burst=_AUDITED_AT_ONCE)
        return cls(admission, identify, audit, metrics, rates, passing)


def methods_of(service: Service, name: str, *, gate: Gate) -> Methods:
    """The RPCs of `service`, which implements the service `name`.

    Raises: ServerError for an RPC that has no permission or no method, or whose payload is unknown.
    """
    return {
        method.name: grpc.stream_unary_rpc_method_handler(_Endpoint(service, method, gate).serve)
        for method in SERVICES[name].methods
    }


class _Endpoint:
    """One RPC."""

    def __init__(self, service: Service, method: MethodDescriptor, gate: Gate) -> None:
        service_name = method.containing_service
        self._path = f"/{service_name.full_name}/{method.name}"
        self._signed = f"{service_name.name}.{method.name}"
        self._name, self._service, self._gate = method.name, service, gate
        self._permission: Permission = permission_of(self._path)
        self._request = GetMessageClass(method.input_type)
        self._method: Method = self._implementation()
        self._payload = self._payload_type(method)

    async def serve(self, _: object, context: Context) -> bytes:
        """Answers, or ends the RPC with a status and a `Failure`."""
        start_s, reference = time.perf_counter(), secrets.token_hex(8)
        with structlog.contextvars.bound_contextvars(request_id=reference, method=self._signed):
            try:
                answer = await self._answer(context)
                self._count(grpc.StatusCode.OK, start_s)
                return answer
            except asyncio.CancelledError:
                self._count(grpc.StatusCode.CANCELLED, start_s)
                raise
            except RelayedError as relayed:
                self._count(relayed.status, start_s)
                return _ended(context, relayed.status, relayed.details, relayed.metadata)
            except Exception as error:
                self._count(status_of(error), start_s)
                details = await self._told(error, context, reference)
                return _ended(context, status_of(error), details, metadata_of(error))
            finally:
                structlog.contextvars.unbind_contextvars("task", "round", "attempt", "client")

    def _count(self, status: grpc.StatusCode, start_s: float) -> None:
        metrics = self._gate.metrics
        metrics.rpcs.labels(self._signed, status.name).inc()
        metrics.rpc_seconds.labels(self._signed).observe(time.perf_counter() - start_s)

    async def _answer(self, context: Context) -> bytes:
        permission, admission = self._permission, self._gate.admission
        _check_metadata(context)
        admission.check_server(permission)
        async with admission.slot(permission):
            caller = await self._caller(context)
            # Who is known may call from as many addresses as it likes, and counts as one.
            who = caller.principal if caller.name else network_of(caller.address)
            admission.check_caller(permission, who)
            if context.time_remaining() is None:
                raise InvalidRequestError(
                    "the call has no deadline",
                    why="what nobody waits for any more must end",
                    fix="set a timeout on every call",
                )
            with admission.reading(who):
                data = await message_of(context)
            try:
                return await self._served(caller, data)
            except ElsewhereError as found:
                passing, left_s = self._gate.passing, context.time_remaining()
                assert passing is not None, "only servers that pass calls on know of each other"
                with admission.held(permission, caller.principal):
                    return await passing.call(
                        found, self._path, data, caller, timeout_s=left_s or 0.0
                    )

    async def _served(self, caller: Caller, data: bytes) -> bytes:
        request = _parsed(self._request, data, "the request")
        if self._payload is not None:
            request = await self._open(caller, request)
        with self._gate.admission.held(self._permission, caller.principal):
            answering = self._method(caller, request)
            del request  # or the bytes of a piece are kept twice while it waits for the disk
            response = await answering
        return response.SerializeToString()

    async def _caller(self, context: Context) -> Caller:
        caller = await self._gate.identify(context)
        if caller.name:
            structlog.contextvars.bind_contextvars(client=caller.principal)
        try:
            authorise(caller, self._path)
        except ForbiddenError as error:
            await self._note(caller, error)
            raise
        return caller

    async def _open(self, caller: Caller, request: Message) -> Message:
        """The payload of a signed request, of the caller, for the place it says."""
        if self._payload is None:
            raise AssertionError("only signed requests are opened")
        envelope = getattr(request, self._permission.envelope)
        payload = _parsed(self._payload, envelope.payload, "the signed payload")
        place = await self._service.place(caller, payload)
        try:
            opened(envelope, method=self._signed, place=place, key=caller.identity_key)
        except EnvelopeError as error:
            await self._note(caller, error)
            raise
        return payload

    async def _told(self, error: Exception, context: Context, reference: str) -> str:
        """What is said of an error to who called; it is logged, and audited where it has to be."""
        failure = failure_of(error)
        self._gate.metrics.refusals.labels(failure.code).inc()
        log = structlog.get_logger("fedserver.serving")
        if isinstance(error, FedcoreError) and failure.code != ServerError.code:
            log.info("refused", code=error.code, what=error.what, why=error.why)
            details = failure.what
        else:
            log.error("failed", error=type(error).__name__, exc_info=error)
            details = f"{failure.what}; the operator finds it under {reference}"
        if isinstance(error, UnauthenticatedError):
            await self._note(Caller("anonymous", name=peer_address(context)), error)
        return details

    async def _note(self, caller: Caller, error: FedcoreError) -> None:
        """Writes a refusal into the audit log, unless that caller has filled its share of it."""
        gate = self._gate
        try:
            gate.audited.check(caller.principal, now_s=gate.now_s())
        except OverloadedError:
            return
        entry = AuditEntry(
            actor=caller.principal,
            action=self._signed,
            object=caller.fingerprint.hex(),
            decision=f"refused {error.code}: {error.why}"[:256],
        )
        try:
            await finished(gate.audit(entry))  # also if the caller hangs up
        except StoreError as broken:
            # The caller is refused all the same, and for the reason that is its own.
            structlog.get_logger("fedserver.serving").error("not audited", why=broken.why)

    def _implementation(self) -> Method:
        method = getattr(self._service, self._name, None)
        if method is None:
            raise ServerError(
                f"{type(self._service).__name__} has no {self._name}",
                why=f"{self._path} stands in the protocol",
                fix=f"write `async def {self._name}(self, caller, request)`",
            )
        found: Method = method
        return found

    def _payload_type(self, method: MethodDescriptor) -> type[Message] | None:
        """What the envelope holds; the protocol, the permission and the service must agree."""
        envelopes = [
            field.name
            for field in method.input_type.fields
            if field.message_type is not None
            and field.message_type.full_name == "fedcore.v1.Envelope"
        ]
        payload = self._service.payloads.get(self._name)
        declared = [self._permission.envelope] if self._permission.envelope else []
        if envelopes != declared or (payload is None) != (not declared):
            raise ServerError(
                f"{self._path}: it is not clear whether it is signed",
                why=f"the protocol has {envelopes}, the permission {declared}, "
                f"the service {payload}",
                fix="name the envelope in PERMISSIONS, and its content in `payloads`",
            )
        return payload


def _parsed(kind: type[Message], data: bytes, name: str) -> Message:
    try:
        message = kind.FromString(data)
    except DecodeError as error:
        raise InvalidRequestError(
            f"{name} cannot be read",
            why=f"its {len(data)} bytes are no {kind.DESCRIPTOR.name}",
            fix="use the protocol's files of this version",
        ) from error
    return message


def _check_metadata(context: Context) -> None:
    pairs = context.invocation_metadata() or ()
    if sum(len(key) + len(value) for key, value in pairs) > METADATA_BYTES:
        raise refused("too much metadata", why=f"{METADATA_BYTES} bytes are taken")


def _ended(
    context: Context,
    status: grpc.StatusCode,
    details: str,
    metadata: tuple[tuple[str, str | bytes], ...],
) -> bytes:
    """Ends a call with a status, and what gRPC takes for an answer then and does not send.

    `Context.abort` raises an error that gRPC keeps, in a circle with all that its call knew.
    """
    context.set_code(status)
    context.set_details(details)
    context.set_trailing_metadata(metadata)
    return b""
