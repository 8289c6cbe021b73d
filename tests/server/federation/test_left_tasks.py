"""A task that a start cannot take up says why, keeps its devices' work, and can be cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from fedcore.errors import DrainingError
from fedcore.rounds import Phase
from fedserver.store.records import Idempotency, ModelRecord, RoundRef, TaskRecord, TaskState
from tests.server.federation.test_rolled_back_ledgers import PRIVACY
from tests.server.federation.world import KEY, World, task_of, world_in

OTHER_KEY = bytes(32)
NOT_TAKEN_UP = "fedcore_tasks_not_taken_up"


@asynccontextmanager
async def left(folder: Path) -> AsyncIterator[tuple[World, asyncio.Future[TaskRecord]]]:
    """A task whose devices are about to upload, on a server that has another participation key.

    Gives its world, and the devices' work.
    """
    async with world_in(folder, task_of(privacy=PRIVACY, secure="")) as world:
        running = asyncio.ensure_future(world.run())
        await world.in_phase(Phase.COLLECTING)
        await world.stop()
        world.participation_key = OTHER_KEY
        await world.start()
        yield world, running
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def figure(world: World, name: str) -> str:
    """The value of a figure as it is exported, "" for one that is not there."""
    lines = world.metrics.exposition().decode().splitlines()
    return next((line.rpartition(" ")[2] for line in lines if line.startswith(name)), "")


async def test_it_says_why_and_nobody_gives_up_what_it_has_done(tmp_path: Path) -> None:
    async with left(tmp_path) as (world, running):
        assert world.federation is not None and world.submitted is not None
        task_id = world.submitted.task_id
        spent = await world.federation.spent(world.user, task_id)
        assert "FED-1508" in spent.trouble and "participation key" in spent.trouble
        assert figure(world, NOT_TAKEN_UP) == "1.0"

        ref = RoundRef(task_id, 0, 1)
        assignments = await world.store.assignments(ref)
        assert len(assignments) == len(world.devices)
        for device, one in zip(world.devices, assignments, strict=True):
            with pytest.raises(DrainingError) as refused:
                await world.federation.next(device.caller, one.assignment_id, seen=0, wait_s=0.1)
            assert refused.value.retry == (30_000, 60_000)

        await world.stop()
        world.participation_key = KEY
        await world.start()
        assert (await running).state is TaskState.COMPLETED
        rounds = (await world.store.rounds(task_id)).rounds
        assert {one.ref.attempt for one in rounds} == {1}
        assert {device.contributions for device in world.devices} == {len(rounds)}
        assert not (await world.federation.spent(world.user, task_id)).trouble


async def test_it_is_cancelled_and_nothing_is_left_of_its_round(tmp_path: Path) -> None:
    async with left(tmp_path) as (world, running):
        assert world.federation is not None and world.submitted is not None
        ref = RoundRef(world.submitted.task_id, 0, 1)
        assert await world.store.upload_key(ref) is not None
        once = Idempotency(world.user.principal, "CancelTask", b"c" * 16, bytes(32))
        why = "its key is lost"
        await world.federation.cancel(world.user, ref.task_id, reason=why, once=once)
        assert (await running).state is TaskState.CANCELLED
        await world.federation._take_up()
        assert figure(world, NOT_TAKEN_UP) == "0.0"
        record = await world.store.round(ref)
        assert record is not None and (record.phase, record.reason) == ("CANCELLED", why)
        assert await world.store.upload_key(ref) is None
        assert not await world.store.outbox_pending(limit=10)
        # Where it stands is still known, and it is no trouble any more.
        assert not (await world.federation.spent(world.user, ref.task_id)).trouble


async def test_one_of_another_version_keeps_no_other_from_going_on(tmp_path: Path) -> None:
    async with world_in(tmp_path, task_of(secure="")) as world:
        assert world.submitted is not None and world.federation is not None
        record = await world.record()
        foreign = replace(record, task_id="foreign-1", digest=bytes(32), spec=b'{"version": 9}')
        digest = await world.final()
        await world.store.add_task(foreign, ModelRecord(digest, "foreign-1", b"", 0, 5))
        await world.stop()
        await world.start()
        assert figure(world, NOT_TAKEN_UP) == "1.0"
        assert "FED-1601" in (await world.federation.spent(world.user, "foreign-1")).trouble
        assert (await world.run()).state is TaskState.COMPLETED
        once = Idempotency(world.user.principal, "CancelTask", b"c" * 16, bytes(32))
        await world.federation.cancel(world.user, "foreign-1", reason="old", once=once)
        await world.federation._take_up()
        assert figure(world, NOT_TAKEN_UP) == "0.0"


async def test_the_budget_of_a_task_that_has_ended_alarms_nobody(tmp_path: Path) -> None:
    async with world_in(tmp_path, task_of(privacy=PRIVACY, secure="")) as world:
        running = asyncio.ensure_future(world.run())
        await world.in_phase(Phase.COMPLETED)
        assert figure(world, "fedcore_epsilon_budget{") == "1000.0"
        assert (await running).state is TaskState.COMPLETED
        assert world.federation is not None
        await asyncio.gather(*world.federation._running.values())
        assert figure(world, "fedcore_epsilon_budget{") == ""
        assert float(figure(world, "fedcore_epsilon_spent{")) > 0
