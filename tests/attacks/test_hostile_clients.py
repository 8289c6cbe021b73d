"""Clients with valid certificates that want a task, or the server, to come to nothing."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path

import pytest

from fedcore.rounds import Phase
from fedserver.federation import check_ins
from fedserver.federation.interface import CheckIn
from fedserver.store.records import TaskState
from tests.server.federation.world import Device, World, task_of, world_in


def asking(device: Device, world: World) -> asyncio.Future[object]:
    """A check-in under way, under a request of its own."""
    ask = CheckIn(secrets.token_bytes(16), "", "1", frozenset(), frozenset({"toy"}), frozenset())
    return asyncio.ensure_future(world.call(lambda f: f.check_in(device.caller, ask)))


async def test_one_client_that_asks_often_begins_no_round_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_ins, "_HELD_S", 0.5)
    async with world_in(tmp_path, task_of(clients=3, deadline_s=0.2), clients=3) as world:
        for _ in range(2):
            await asyncio.gather(*(asking(world.devices[0], world) for _ in range(6)))
        assert world.submitted is not None
        attempt = await world.store.latest_attempt(world.submitted.task_id, 0)
        assert attempt is not None
        assert (attempt.ref.attempt, attempt.phase) == (1, Phase.PENDING.value)
        assert (await world.record()).state is TaskState.RUNNING
