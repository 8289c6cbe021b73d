"""A server that is offered three times what it can take does as much as before, and says so."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.federation.bare_http2 import Answer, Done, Wire, head_of
from benchmarks.federation.connections import connected
from benchmarks.federation.curve import Curve, curve
from benchmarks.federation.part import Part, Update, question
from benchmarks.federation.processes import one_core_each, resident_bytes
from benchmarks.federation.stage import Device, Stage
from benchmarks.federation.storm import Begin, Storm
from benchmarks.federation.tasks import arrays_task
from benchmarks.figure import Figure, Target
from benchmarks.grpc_ingest import first_model
from benchmarks.peers import Peers
from benchmarks.registry import benchmark
from fedcore.v1 import upload_service_pb2
from fedcore.wire.transfer import crc32

__all__ = ["Way", "grpc_overload"]

_NAME = "grpc-overload"
_PATIENCE_S = 5.0
_STEPS = (0.5, 1.0, 2.0, 3.0)
_AT_ONCE = 64
_MOST_PIECES = 4  # of one upload on their way
_CHECK_IN = head_of("/fedcore.v1.ClientService/CheckIn", timeout_s=int(_PATIENCE_S))
_PUT_CHUNK = head_of("/fedcore.v1.UploadService/PutChunk", timeout_s=int(_PATIENCE_S))


@dataclass(frozen=True)
class _Size:
    """`population` clients ask for work while those of the cohort upload so many parameters.

    So often, and so long each time, every step is offered as check-ins, and as pieces, of which the
    updates have but so many; for half as long what it takes at most is found before each and after.
    Before them it takes pieces for `filling_s`: a disk takes more for its first seconds than it
    can go on taking, and what it takes then is no capacity.
    The population is more than nine times the cohort, or it would be held until a selection.
    """

    population: int
    cohort: int
    parameters: int
    asked: tuple[int, float]
    sent: tuple[int, float]
    filling_s: float


def _overload(_peers: Peers, *, size: _Size) -> Iterator[Figure]:
    serves, loads = one_core_each()
    before = os.sched_getaffinity(0)
    task = arrays_task(clients=size.cohort, parameters=size.parameters)
    update = Update.of(task)
    model_mb = 4 * size.parameters / 1e6
    with TemporaryDirectory() as folder:
        stage = Stage(
            Path(folder),
            clients=size.cohort + size.population,
            task=task,
            model=first_model(size.parameters),
        )
        os.sched_setaffinity(0, loads)
        try:
            with stage.serving(cores=serves) as server:
                uploads = asyncio.run(_opened(stage, server.address, update, size.cohort))
                wires = [Wire(server.address, one, stage.root) for one in stage.devices]
                with closing(Storm(wires, patience_s=_PATIENCE_S)) as storm:
                    asking = _asking(wires[size.cohort :])
                    storm.filled(asking, at_once=_AT_ONCE, seconds=size.asked[1] / 2)
                    check_ins = _curve(storm, asking, asking, *size.asked)
                    sending = _Sending(wires[: size.cohort], uploads, update)
                    storm.filled(sending, at_once=_AT_ONCE, seconds=size.filling_s)
                    pieces = _curve(storm, sending, asking, *size.sent)
                most_mb = resident_bytes(server.pid, most=True) / 1e6
        finally:
            os.sched_setaffinity(0, before)
    mb = sending.piece_bytes / 1e6
    yield from _figures("check-ins", check_ins, 1.0, "1/s")
    yield from _figures("uploads", pieces, mb, "MB/s")
    bound = Target("value", "<=", round(2**30 / 1e6 + 2 * model_mb))
    yield Figure(f"{_NAME}.memory", most_mb, "MB", most_mb / (2 * model_mb), "two models", bound)


@benchmark(
    "grpc-overload",
    "What does a server do when it is offered three times what it can take?",
    short=partial(_overload, size=_Size(180, 16, 25_000_000, (1, 0.8), (1, 0.8), 0.3)),
)
def grpc_overload(peers: Peers) -> Iterator[Figure]:
    """One server process on one core, calls as bare frames from another.

    First check-ins, then pieces of updates: as many as it takes with 64 always on their way, then
    0.5, 1, 2 and 3 times as many a second, at fixed moments, whatever becomes of them. Of use is
    what is answered within 5 s. Each step is held against the mean of what was taken right before
    and right after it, for a shared machine is twice as fast in one second as in another, and the
    median of nine such shares, of three for pieces, counts; the most is the highest of these, and
    never less than 1. It has recovered once a second's check-ins, 20 of them, are each answered
    within 250 ms.
    """
    yield from _overload(peers, size=_Size(900, 96, 25_000_000, (9, 8.0), (3, 2.0), 8.0))


def _curve(storm: Storm, begin: Begin, probe: Begin, repeats: int, seconds: float) -> Curve:
    return curve(
        storm, begin, probe, steps=_STEPS, at_once=_AT_ONCE, repeats=repeats, seconds=seconds
    )


def _figures(kind: str, found: Curve, unit: float, name: str) -> Iterator[Figure]:
    yield Figure(f"{_NAME}.{kind}-capacity", found.capacity * unit, name)
    for step in _STEPS:
        bound = Target("ratio", ">=", 0.8) if step == _STEPS[-1] else None
        good, share = found.goodput(step), found.share(step) / found.peak
        yield Figure(f"{_NAME}.{kind}-at-{step:g}", good * unit, name, share, "the most", bound)
    offered, most = found.offered(_STEPS[-1]), found.peak
    yield Figure(
        f"{_NAME}.{kind}-offered", offered.value * unit, name, offered.share / most, "the most"
    )
    nothing, tallies = Target("value", "<=", 0), found.tallies
    yield Figure(f"{_NAME}.{kind}-refused", sum(one.refused for one in tallies), "calls")
    bare = sum(one.bare for one in tallies)
    yield Figure(f"{_NAME}.{kind}-without-hint", bare, "refusals", None, None, nothing)
    yield Figure(f"{_NAME}.{kind}-ended", sum(one.ended for one in tallies), "calls")
    yield Figure(f"{_NAME}.{kind}-withheld", sum(one.withheld for one in tallies), "calls")
    yield Figure(f"{_NAME}.{kind}-failed", sum(one.failed for one in tallies), "calls")
    soon = Target("value", "<=", 30)
    yield Figure(f"{_NAME}.{kind}-recovery", found.recovery_s, "s", None, None, soon)


def _asking(wires: Sequence[Wire]) -> Begin:
    turn = count()

    def begin(done: Done) -> bool:
        wires[next(turn) % len(wires)].call(_CHECK_IN, question().SerializeToString(), done)
        return True

    return begin


class _Sending:
    """The pieces of the updates of a cohort, in turns, each until it has been taken.

    None is sent more than four ahead of one that was not taken, as the protocol wants it: a client
    that has so many on their way begins no call.
    """

    def __init__(
        self,
        wires: Sequence[Wire],
        uploads: Sequence[upload_service_pb2.BeginResponse],
        update: Update,
    ) -> None:
        self.piece_bytes = min(upload.chunk_bytes for upload in uploads)
        self._data, self._turn = update.data, count()
        self._ways = [
            Way(wire, upload.upload_id, list(range(0, len(update.data), self.piece_bytes)))
            for wire, upload in zip(wires, uploads, strict=True)
        ]

    def __call__(self, done: Done) -> bool:
        for _ in self._ways:
            way = self._ways[next(self._turn) % len(self._ways)]
            if (offset := way.take(_MOST_PIECES * self.piece_bytes)) is not None:
                self._send(way, offset, done)
                return True
        if not any(way.todo for way in self._ways):
            raise RuntimeError("the updates are too small for what the server takes")
        return False

    def _send(self, way: Way, offset: int, done: Done) -> None:
        data = self._data[offset : offset + self.piece_bytes]
        request = upload_service_pb2.PutChunkRequest(
            upload_id=way.upload_id, offset=offset, crc32=crc32(data), data=data
        )
        way.wire.call(_PUT_CHUNK, request.SerializeToString(), partial(way.end, offset, done))


@dataclass
class Way:
    """An upload under way. `todo`: a heap of where pieces begin that were not taken."""

    wire: Wire
    upload_id: bytes
    todo: list[int]

    def __post_init__(self) -> None:
        self._flying: set[int] = set()

    def take(self, most: int) -> int | None:
        """The next to send, unless that is so many bytes ahead of one that is not there yet."""
        if not self.todo or self.todo[0] >= min((self.todo[0], *self._flying)) + most:
            return None
        offset = heappop(self.todo)
        self._flying.add(offset)
        return offset

    def end(self, offset: int, done: Done, answer: Answer) -> None:
        """Takes note of how a piece fared, and tells."""
        self._flying.remove(offset)
        if answer.status != 0:
            heappush(self.todo, offset)
        done(answer)


async def _opened(
    stage: Stage, address: str, update: Update, cohort: int
) -> list[upload_service_pb2.BeginResponse]:
    """The uploads of a round, opened by its clients in the ordinary way."""
    devices: Sequence[Device] = stage.devices[:cohort]
    async with connected(address, devices, stage.root) as channels:
        parts = [Part(*both) for both in zip(devices, channels, strict=True)]
        await asyncio.gather(*(part.check_in() for part in parts))
        await asyncio.gather(*(part.ordered("train") for part in parts))
        return [await part.begin(update) for part in parts]
