"""Messages that never end: whoever sends them is bounded, and keeps nobody from being served."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from fedcore.v1 import client_service_pb2 as client, common_pb2 as common
from fedcore.wire.failures import FAILURE_KEY
from tests.server.serving.test_overload import busy, eventually

BEAT = "/fedcore.v1.ClientService/Heartbeat"
A_BEAT = client.HeartbeatRequest(assignment_id=b"a" * 16)
# With a field of 1 MiB that nobody knows, which is passed over: number 100, so many bytes.
LARGE = A_BEAT.SerializeToString() + b"\xa2\x06\x80\x80\x40" + bytes(1 << 20)
HEALTH = "/grpc.health.v1.Health/Check"
SERVING = health_pb2.HealthCheckResponse(status="SERVING").SerializeToString()
MOST, WATCHERS = 16, 8
LIMITS = {"calls_per_second": 1000.0, "calls_at_once": 1000}


def unsaid(world: Any, holder: Any, method: str = BEAT) -> Any:
    """A call of which nothing but the headers is sent."""
    return world.channel(holder).stream_unary(method)(timeout=60)


async def refusal_of(call: Any) -> tuple[grpc.StatusCode, common.Failure]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = caught.value
    [raw] = [value for key, value in error.trailing_metadata() if key == FAILURE_KEY]
    return error.code(), common.Failure.FromString(raw)


@contextlib.asynccontextmanager
async def open_calls(
    world: Any, holder: Any, count: int, method: str = BEAT
) -> AsyncIterator[list[Any]]:
    """So many calls of a member that say nothing and are being read."""
    calls = [unsaid(world, holder, method) for _ in range(count)]
    await eventually(lambda: world.server._admission._read.total() == count)
    try:
        yield calls
    finally:
        for call in calls:
            call.cancel()


async def test_of_one_member_so_many_are_read_and_the_next_is_refused_before_it_is_sent(
    make_world: Any,
) -> None:
    async with make_world(limits=LIMITS) as world:
        holder, other = [await world.client(client_id=letter * 16) for letter in (b"c", b"o")]
        async with open_calls(world, holder, MOST):
            code, failure = await refusal_of(unsaid(world, holder))
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert failure.retry.delay_min_ms > 0
            # Another is served, and so is this one as soon as it has ended what it began.
            assert (await world.call(other, BEAT, A_BEAT))[0] is grpc.StatusCode.NOT_FOUND
        await eventually(lambda: not world.server._admission._read)
        assert (await world.call(holder, BEAT, A_BEAT))[0] is grpc.StatusCode.OK


async def test_a_message_that_is_not_whole_in_time_is_refused(
    make_world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedserver.calls.LONGEST_MESSAGE_S", 0.2)
    async with make_world(limits=LIMITS) as world:
        holder = await world.client(client_id=b"c" * 16)
        async with open_calls(world, holder, 1) as [call]:
            code, failure = await refusal_of(call)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "not whole after 0.2 s" in failure.why and failure.fix


async def test_a_call_without_a_message_is_refused(make_world: Any) -> None:
    async with make_world(limits=LIMITS) as world:
        holder = await world.client(client_id=b"c" * 16)
        call = unsaid(world, holder)
        await call.done_writing()
        code, failure = await refusal_of(call)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "before its message was whole" in failure.why


async def test_whoever_is_not_known_is_refused_before_a_message_is_read(make_world: Any) -> None:
    async with make_world(limits=LIMITS) as world:
        holder = await world.client(client_id=b"c" * 16, enrolled=False)
        code, _ = await refusal_of(unsaid(world, holder))
        assert code is grpc.StatusCode.UNAUTHENTICATED


async def test_questions_after_health_that_are_never_asked_are_as_few(make_world: Any) -> None:
    async with make_world(limits=LIMITS) as world:
        holder = await world.client(client_id=b"c" * 16)
        async with open_calls(world, holder, MOST, HEALTH):
            code, failure = await refusal_of(unsaid(world, holder, HEALTH))
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert failure.retry.delay_min_ms > 0


async def test_of_one_address_so_many_watch_the_health(make_world: Any) -> None:
    async with make_world(limits=LIMITS) as world:
        holder = await world.client(client_id=b"c" * 16)
        watch = world.channel(holder).unary_stream(HEALTH.replace("Check", "Watch"))
        watching = [watch(b"", timeout=60) for _ in range(WATCHERS)]
        for call in watching:
            assert await call.read() == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await watch(b"", timeout=60).read()
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await world.call(holder, HEALTH, health_pb2.HealthCheckRequest()))[1] == SERVING
        watching.pop().cancel()
        await eventually(lambda: world.server._admission._held.total() < WATCHERS)
        assert await watch(b"", timeout=60).read() == SERVING
        for call in watching:
            call.cancel()


class Relay:
    """Leads connections to a port, and counts what the server takes."""

    def __init__(self, target: int) -> None:
        self.target, self.taken = target, 0

    @contextlib.asynccontextmanager
    async def port(self) -> AsyncIterator[int]:
        listener = await asyncio.start_server(self._joined, "localhost", 0)
        async with listener:
            yield listener.sockets[0].getsockname()[1]

    async def _joined(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("localhost", self.target)
        back = asyncio.create_task(self._pumped(far_reader, writer))
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                far_writer.write(data)
                await far_writer.drain()
                self.taken += len(data)
        far_writer.close()
        await back

    async def _pumped(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()


async def test_of_a_message_that_waits_for_its_turn_little_has_come(make_world: Any) -> None:
    limits = {**LIMITS, "concurrent_rpcs": 1, "queue": 100, "queue_wait_s": 60}
    async with make_world(limits=limits) as world:
        holder = await world.client(client_id=b"c" * 16)
        relay = Relay(int(world.addresses.service.rpartition(":")[2]))
        async with (
            busy(world),
            relay.port() as port,
            world.connection(holder, f"localhost:{port}") as channel,
        ):
            calls = [channel.unary_unary(BEAT)(LARGE, timeout=60) for _ in range(50)]
            await eventually(lambda: world.server._admission.queued == len(calls) - 1)
            before = -1
            while relay.taken != before:
                before = relay.taken
                await asyncio.sleep(0.2)
            assert relay.taken < 50 * (128 << 10)
            for call in calls:
                call.cancel()
