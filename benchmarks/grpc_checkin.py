"""Clients of a large population ask for work, and each question is durable before its answer."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.federation.connections import connected
from benchmarks.federation.open_loop import offered
from benchmarks.federation.part import question
from benchmarks.federation.processes import Process, one_core_each, started
from benchmarks.federation.stage import Stage
from benchmarks.federation.tasks import linear_task
from benchmarks.figure import Figure, Target
from benchmarks.peers import Peers
from benchmarks.registry import benchmark

__all__ = ["CLIENTS", "RATE", "grpc_checkin"]

CLIENTS, RATE = 500, 1000.0

_COHORT = 10
_REPEATS = 3
_RUN_S, _WARM_S = 3.0, 1.0
_PATIENCE_S = 0.25  # within which 99 of 100 are answered
_LADDER = 1.15
_CALL_S = 30.0
_CHECK_IN = "/fedcore.v1.ClientService/CheckIn"
_EMPTY = "an empty handler"


@benchmark("grpc-checkin", "How many check-ins a second does one core take, each durable?")
def grpc_checkin(_peers: Peers) -> Iterator[Figure]:
    """One server process on one core, a generator on another; 500 identities over mTLS.

    A round is under way and the population is large, so that everybody is told when to come back.
    `rate`: the highest that was offered for 3 seconds and answered, 99 of 100 within 250 ms.
    """
    serves, loads = one_core_each()
    before = os.sched_getaffinity(0)
    with TemporaryDirectory() as folder:
        stage = Stage(Path(folder), clients=CLIENTS, task=linear_task(clients=_COHORT))
        os.sched_setaffinity(0, loads)
        try:
            ours = asyncio.run(_measured(stage, lambda: stage.serving(cores=serves), begin=True))
            empty = asyncio.run(_measured(stage, lambda: _empty(stage, serves), begin=False))
        finally:
            os.sched_setaffinity(0, before)
    bound = Target("value", ">=", RATE)
    yield Figure("grpc-checkin", ours.rate, "1/s", ours.rate / empty.rate, _EMPTY, bound)
    bound = Target("value", "<=", 1000 * _PATIENCE_S)
    late, least = 1000 * ours.p99_s, 1000 * empty.p99_s
    yield Figure("grpc-checkin.p99", late, "ms at 1000/s", late / least, _EMPTY, bound)


@dataclass(frozen=True, slots=True)
class _Found:
    rate: float
    p99_s: float


async def _measured(
    stage: Stage, serving: Callable[[], AbstractContextManager[Process]], *, begin: bool
) -> _Found:
    with serving() as server:
        async with connected(server.address, stage.devices, stage.root) as channels:
            calls = [channel.unary_unary(_CHECK_IN) for channel in channels]

            async def call(index: int) -> None:
                data = question().SerializeToString()
                await calls[index % CLIENTS](data, timeout=_CALL_S)

            if begin:  # a round, so that there is nothing to be held for
                await asyncio.gather(*map(call, range(_COHORT)))
            await offered(call, rate=RATE / 2, seconds=_WARM_S)
            runs = [await offered(call, rate=RATE, seconds=_RUN_S) for _ in range(_REPEATS)]
            quickest = min(runs, key=lambda run: run.at(0.99))
            kept, rate = quickest.rate, RATE
            while await _keeps(call, rate):
                kept, rate = rate, rate * _LADDER
            return _Found(kept, quickest.at(0.99))


async def _keeps(call: Callable[[int], Awaitable[object]], rate: float) -> bool:
    """Whether one run of some at this rate kept the patience."""
    for _ in range(_REPEATS):
        run = await offered(call, rate=rate, seconds=_RUN_S)
        if run.at(0.99) <= _PATIENCE_S:
            return True
        await asyncio.sleep(1.0)  # until what piled up is worked off
    return False


@contextmanager
def _empty(stage: Stage, cores: frozenset[int]) -> Iterator[Process]:
    command = [sys.executable, "-m", "benchmarks.federation.empty_server", str(stage.folder)]
    with started(command, folder=stage.folder, cores=cores) as process:
        process.address = process.line().decode().strip()
        yield process
