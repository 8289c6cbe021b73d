"""One caller that takes all there is to be had of a server's patience."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, cast

import grpc
import pytest

from fedcore.errors import OverloadedError
from fedcore.v1.round_service_pb2 import NextRequest
from fedserver.admission import Admission, LoopLag
from fedserver.authorisation import Caller, permission_of
from fedserver.federation.interface import Instruction, Wait
from fedserver.metrics import Metrics
from fedserver.services.assignment import RoundService
from fedserver.serving import SERVICES, Gate, _Endpoint

NEXT = permission_of("/fedcore.v1.RoundService/Next")
BEAT = permission_of("/fedcore.v1.ClientService/Heartbeat")


def test_one_client_keeps_no_other_from_being_held() -> None:
    admission = Admission(
        now_s=lambda: 0.0, lag=LoopLag(), disk_free=lambda: 1.0, waiting=50, waiting_each=4
    )
    with contextlib.ExitStack() as held:
        for _ in range(4):
            held.enter_context(admission.held(NEXT, "one"))
        with pytest.raises(OverloadedError) as refused, admission.held(NEXT, "one"):
            pass
        assert refused.value.retry is not None
        with admission.held(NEXT, "another"), admission.held(BEAT, "one"):
            pass
    with admission.held(NEXT, "one"):
        pass
    assert not admission._held


class Call:
    """What gRPC tells a handler of a call."""

    def __init__(self, message: bytes) -> None:
        self._message = message
        self.status: grpc.StatusCode | None = None

    async def read(self) -> bytes:
        return self._message

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def time_remaining(self) -> float:
        return 30.0

    def peer(self) -> str:
        return "ipv4:127.0.0.1:9"

    def set_code(self, status: grpc.StatusCode) -> None:
        self.status = status

    def set_details(self, details: str) -> None: ...

    def set_trailing_metadata(self, metadata: object) -> None: ...


class Patient:
    """A federation in which nothing happens until it is told."""

    def __init__(self) -> None:
        self.told = asyncio.Event()

    async def next(self, *_: object, **__: object) -> Instruction:
        await self.told.wait()
        return Instruction(0, 0, Wait())


async def test_a_client_that_asks_nine_times_at_once_is_answered_eight_times() -> None:
    async def identify(_: object) -> Caller:
        return Caller("client", id=bytes(16), name="00" * 16, tenant="default", role="client")

    async def audit(_: object) -> None:
        return None

    admission = Admission(now_s=lambda: 0.0, lag=LoopLag(), disk_free=lambda: 1.0)
    gate = Gate.of(admission=admission, identify=identify, audit=audit, metrics=Metrics())
    federation = Patient()
    service = RoundService(cast(Any, federation), now_ms=lambda: 0)
    endpoint = _Endpoint(service, SERVICES["RoundService"].methods_by_name["Next"], gate)
    data = NextRequest(assignment_id=bytes(16), wait_ms=20_000).SerializeToString()
    contexts = [Call(data) for _ in range(9)]
    calls = [asyncio.ensure_future(endpoint.serve(None, cast(Any, one))) for one in contexts]
    [refused], _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    assert contexts[calls.index(refused)].status is grpc.StatusCode.RESOURCE_EXHAUSTED
    federation.told.set()
    answers = await asyncio.gather(*(call for call in calls if call is not refused))
    assert len(answers) == 8
    assert [one.status for one in contexts].count(None) == 8
