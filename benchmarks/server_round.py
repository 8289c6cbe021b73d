"""The books of a round: what a server computes for it whatever its clients compute."""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time

from benchmarks.federation.history import enrolled
from benchmarks.federation.part import Update
from benchmarks.federation.processes import one_core_each
from benchmarks.federation.stage import Stage
from benchmarks.federation.tasks import linear_task
from benchmarks.figure import Figure, Target
from benchmarks.peers import Peers
from benchmarks.registry import benchmark
from fedcore.rounds import Phase
from fedcore.wire.transfer import crc32
from fedserver.authorisation import Caller
from fedserver.federation.interface import (
    Assigned,
    CheckIn,
    FailureCode,
    Federation,
    Finished,
    Report,
    Train,
)
from fedserver.freed import collect_rarely
from fedserver.opening import opened
from fedserver.parts import Parts
from fedserver.turns import wait_for_turns

__all__ = ["server_round"]

_COHORT = 10_000
_CPU_S = 15.0
_WAIT_S = 600.0
_POLL_S = 0.05


@benchmark("server-round", "What does a server compute for the books of a round of 10,000 clients?")
def server_round(_peers: Peers) -> Iterator[Figure]:
    """Check-ins, assignments, uploads of 15 numbers, seals and reports, all of them durable.

    All CPU time of a process in which the clients are coroutines that compute nothing, without
    a network and TLS, on one core, as a server of that size is meant to have.
    """
    with TemporaryDirectory() as folder, _as_the_program_does():
        stage = Stage(Path(folder), clients=0, task=linear_task(clients=_COHORT))
        spent = asyncio.run(_spent(stage))
    yield Figure("server-round", spent, "s of CPU", target=Target("value", "<=", _CPU_S))


@contextmanager
def _as_the_program_does() -> Iterator[None]:
    threshold, scheduler = gc.get_threshold(), os.sched_getscheduler(0)
    cores, (serves, _) = os.sched_getaffinity(0), one_core_each()
    collect_rarely()
    wait_for_turns()
    os.sched_setaffinity(0, serves)
    try:
        yield
    finally:
        gc.set_threshold(*threshold)
        gc.unfreeze()
        os.sched_setscheduler(0, scheduler, os.sched_param(0))
        os.sched_setaffinity(0, cores)


async def _spent(stage: Stage) -> float:
    update = Update.of(stage.task)
    async with opened(stage.config()) as parts:
        clients = [_caller(client) for client in await enrolled(parts.store, _COHORT)]
        begin = process_time()
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(_take_part(parts.federation, client, update))
        await _ended(parts)
        spent = process_time() - begin
        await parts.federation.stop()
    return spent


def _caller(client: bytes) -> Caller:
    return Caller("client", id=client, name=client.hex(), tenant="default", role="client")


async def _take_part(server: Federation, client: Caller, update: Update) -> None:
    part, seen = await _assigned(server, client), 0
    while True:
        found = await server.next(client, part.assignment_id, seen=seen, wait_s=_WAIT_S)
        seen = found.number
        match found.order:
            case Train():
                await _upload(server, client, part, update)
            case Finished():
                report = Report(part.assignment_id, FailureCode.NONE, "", 1, 2, 0.5, False)
                return await server.report(client, report)


async def _assigned(server: Federation, client: Caller) -> Assigned:
    some = frozenset({"toy"})
    question = CheckIn(secrets.token_bytes(16), "", "1", frozenset({"bench"}), some, frozenset())
    while True:
        answer = await server.check_in(client, question)
        if isinstance(answer, Assigned):
            return answer
        await asyncio.sleep(answer.delay_min_ms / 1000)


async def _upload(server: Federation, client: Caller, part: Assigned, update: Update) -> None:
    data = update.data
    begun = await server.begin_upload(client, part.assignment_id, size=len(data), header=None)
    upload = begun.upload_id
    await server.put_chunk(client, upload, offset=0, crc32=crc32(data), data=data)
    await server.commit_upload(client, upload, size=len(data), sha256=update.sha256)


async def _ended(parts: Parts) -> None:
    (task,) = await parts.store.tasks()
    while True:
        found = await parts.store.latest_attempt(task.task_id, 0)
        if found is not None and found.phase == Phase.SCRUBBED.value:
            return
        await asyncio.sleep(_POLL_S)
