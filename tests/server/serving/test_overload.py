"""A server that is asked for more than it can do: who is put off, how, and what is left of it."""

from __future__ import annotations

import asyncio
import os
import time
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fedcore.errors import RefusedError
from fedcore.v1 import (
    client_service_pb2 as client,
    round_service_pb2 as rounds,
    upload_service_pb2 as upload,
)
from fedcore.wire.failures import PUSHBACK_KEY, error_from
from fedcore.wire.versions import installed_version
from fedserver.store.sql.reads import READERS
from tests.variants import mostly_slow

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:grpc")

FEW = {
    "concurrent_rpcs": 2,
    "queue": 2,
    "waiting_rpcs": 2,
    "upload_bytes": 2 << 20,
    "calls_per_second": 10_000,
    "calls_at_once": 10_000,
}
CLIENTS, EACH = 4, 30
MOST_OF_THE_STORE = 2 * (READERS + 1) + 2  # of each reader and the writer; index, lock
OWNER = b"c" * 16
CALLS = {
    "/fedcore.v1.ClientService/CheckIn": client.CheckInRequest(
        request_id=b"r" * 16, sdk_version=installed_version()
    ),
    "/fedcore.v1.ClientService/Heartbeat": client.HeartbeatRequest(assignment_id=b"a" * 16),
    "/fedcore.v1.RoundService/Next": rounds.NextRequest(assignment_id=b"a" * 16),
    "/fedcore.v1.UploadService/PutChunk": upload.PutChunkRequest(
        upload_id=b"u" * 16, crc32=zlib.crc32(b"abc"), data=b"abc"
    ),
}
BEAT = "/fedcore.v1.ClientService/Heartbeat"


@asynccontextmanager
async def busy(world: Any) -> AsyncIterator[None]:
    """Whatever is let in goes on until the end of the block."""
    held = asyncio.Event()
    world.federation.block = held.wait
    try:
        yield
    finally:
        world.federation.block = None
        held.set()


def storm(world: Any, holders: Sequence[Any], method: str) -> list[asyncio.Task[Any]]:
    """Many calls at once."""
    return [
        asyncio.create_task(world.call(holder, method, CALLS[method], limit_s=60))
        for holder in holders
        for _ in range(EACH)
    ]


async def eventually(holds: Any, *, seconds: float = 60.0) -> None:
    """Returns once it holds. Raises: TimeoutError."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - what is looked at tells nobody
            await asyncio.sleep(0.01)


def figure(world: Any, name: str) -> float:
    text = world.metrics.exposition().decode()
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    )


@pytest.mark.parametrize(
    "method", mostly_slow(CALLS, quick=2), ids=lambda method: method.rpartition("/")[2]
)
async def test_every_call_that_does_not_fit_is_told_when_to_come_back(
    make_world: Any, method: str
) -> None:
    async with make_world(limits=FEW) as world:
        holders = [await world.client(client_id=bytes([n]) * 16) for n in range(1, CLIENTS)]
        holders.append(await world.client(client_id=OWNER))
        async with busy(world):
            calls = storm(world, holders, method)
            kept = FEW["concurrent_rpcs"]
            await eventually(lambda: sum(call.done() for call in calls) >= len(calls) - 2 * kept)
            refused = [call.result() for call in calls if call.done()]
        await asyncio.gather(*calls)
        assert len(refused) >= len(calls) - 2 * kept
        for code, _, failure in refused:
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            error = error_from(failure)
            assert isinstance(error, RefusedError) and error.retry is not None, failure
            assert 0 < error.retry[0] <= error.retry[1]
            assert int(dict(failure.trailing_metadata())[PUSHBACK_KEY]) == error.retry[0]


async def test_after_an_overload_everybody_is_served_again_at_once(make_world: Any) -> None:
    async with make_world(limits=FEW) as world:
        holder = await world.client(client_id=OWNER)
        for method in CALLS:
            async with busy(world):
                calls = storm(world, [holder], method)
                await eventually(lambda calls=calls: any(call.done() for call in calls))
            await asyncio.gather(*calls)
            assert (await world.call(holder, method, CALLS[method]))[0] is grpc.StatusCode.OK
        assert figure(world, "fedcore_queue") == 0


async def test_the_figures_tell_how_busy_the_event_loop_is(world: Any) -> None:
    await world.server.show_work()
    before_s, worked_s = figure(world, "fedcore_loop_seconds_total"), time.thread_time()
    while time.thread_time() < worked_s + 0.05:
        pass
    await world.server.show_work()
    told_s, passed_s = figure(world, "fedcore_loop_seconds_total"), time.thread_time() - worked_s
    assert 0.05 <= told_s - before_s <= passed_s + 0.05


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")
async def test_whoever_came_and_went_leaves_no_descriptor_and_no_coroutine(make_world: Any) -> None:
    async with make_world(limits=FEW) as world:

        async def comes_and_goes(number: int) -> None:
            guest = await world.client(client_id=bytes([number]) * 16)
            async with busy(world):
                calls = storm(world, [guest], BEAT)
                await eventually(lambda: any(call.done() for call in calls))
                for call in calls:
                    call.cancel()
                await asyncio.gather(*calls, return_exceptions=True)
            await world.channel(guest).close()

        for number in range(1, 4):  # what is made once is made now
            await comes_and_goes(number)
        (before, _), coroutines = descriptors(), figure(world, "fedcore_coroutines")
        for number in range(4, 10):
            await comes_and_goes(number)
        await eventually(lambda: descriptors()[0] <= before)
        assert descriptors()[1] <= MOST_OF_THE_STORE
        await eventually(lambda: figure(world, "fedcore_coroutines") <= coroutines)


def descriptors() -> tuple[int, int]:
    """How many are open; and how many of the store, which opens each reader when it needs it."""
    names = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
    of_store = [name for name in names if Path(name).name.startswith("fed.db")]
    return len(names) - len(of_store), len(of_store)
