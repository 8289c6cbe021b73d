"""Who is held until a selection: all that it needs, and who waited in vain comes back at once."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from fedserver.federation import check_ins
from fedserver.federation.interface import CheckIn, RetryLater
from fedserver.store.records import TaskState
from tests.server.federation.world import task_of, world_in


async def test_a_client_that_was_held_in_vain_is_asked_back_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_ins, "_HELD_S", 0.05)
    async with world_in(tmp_path, task_of(secure="", deadline_s=600.0)) as world:
        for _ in range(2):
            ask = CheckIn(
                secrets.token_bytes(16), "", "1", frozenset(), frozenset({"toy"}), frozenset()
            )
            answer = await world.call(lambda f, ask=ask: f.check_in(world.devices[0].caller, ask))
            assert isinstance(answer, RetryLater)
            assert answer.delay_max_ms <= 1_000


async def test_a_round_that_needs_more_clients_than_are_held_otherwise_takes_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_ins, "_MOST_HELD", 2)
    async with world_in(tmp_path, task_of(secure="", rounds=1)) as world:
        assert (await world.run()).state is TaskState.COMPLETED
