"""A server that was killed serves again before anybody gives it up, whatever it has behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from benchmarks.federation.connections import connected
from benchmarks.federation.history import add_history
from benchmarks.federation.part import Part
from benchmarks.federation.processes import Process
from benchmarks.federation.stage import Stage
from benchmarks.federation.tasks import linear_task
from benchmarks.figure import Figure, Target
from benchmarks.peers import Peers
from benchmarks.registry import benchmark

__all__ = ["server_recovery"]

_CLIENTS, _ROUNDS, _COHORT, _STARTS = 10_000, 1_000, 5, 20
_SERVING_S, _RESUMED_S = 2.0, 5.0


@benchmark(
    "server-recovery",
    "How many seconds after a kill does a server of 10,000 clients and 1,000 rounds serve again?",
)
def server_recovery(_peers: Peers) -> Iterator[Figure]:
    """The slowest of 20 starts, each after a kill in the middle of a round.

    `round`: until a client of the round that was open is told again what to do.
    """
    with TemporaryDirectory() as folder:
        task = linear_task(clients=_COHORT, rounds=_ROUNDS + 1)
        stage = Stage(Path(folder), clients=_COHORT, task=task)
        asyncio.run(add_history(stage, clients=_CLIENTS - _COHORT, rounds=_ROUNDS))
        parts = _begun(stage)
        starts = [_started_again(stage, parts[0]) for _ in range(_STARTS)]
    serving, resumed = max(one.serving for one in starts), max(one.resumed for one in starts)
    yield Figure("server-recovery", serving, "s", target=Target("value", "<=", _SERVING_S))
    yield Figure("server-recovery.round", resumed, "s", target=Target("value", "<=", _RESUMED_S))


@dataclass(frozen=True, slots=True)
class _Start:
    """Seconds after the start of the process."""

    serving: float
    resumed: float


def _begun(stage: Stage) -> list[Part]:
    """The clients of a round that is open when its server is killed."""

    async def begin(server: Process) -> list[Part]:
        async with connected(server.address, stage.devices, stage.root) as channels:
            parts = [Part(*both) for both in zip(stage.devices, channels, strict=True)]
            await asyncio.gather(*(part.check_in() for part in parts))
            await asyncio.gather(*(part.ordered("train") for part in parts))
            return parts

    with stage.serving() as server:
        parts = asyncio.run(begin(server))
        server.kill()
    return parts


def _started_again(stage: Stage, part: Part) -> _Start:
    async def ask(address: str) -> None:
        async with connected(address, stage.devices[:1], stage.root) as (channel,):
            await part.over(channel).ordered("train")

    begin = perf_counter()
    with stage.serving() as server:
        serving = perf_counter() - begin
        asyncio.run(ask(server.address))
        resumed = perf_counter() - begin
        server.kill()
    return _Start(serving, resumed)
