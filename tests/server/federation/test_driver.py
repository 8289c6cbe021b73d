"""Who waits for a driver hears of what happens, at whatever moment it happens."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fedcore.rounds import Phase
from fedserver.store.records import RoundRef
from tests.server.federation.world import task_of, world_in


async def test_a_change_right_after_a_look_is_not_missed(tmp_path: Path) -> None:
    async with world_in(tmp_path, task_of()) as world:
        assert world.federation is not None and world.submitted is not None
        await world.waiting_for(RoundRef(world.submitted.task_id, 0, 1))
        driver = world.federation._drivers[world.submitted.task_id]
        assert driver.attempt is not None
        waiting = asyncio.ensure_future(driver.turned(60.0))
        await asyncio.sleep(0)  # it has looked, and what it waits with has not run yet
        driver.attempt._turn_page()
        await asyncio.wait_for(waiting, 5.0)
        assert driver.attempt.state.phase is Phase.PENDING
