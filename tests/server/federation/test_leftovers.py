"""What nothing refers to is deleted, and nothing else is."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from fedcore.rounds import Phase
from fedserver.federation.leftovers import collect_blobs
from fedserver.spool import Spool
from fedserver.store.records import TaskState
from tests.server.federation.world import task_of, world_in


async def test_uploads_of_no_open_round_are_gone_after_a_start(tmp_path: Path) -> None:
    async with world_in(tmp_path, task_of()) as world:
        await world.stop()
        spool = Spool(tmp_path / "spool")
        await spool.open(b"of no round", 100)
        await world.start()
        assert await Spool(tmp_path / "spool").stored() == frozenset()


@pytest.mark.slow  # test_forgetting.py has the sum of what is sealed before a crash, too
async def test_uploads_of_an_open_round_are_kept_by_a_start(tmp_path: Path) -> None:
    task = task_of(rounds=1, minimum=4, heartbeat_s=0.5)
    async with world_in(tmp_path, task) as world:
        world.devices[0].silent_at = lambda round, place: place == "upload"
        running = asyncio.ensure_future(world.run())
        await world.in_phase(Phase.COLLECTING)
        await world.crash()
        record = await running
        assert (record.state, record.rounds_completed) == (TaskState.COMPLETED, 1)
        assert [device.contributions for device in world.devices[1:]] == [1] * 4


async def test_only_old_blobs_that_are_no_model_or_state_are_deleted(tmp_path: Path) -> None:
    task = task_of(algorithm='name = "fedavgm"')
    async with world_in(tmp_path, task) as world:
        await world.run()
        assert world.submitted is not None
        head = await world.store.head(world.submitted.task_id)
        assert head is not None and head.state_digest
        stray = await world.blobs.put_bytes(b"of no task")
        fresh = await world.blobs.put_bytes(b"of no task yet")
        yesterday = 1.0
        for path in (tmp_path / "blobs").rglob("*"):
            if path.is_file() and path.name != fresh.hex():
                os.utime(path, (yesterday, yesterday))
        assert await collect_blobs(world.store, world.blobs) >= 1
        left = {path.name for path in (tmp_path / "blobs").rglob("*") if path.is_file()}
        models = {model.digest.hex() for model in await world.store.models(head.task_id)}
        assert stray.hex() not in left
        assert left >= models | {head.state_digest.hex(), fresh.hex()}
