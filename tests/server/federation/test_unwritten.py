"""What a session took and the disk refused is in no sum, and no crash finds out about it later."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from fedcore.rounds import Phase
from fedserver.store.records import TaskState
from fedserver.store.sqlite.store import SqliteStore
from tests.server.federation.device import Silence
from tests.server.federation.test_rounds import MASKED, final_of, models_of
from tests.server.federation.world import task_of, world_in


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "step", "then"),
    [
        ("seal_upload", "trailer", Phase.CONFIRMING),
        ("put_session", "shares", Phase.COLLECTING),
        ("put_session", "confirmation", Phase.UNMASKING),
    ],
    ids=lambda given: getattr(given, "name", given),
)
async def test_a_message_that_was_not_written_and_never_came_again_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, step: str, then: Phase
) -> None:
    real, failed = getattr(SqliteStore, method), []

    async def fails_once(store: SqliteStore, *args: Any, **options: Any) -> Any:
        records = args[1] if method == "put_session" else options["session"]
        if not failed and any(f"/{step}" in name for name in records):
            failed.append(method)
            raise Silence  # and the client is gone as well
        return await real(store, *args, **options)

    monkeypatch.setattr(SqliteStore, method, fails_once)
    task = task_of(rounds=1, minimum=4, secure=MASKED, heartbeat_s=0.5)
    async with world_in(tmp_path, task) as world:
        running = asyncio.ensure_future(world.run())
        await world.in_phase(then)
        assert failed
        await world.crash()
        record = await running
        assert record.state is TaskState.COMPLETED
        kept = await world.store.latest_attempt(record.task_id, 0)
        assert kept is not None and kept.ref.attempt == 1
        (gone,) = (i for i, device in enumerate(world.devices) if not device.outcomes)
        in_the_sum = frozenset() if step == "confirmation" else frozenset({gone})
        assert await final_of(world) == models_of(task, world, without=in_the_sum)[-1]
