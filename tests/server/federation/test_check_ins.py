"""Who is held until a selection: all that it needs, and who waited in vain comes back at once."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path

import pytest

from fedcore.rounds import Phase
from fedserver.federation import check_ins
from fedserver.federation.interface import Assigned, CheckIn, RetryLater
from fedserver.store.records import RoundRef, TaskState
from tests.server.federation.world import World, task_of, world_in


def question() -> CheckIn:
    return CheckIn(secrets.token_bytes(16), "", "1", frozenset(), frozenset({"toy"}), frozenset())


def asks(world: World, number: int, ask: CheckIn) -> asyncio.Task[Assigned | RetryLater]:
    assert world.federation is not None
    return asyncio.create_task(world.federation.check_in(world.devices[number].caller, ask))


async def calls_waiting(world: World, count: int) -> None:
    """Until so many calls wait to be selected."""
    assert world.federation is not None
    while True:
        for driver in world.federation._drivers.values():
            if driver.attempt is not None:
                waiting = driver.attempt.cohort._waiting.values()
                if sum(found.calls for found in waiting) == count:
                    return
        await asyncio.sleep(0)


async def test_a_client_that_was_held_in_vain_is_asked_back_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_ins, "_HELD_S", 0.05)
    async with world_in(tmp_path, task_of(secure="", deadline_s=600.0)) as world:
        for _ in range(2):
            answer = await asks(world, 0, question())
            assert isinstance(answer, RetryLater)
            assert answer.delay_max_ms <= 1_000


async def test_a_round_that_needs_more_clients_than_are_held_otherwise_takes_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_ins, "_MOST_HELD", 2)
    async with world_in(tmp_path, task_of(secure="", rounds=1)) as world:
        assert (await world.run()).state is TaskState.COMPLETED


async def test_a_check_in_that_is_said_twice_has_one_answer_and_costs_nobody_the_round(
    tmp_path: Path,
) -> None:
    task = task_of(clients=3, minimum=2, secure="", deadline_s=600.0)
    async with world_in(tmp_path, task, clients=3) as world:
        ask = question()
        calls = [asks(world, 0, ask), asks(world, 1, question())]
        await calls_waiting(world, 2)
        calls.append(asks(world, 0, ask))
        await calls_waiting(world, 3)
        calls.append(asks(world, 2, question()))
        first, _, again, _ = await asyncio.gather(*calls)
        assert isinstance(first, Assigned) and again == first
        ref = RoundRef(world.submitted.task_id, 0, 1)  # type: ignore[union-attr]
        parts = await world.store.assignments(ref)
        assert [part.client_id for part in parts] == [d.caller.id for d in world.devices]
        assert await asks(world, 0, ask) == first


async def test_a_call_that_ends_leaves_the_check_in_to_another_call_that_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of(clients=3, minimum=2, secure="", deadline_s=600.0)
    async with world_in(tmp_path, task, clients=3) as world:
        monkeypatch.setattr(check_ins, "_HELD_S", 1.5)
        ask = question()
        first, other = asks(world, 0, ask), asks(world, 1, question())
        await calls_waiting(world, 2)
        monkeypatch.setattr(check_ins, "_HELD_S", 600.0)
        again = asks(world, 0, ask)
        await calls_waiting(world, 3)
        assert isinstance(await first, RetryLater) and isinstance(await other, RetryLater)
        others = [asks(world, number, question()) for number in (1, 2)]
        found = await again
        assert isinstance(found, Assigned)
        assert all(isinstance(answer, Assigned) for answer in await asyncio.gather(*others))
        assert await asks(world, 0, ask) == found
        await world.in_phase(Phase.COLLECTING)
