"""A server that drains selects nobody, and keeps nobody from what was begun."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from fedcore.rounds import CheckedIn, DeadlinePassed, Phase
from fedserver.federation import driver
from fedserver.federation.interface import Assigned, CheckIn, RetryLater
from fedserver.store.records import TaskState
from tests.server.federation.test_rounds import SAMPLED
from tests.server.federation.world import World, task_of, world_in


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that may begin nothing looks again at once."""
    monkeypatch.setattr(driver, "_PAUSE_S", 0.001)


def question(request_id: bytes) -> CheckIn:
    return CheckIn(request_id, "", "1", frozenset(), frozenset({"toy"}), frozenset())


async def test_who_asks_a_server_that_drains_is_told_when_to_come_back(tmp_path: Path) -> None:
    async with world_in(tmp_path, task_of(secure="")) as world:
        caller = world.devices[0].caller
        request_id = secrets.token_bytes(16)
        held = asyncio.create_task(
            world.call(lambda f: f.check_in(caller, question(secrets.token_bytes(16))))
        )
        while not world.federation._held:  # noqa: ASYNC110, nothing tells of it
            await asyncio.sleep(0)
        await world.federation.drain()
        assert isinstance(await held, RetryLater)
        answers = [
            await world.call(lambda f: f.check_in(caller, question(request_id))) for _ in range(2)
        ]
        assert answers == [RetryLater(1_000, 5_000)] * 2


async def test_who_was_selected_and_lost_the_answer_gets_it_from_a_server_that_drains(
    tmp_path: Path,
) -> None:
    async with world_in(tmp_path, task_of(secure="")) as world:
        requests = {device.caller.id: secrets.token_bytes(16) for device in world.devices}

        async def ask(device: Any) -> Any:
            asked = question(requests[device.caller.id])
            return await world.call(lambda f: f.check_in(device.caller, asked))

        selected = await asyncio.gather(*map(ask, world.devices))
        assert all(isinstance(answer, Assigned) for answer in selected)
        await world.federation.drain()
        assert await asyncio.gather(*map(ask, world.devices)) == selected


async def test_a_selection_that_is_open_takes_nobody_and_goes_on_after_a_restart(
    tmp_path: Path,
) -> None:
    task = task_of(secure="", rounds=1, minimum=1, deadline_s=20.0)
    async with world_in(tmp_path, task) as world:
        assert world.submitted is not None and world.federation is not None
        asking = asyncio.create_task(
            world.federation.check_in(world.devices[0].caller, question(secrets.token_bytes(16)))
        )
        await world.in_phase(Phase.SELECTING)
        driven = world.federation._drivers[world.submitted.task_id]
        assert driven.attempt is not None
        while not driven.attempt.state.arrived:  # noqa: ASYNC110, nothing tells of it
            await asyncio.sleep(0)
        await world.federation.drain()
        assert await asyncio.wait_for(asking, 5.0) == RetryLater(1_000, 5_000)
        attempt = driven.attempt
        await asyncio.sleep(0)
        assert not attempt.state.arrived

        attempt.post(DeadlinePassed(attempt._now() + 10_000, Phase.SELECTING))
        attempt.post(CheckedIn(attempt._now(), world.devices[1].caller.id))
        while not attempt._events.empty():  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert attempt.state.phase is Phase.SELECTING and not attempt.state.cohort

        await world.stop()
        restarted = attempt._now()
        await world.start()
        assert world.federation is not None
        again = world.federation._drivers[world.submitted.task_id]
        await again.page.turned(5.0)
        assert again.attempt is not None
        assert (again.attempt.state.deadline or 0) >= restarted + 20_000  # the whole time again
        record = await world.run()
        assert (record.state, record.rounds_completed) == (TaskState.COMPLETED, 1)
        assert [found.ref.attempt for found in await attempts_of(world)] == [1]


async def test_whoever_was_being_selected_gets_its_part(tmp_path: Path) -> None:
    async with world_in(tmp_path, task_of(secure="", rounds=1, clients=2), clients=2) as world:
        assert world.federation is not None
        advance, written, drained = world.store.advance_round, asyncio.Event(), asyncio.Event()

        async def slow(*given: Any, **named: Any) -> Any:
            if len(named.get("assignments", ())) == 2:
                written.set()
                await drained.wait()
            return await advance(*given, **named)

        world.store.advance_round = slow  # type: ignore[method-assign]
        asking = [
            asyncio.create_task(
                world.federation.check_in(device.caller, question(secrets.token_bytes(16)))
            )
            for device in world.devices
        ]
        await written.wait()
        await world.federation.drain()
        early, _ = await asyncio.wait(asking, timeout=0.2)
        drained.set()
        assert not early, "answered before it was known that they have a part"
        answers = await asyncio.wait_for(asyncio.gather(*asking), 5.0)
        assert all(isinstance(answer, Assigned) for answer in answers)


async def test_no_privacy_is_spent_for_rounds_that_nobody_can_take_part_in(tmp_path: Path) -> None:
    task = task_of(
        secure="", privacy=SAMPLED, clients=38, minimum=1, rounds=2, deadline_s=0.2, heartbeat_s=0.1
    )
    async with world_in(tmp_path, task, clients=40) as world:
        assert world.federation is not None and world.submitted is not None
        await world.federation.drain()
        await asyncio.sleep(0)
        await world.stop()
        await world.start()  # what was paid for is not paid for again
        assert world.federation is not None
        await world.federation.drain()
        account = await world.account()
        spent = account.ledger.epsilon()
        looked = looks_at_heads(world)
        for _ in range(3):
            for device in world.devices:
                ask = question(secrets.token_bytes(16))
                answer = await world.federation.check_in(device.caller, ask)
                assert isinstance(answer, RetryLater)
            await looked()
        assert not await world.ended()
        assert account.ledger.epsilon() == spent < 3.0
        assert len(await attempts_of(world)) <= 1


async def test_a_task_that_is_submitted_to_a_server_that_drains_begins_with_the_next(
    tmp_path: Path,
) -> None:
    async with world_in(tmp_path, task_of(secure="", rounds=1), submitted=False) as world:
        assert world.federation is not None
        await world.federation.drain()
        looked = looks_at_heads(world)
        await world.submit()
        for _ in range(3):
            await looked()
        assert not await attempts_of(world)
        await world.stop()
        await world.start()
        assert (await world.run()).state is TaskState.COMPLETED


def looks_at_heads(world: World) -> Callable[[], Awaitable[bool]]:
    """What waits until a driver has looked once more where its task stands."""
    head, looked = world.store.head, asyncio.Semaphore(0)

    async def watched(task_id: str) -> Any:
        looked.release()
        return await head(task_id)

    world.store.head = watched  # type: ignore[method-assign]
    return looked.acquire


async def attempts_of(world: World) -> Any:
    """All attempts at rounds of the task."""
    assert world.submitted is not None
    return (await world.store.rounds(world.submitted.task_id)).rounds
