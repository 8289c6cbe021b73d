"""`ClientService`: a client finds work, shows that it lives, and renews its certificates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from fedcore.v1 import client_service_pb2, common_pb2
from fedcore.wire.versions import check_version
from fedserver.authorisation import Caller
from fedserver.federation.interface import Assigned, CheckIn, Federation
from fedserver.services import fields
from fedserver.services.unsigned import Unsigned

__all__ = ["Certificates", "ClientService", "Renewal"]

_LARGEST_REQUEST = 16 * 1024
_THOUSANDTHS = 1000


class Certificates(Protocol):
    """A client's certificates: DER of the chain, its own first, and the registrar's 120 bytes."""

    @property
    def certificate_chain(self) -> tuple[bytes, ...]:
        """DER certificates, the client's own first, the root last."""

    @property
    def identity_certificate(self) -> bytes:
        """The registrar's certificate of the identity key, 120 bytes."""


class Renewal(Protocol):
    """Whoever certifies a known client anew."""

    async def renew(self, client_id: bytes, signing_request: bytes, /) -> Certificates:
        """Certificates for the key of a signing request (PKCS #10, DER)."""
        ...


class ClientService(Unsigned):
    """`now_ms`: Unix milliseconds; `version`: of the server, against which a client's is held."""

    def __init__(
        self,
        federation: Federation,
        renewal: Renewal,
        *,
        version: str,
        now_ms: Callable[[], int],
    ) -> None:
        self._federation, self._renewal = federation, renewal
        self._version, self._now_ms = version, now_ms

    async def CheckIn(
        self, caller: Caller, request: client_service_pb2.CheckInRequest
    ) -> client_service_pb2.CheckInResponse:
        ask = CheckIn(
            request_id=fields.identifier(request.request_id, "request_id"),
            task_id=fields.optional_task(request.task_id),
            sdk_version=fields.text(request.sdk_version, "sdk_version", most=64),
            programs=fields.names(request.programs, "programs"),
            datasets=fields.names(request.datasets, "datasets"),
            models=fields.names(request.models, "models"),
            terms=fields.sized(request.terms, "terms", most=fields.TERMS_BYTES),
        )
        check_version(ask.sdk_version, server=self._version)
        answer = await self._federation.check_in(caller, ask)
        if isinstance(answer, Assigned):
            return client_service_pb2.CheckInResponse(assignment=self._assignment(answer))
        response = client_service_pb2.CheckInResponse(
            retry=common_pb2.RetryWindow(
                delay_min_ms=answer.delay_min_ms, delay_max_ms=answer.delay_max_ms
            )
        )
        if (held := answer.held) is not None:
            left_ms = int(1000 * held.left_s)
            found = client_service_pb2.Held(task_id=held.task_id, why=held.why, left_ms=left_ms)
            response.held.CopyFrom(found)
        return response

    async def Heartbeat(
        self, caller: Caller, request: client_service_pb2.HeartbeatRequest
    ) -> client_service_pb2.HeartbeatResponse:
        beat = await self._federation.heartbeat(
            caller,
            fields.identifier(request.assignment_id, "assignment_id"),
            progress=fields.number(request.progress, "progress", most=_THOUSANDTHS),
        )
        return client_service_pb2.HeartbeatResponse(
            cancel=beat.cancel,
            reason=beat.reason,
            deadline_ms=beat.deadline_ms,
            server_time_ms=self._now_ms(),
        )

    async def GetTask(
        self, caller: Caller, request: client_service_pb2.GetTaskRequest
    ) -> client_service_pb2.GetTaskResponse:
        task = await self._federation.task(caller, fields.task_id(request.task_id))
        return client_service_pb2.GetTaskResponse(
            task=common_pb2.Envelope(
                payload=task.canonical, key_id=task.author_key, signature=task.signature
            ),
            model_digest=task.model_digest,
        )

    async def Renew(
        self, caller: Caller, request: client_service_pb2.RenewRequest
    ) -> client_service_pb2.RenewResponse:
        renewed = await self._renewal.renew(
            caller.id,
            fields.sized(
                request.signing_request, "signing_request", least=1, most=_LARGEST_REQUEST
            ),
        )
        return client_service_pb2.RenewResponse(
            certificate_chain=renewed.certificate_chain,
            identity_certificate=renewed.identity_certificate,
        )

    def _assignment(self, assigned: Assigned) -> client_service_pb2.Assignment:
        return client_service_pb2.Assignment(
            assignment_id=assigned.assignment_id,
            round=common_pb2.RoundRef(
                task_id=assigned.ref.task_id,
                round=assigned.ref.round,
                attempt=assigned.ref.attempt,
            ),
            task_digest=assigned.task_digest,
            nonce=assigned.nonce,
            heartbeat_ms=assigned.heartbeat_ms,
            deadline_ms=assigned.deadline_ms,
            server_time_ms=self._now_ms(),
        )
