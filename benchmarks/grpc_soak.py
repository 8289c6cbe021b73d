"""What a server holds after ten minutes of rounds is what it held after two: nothing grows."""

from __future__ import annotations

import asyncio
import math
import os
import statistics
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.federation.connections import connected
from benchmarks.federation.masked_part import MaskedPart, Workbench
from benchmarks.federation.processes import Process, resident_bytes
from benchmarks.federation.stage import Stage
from benchmarks.federation.tasks import linear_task
from benchmarks.federation.unsteady import UnsteadyCalls
from benchmarks.figure import Figure, Target
from benchmarks.peers import Peers
from benchmarks.registry import benchmark

__all__ = ["growth", "grpc_soak"]

_NAME = "grpc-soak"
_CLIENTS, _COHORT = 12, 6
_RATE = 50.0
_SAMPLES = 120
_WARM = 0.2  # of the run, before anything is held against it, and as fast as the server goes
_MIB = 2**20


@dataclass(frozen=True)
class _Held:
    """What a server process holds at a moment; `begun`: calls so far."""

    at_s: float
    begun: int
    resident: float
    descriptors: float
    threads: float
    coroutines: float
    wal: float


def _soak(_peers: Peers, *, seconds: float) -> Iterator[Figure]:
    # A check-in that is given up when it was selected ends its attempt: the next one goes on.
    task = linear_task(clients=_COHORT, rounds=1_000_000, attempts=100, masked=True)
    with TemporaryDirectory() as name:
        stage = Stage(Path(name), clients=_CLIENTS, task=task)
        with stage.serving() as server:
            calls, found = asyncio.run(_watched(stage, server, seconds))
    held = found[int(_WARM * len(found)) :]
    resident = [(one.at_s, one.resident / _MIB) for one in held]
    yield Figure(_NAME, 3600 * growth(resident), "MiB/h", None, None, Target("value", "<=", 1))
    later = growth(resident[len(resident) // 2 :])
    yield Figure(f"{_NAME}.later", 3600 * later, "MiB/h in the second half")
    yield Figure(f"{_NAME}.memory", held[-1].resident / 1e6, "MB")
    quantities: Sequence[tuple[str, Callable[[_Held], float], float]] = (
        ("descriptors", lambda one: one.descriptors, 4),
        ("threads", lambda one: one.threads, 2),
        ("coroutines", lambda one: one.coroutines, 8),
        ("wal", lambda one: one.wal / _MIB, 1),
    )
    for quantity, of, most in quantities:
        values = [of(one) for one in held]
        unit = "MiB more" if quantity == "wal" else "more"
        bound = Target("value", "<=", most)
        yield Figure(f"{_NAME}.{quantity}", _risen(values), unit, None, None, bound)
    elapsed_s = held[-1].at_s - held[0].at_s
    yield Figure(f"{_NAME}.calls", (held[-1].begun - held[0].begun) / elapsed_s, "1/s")
    yield Figure(f"{_NAME}.rounds", len(calls.seconds["Report"]) / _COHORT, "rounds")
    share = 100 * calls.cancelled / calls.begun
    yield Figure(f"{_NAME}.cancelled", share, "% of calls")
    bound = Target("value", "<=", 0)
    yield Figure(f"{_NAME}.without-hint", calls.bare, "refusals", None, None, bound)


@benchmark(
    "grpc-soak",
    "Does anything grow in a server that carries out round after round?",
    short=partial(_soak, seconds=60.0),
)
def grpc_soak(peers: Peers) -> Iterator[Figure]:
    """12 clients in masked rounds of 6, 50 calls a second for 10 minutes, 5 of 100 given up.

    The slope of the memory is the median of those between all pairs of its samples (Theil, 1950;
    Sen, 1968); the rest is the median of the last third of the samples less that of the first. The
    first fifth of the run is left out: in it calls come as fast as they are answered, until the
    database's caches hold the 2 MB a connection that they may hold.
    """
    yield from _soak(peers, seconds=600.0)


def growth(points: Sequence[tuple[float, float]]) -> float:
    """The median slope between all pairs of (time, value): a few that stray do not count.

    >>> growth([(0, 0), (1, 2), (2, 4), (3, 99), (4, 8)])
    2.0
    """
    pairs = combinations(points, 2)
    return statistics.median((b[1] - a[1]) / (b[0] - a[0]) for a, b in pairs if b[0] > a[0])


def _risen(values: Sequence[float]) -> float:
    third = len(values) // 3
    return statistics.median(values[-third:]) - statistics.median(values[:third])


async def _watched(
    stage: Stage, server: Process, seconds: float
) -> tuple[UnsteadyCalls, list[_Held]]:
    calls = UnsteadyCalls(rate=math.inf)
    bench = Workbench(stage.task, registrar=stage.registrar)
    async with connected(server.address, stage.devices, stage.root) as channels:
        parts = [
            asyncio.create_task(_on_and_on(MaskedPart(device, channel, calls, bench)))
            for device, channel in zip(stage.devices, channels, strict=True)
        ]
        loop, found = asyncio.get_running_loop(), []
        begin_s = loop.time()
        for number in range(_SAMPLES):
            if number == int(_WARM * _SAMPLES):
                calls.rate = _RATE
            due_s = begin_s + seconds * (number + 1) / _SAMPLES
            ended, _ = await asyncio.wait(parts, timeout=due_s - loop.time())
            for part in ended:
                part.result()  # they end only by an error
            found.append(await asyncio.to_thread(_held, stage, server, loop.time(), calls))
        for part in parts:
            part.cancel()
        await asyncio.gather(*parts, return_exceptions=True)
    return calls, found


async def _on_and_on(part: MaskedPart) -> None:
    while True:
        await part.take_part()


def _held(stage: Stage, server: Process, at_s: float, calls: UnsteadyCalls) -> _Held:
    process = Path(f"/proc/{server.pid}")
    url = f"http://127.0.0.1:{server.ops}/metrics"
    with urllib.request.urlopen(url, timeout=30) as answer:
        text = answer.read().decode()
    coroutines = next(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "fedcore_coroutines"
    )
    return _Held(
        at_s,
        calls.begun,
        resident_bytes(server.pid),
        len(os.listdir(process / "fd")),
        len(os.listdir(process / "task")),
        coroutines,
        sum(path.stat().st_size for path in (stage.folder / "state").glob("*-wal")),
    )
