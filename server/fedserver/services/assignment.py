"""What is said for an assignment: its instructions, the messages of secure aggregation, its end.

`RoundService` and `SecAggService`. All that a client signs is bound to its assignment, which the
federation finds only for the client that owns it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import structlog
from google.protobuf.message import Message

from fedcore.errors import InvalidRequestError
from fedcore.secagg import decode, messages
from fedcore.v1 import round_service_pb2, secagg_service_pb2
from fedcore.wire.channels import LONGEST_WAIT_S
from fedcore.wire.envelope import Place
from fedserver.authorisation import Caller
from fedserver.federation.interface import (
    Advertise,
    FailureCode,
    Federation,
    Finished,
    Instruction,
    Report,
    SecureAggregation,
    Train,
)
from fedserver.services import fields

__all__ = ["RoundService", "SecAggService", "assignment_place"]

_LONGEST_WAIT_MS = LONGEST_WAIT_S * 1000
_MOST_SEEN = 1_000_000
_SecAggPayload: TypeAlias = secagg_service_pb2.SecAggMessage


async def assignment_place(federation: Federation, caller: Caller, assignment_id: bytes) -> Place:
    """The place of the caller's assignment, which the log of the call then names, too."""
    place = await federation.place(
        caller, assignment_id=fields.identifier(assignment_id, "assignment_id")
    )
    structlog.contextvars.bind_contextvars(
        task=place.task_id, round=place.round, attempt=place.attempt
    )
    return place


class RoundService:
    """`now_ms`: Unix milliseconds, beside which a client reads its deadlines."""

    payloads: Mapping[str, type[Message]] = {"Report": round_service_pb2.Report}

    def __init__(self, federation: Federation, *, now_ms: Callable[[], int]) -> None:
        self._federation, self._now_ms = federation, now_ms

    async def place(self, caller: Caller, payload: round_service_pb2.Report, /) -> Place:
        return await assignment_place(self._federation, caller, payload.assignment_id)

    async def Next(
        self, caller: Caller, request: round_service_pb2.NextRequest
    ) -> round_service_pb2.NextResponse:
        instruction = await self._federation.next(
            caller,
            fields.identifier(request.assignment_id, "assignment_id"),
            seen=fields.number(request.seen, "seen", most=_MOST_SEEN),
            wait_s=min(request.wait_ms, _LONGEST_WAIT_MS) / 1000,
        )
        response = _response(instruction)
        response.server_time_ms = self._now_ms()
        return response

    async def Report(
        self, caller: Caller, request: round_service_pb2.Report
    ) -> round_service_pb2.ReportResponse:
        await self._federation.report(
            caller,
            Report(
                assignment_id=fields.identifier(request.assignment_id, "assignment_id"),
                failure=_failure(request.failure),
                detail=fields.text(request.detail, "detail"),
                bytes_up=fields.number(request.bytes_up, "bytes_up"),
                bytes_down=fields.number(request.bytes_down, "bytes_down"),
                energy_j=fields.quantity(request.energy_j, "energy_j"),
                energy_measured=request.energy_measured,
                terms=fields.sized(request.terms, "terms", most=fields.TERMS_BYTES),
            ),
        )
        return round_service_pb2.ReportResponse()


class SecAggService:
    """Each RPC takes one kind of message; which stage it belongs to is the session's affair."""

    payloads: Mapping[str, type[Message]] = {
        name: secagg_service_pb2.SecAggMessage
        for name in ("Advertise", "Share", "Complain", "Confirm", "Answer")
    }

    def __init__(self, federation: Federation) -> None:
        self._federation = federation

    async def place(self, caller: Caller, payload: _SecAggPayload, /) -> Place:
        return await assignment_place(self._federation, caller, payload.assignment_id)

    async def Advertise(
        self, caller: Caller, request: _SecAggPayload
    ) -> secagg_service_pb2.AdvertiseResponse:
        await self._take(caller, request, messages.Advertise)
        return secagg_service_pb2.AdvertiseResponse()

    async def Share(
        self, caller: Caller, request: _SecAggPayload
    ) -> secagg_service_pb2.ShareResponse:
        await self._take(caller, request, messages.Shares)
        return secagg_service_pb2.ShareResponse()

    async def Complain(
        self, caller: Caller, request: _SecAggPayload
    ) -> secagg_service_pb2.ComplainResponse:
        await self._take(caller, request, messages.Complaint)
        return secagg_service_pb2.ComplainResponse()

    async def Confirm(
        self, caller: Caller, request: _SecAggPayload
    ) -> secagg_service_pb2.ConfirmResponse:
        await self._take(caller, request, messages.Confirmation)
        return secagg_service_pb2.ConfirmResponse()

    async def Answer(
        self, caller: Caller, request: _SecAggPayload
    ) -> secagg_service_pb2.AnswerResponse:
        await self._take(caller, request, messages.UnmaskAnswer)
        return secagg_service_pb2.AnswerResponse()

    async def _take(
        self, caller: Caller, request: _SecAggPayload, kind: type[messages.Message]
    ) -> None:
        assignment_id = fields.identifier(request.assignment_id, "assignment_id")
        message = decode(request.message)
        if not isinstance(message, kind):
            raise InvalidRequestError(
                "the message is of another kind than its RPC takes",
                why=f"this RPC takes a {kind.__name__}, not a {type(message).__name__}",
                fix="send each message by the RPC of its name",
            )
        await self._federation.secagg(caller, assignment_id, message)


def _failure(value: int) -> FailureCode:
    try:
        return FailureCode(value)
    except ValueError:
        raise InvalidRequestError(
            "failure is out of its bounds",
            why=f"{len(FailureCode)} codes are known",
            fix="send what fedcore/v1 describes",
        ) from None


def _response(instruction: Instruction) -> round_service_pb2.NextResponse:
    response = round_service_pb2.NextResponse(
        number=instruction.number, deadline_ms=instruction.deadline_ms
    )
    order = instruction.order
    if isinstance(order, Train):
        response.train.model_digest = order.model_digest
        response.train.model_bytes = order.model_bytes
        response.train.update_bytes = order.update_bytes
        response.train.clipping = order.clipping
        response.train.evaluate = order.evaluate
    elif isinstance(order, SecureAggregation):
        response.secure_aggregation = order.message
    elif isinstance(order, Finished):
        response.finished.outcome = round_service_pb2.Finished.Outcome.ValueType(order.outcome)
        response.finished.reason = order.reason
        response.finished.model_digest = order.model_digest
    elif isinstance(order, Advertise):
        response.advertise.SetInParent()
    else:
        response.wait.SetInParent()
    return response
