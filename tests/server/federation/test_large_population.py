"""Most of a large population is not needed now: it is told when to come, and holds no call."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from fedcore.rounds import Phase
from fedserver.federation import check_ins
from fedserver.federation.interface import Assigned, CheckIn, RetryLater
from tests.server.federation.world import World, task_of, world_in


async def _asked(world: World, number: int, request_id: bytes = b"") -> Assigned | RetryLater:
    ask = CheckIn(
        request_id or secrets.token_bytes(16), "", "1", frozenset(), frozenset({"toy"}), frozenset()
    )
    return await world.call(lambda f: f.check_in(world.devices[number].caller, ask))


async def test_beside_a_round_a_large_population_is_answered_at_once_and_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_ins, "_LARGE", 2)
    task = task_of(clients=1, secure="", deadline_s=600.0, heartbeat_s=60.0)
    async with world_in(tmp_path, task, clients=3) as world:
        assert isinstance(await _asked(world, 0), Assigned)
        await world.in_phase(Phase.COLLECTING)
        request_id = secrets.token_bytes(16)
        first = await _asked(world, 1, request_id)  # else it were held for 15 seconds
        assert isinstance(first, RetryLater)
        assert await _asked(world, 1, request_id) == first
        assert world.submitted is not None
        assert await world.store.waiting(world.submitted.task_id) == ()
