"""What is agreed on here does what it says in gRPC itself, over a real connection."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

import grpc
import pytest

from fedcore.errors import (
    DrainingError,
    FedcoreError,
    ForbiddenError,
    OverloadedError,
    RefusedError,
    UnreachableError,
)
from fedcore.v1 import enrolment_service_pb2 as messages, enrolment_service_pb2_grpc as rpcs
from fedcore.wire.channels import client_options, server_options
from fedcore.wire.failures import error_from, metadata_of, status_of


class Refusing(rpcs.EnrolmentServiceServicer):
    """Raises what it is told to, and counts how often it is asked."""

    def __init__(self) -> None:
        self.error: Exception = KeyError()
        self.calls = 0

    def Anchors(self, request: messages.AnchorsRequest, context: grpc.ServicerContext) -> NoReturn:
        self.calls += 1
        context.set_trailing_metadata(metadata_of(self.error))
        context.abort(status_of(self.error), "details")


@pytest.fixture
def service() -> Refusing:
    return Refusing()


@pytest.fixture
def channel(service: Refusing) -> Iterator[grpc.Channel]:
    server = grpc.server(ThreadPoolExecutor(2), options=server_options())
    rpcs.add_EnrolmentServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=client_options()) as opened:
        yield opened
    server.stop(None).wait()


def refused(channel: grpc.Channel) -> FedcoreError:
    with pytest.raises(grpc.RpcError) as failed:
        rpcs.EnrolmentServiceStub(channel).Anchors(messages.AnchorsRequest(), timeout=20)
    return error_from(failed.value)


def test_a_refusal_arrives_with_its_reason_and_is_not_repeated(
    channel: grpc.Channel, service: Refusing
) -> None:
    service.error = ForbiddenError("not yours", why="it is another's — sorry", fix="ask")
    back = refused(channel)
    assert type(back) is ForbiddenError
    assert back.why == "it is another's — sorry"
    assert service.calls == 1


def test_an_overloaded_server_is_left_alone(channel: grpc.Channel, service: Refusing) -> None:
    service.error = OverloadedError("full", retry=(1, 2))
    back = refused(channel)
    assert isinstance(back, OverloadedError) and back.retry == (1, 2)
    assert service.calls == 1


def test_grpc_repeats_a_call_that_may_soon_succeed(
    channel: grpc.Channel, service: Refusing
) -> None:
    service.error = DrainingError("restarting", retry=(1, 2))
    assert isinstance(refused(channel), DrainingError)
    assert service.calls == 5


def test_a_long_wait_is_the_callers_own(channel: grpc.Channel, service: Refusing) -> None:
    service.error = DrainingError("until tomorrow", retry=(3_600_000, 7_200_000))
    back = refused(channel)
    assert isinstance(back, DrainingError) and back.retry == (3_600_000, 7_200_000)
    assert service.calls == 1


def test_a_bug_of_the_server_tells_nothing(channel: grpc.Channel, service: Refusing) -> None:
    service.error = KeyError("a secret")
    back = refused(channel)
    assert type(back) is RefusedError and "secret" not in str(back)


def test_a_server_that_is_not_there_is_unreachable() -> None:
    with grpc.insecure_channel("127.0.0.1:1", options=client_options(retries=False)) as channel:
        assert isinstance(refused(channel), UnreachableError)
