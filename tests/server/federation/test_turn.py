"""A task that gets too few clients, or has enough of them, does not keep them from the others."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from pathlib import Path

import pytest

from fedcore.federated.task import Task
from fedcore.rounds import Phase
from fedserver.federation import check_ins, turn
from fedserver.federation.interface import Assigned, CheckIn, ElsewhereError, RetryLater
from fedserver.federation.turn import Turn
from fedserver.store.records import TaskState
from tests.server.federation.rivals import Rivals
from tests.server.federation.test_rounds import SAMPLED
from tests.server.federation.test_several_servers import driven, servers_in
from tests.server.federation.world import World, task_of, world_in


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns, and holds, of less than a second."""
    monkeypatch.setattr(check_ins, "_HELD_S", 0.1)
    monkeypatch.setattr(turn, "_FIRST_S", 0.2)


def question() -> CheckIn:
    none = frozenset[str]()
    return CheckIn(secrets.token_bytes(16), "", "1", none, frozenset({"toy"}), none)


async def asked(world: World, number: int) -> Assigned | RetryLater:
    return await world.call(lambda f: f.check_in(world.devices[number].caller, question()))


async def second_task(world: World, task: Task) -> str:
    """Hands in another task behind the first, to which the devices still belong."""
    first, submitted = world.task, world.submitted
    world.task = task
    later = await world.submit(request=b"another request.")
    world.task, world.submitted = first, submitted
    return later.task_id


def test_a_turn_ends_when_clients_waited_in_vain_for_all_of_it() -> None:
    found = Turn()
    found.begins(100.0)
    found.begins(120.0)
    found.in_vain(115.0)
    assert not found.over_until(115.0)
    found.in_vain(130.0)
    assert found.over_until(130.0) == found.over_until(249.9) == 250.0
    assert not found.over_until(250.0)


def test_a_turn_is_twice_as_long_each_time_until_a_selection_begins() -> None:
    found, now_s, lengths = Turn(), 0.0, list[float]()
    for _ in range(8):
        found.begins(now_s)
        began_s = now_s
        while not found.over_until(now_s):
            now_s += 15.0
            found.in_vain(now_s)
        lengths.append(now_s - began_s)
        assert found.over_until(now_s) - now_s == 4 * lengths[-1]
        now_s = found.over_until(now_s)
    assert lengths == [30.0, 60.0, 120.0, 240.0, 480.0, 960.0, 960.0, 960.0]
    found.selects()
    assert not found.over_until(now_s)
    found.begins(now_s)
    found.in_vain(now_s + 30.0)
    assert found.over_until(now_s + 30.0) == now_s + 150.0


def test_nobody_waits_in_vain_where_a_selection_began_meanwhile() -> None:
    found = Turn()
    found.begins(0.0)
    found.selects()
    found.in_vain(1000.0)
    assert not found.over_until(1000.0)


def test_who_waits_while_others_come_first_does_not_put_off_the_next_turn() -> None:
    found = Turn()
    found.begins(0.0)
    found.in_vain(30.0)
    for now_s in (30.0, 60.0, 90.0, 120.0, 149.9):
        found.begins(now_s)
        found.in_vain(now_s + 15.0)
    assert found.over_until(149.9) == 150.0 and not found.over_until(150.0)
    found.begins(150.0)
    found.in_vain(209.9)
    assert not found.over_until(209.9)
    found.in_vain(210.0)
    assert found.over_until(210.0) == 450.0


async def test_a_task_that_wants_more_clients_than_there_are_lets_the_next_one_have_them(
    tmp_path: Path, short: None
) -> None:
    large, small = (task_of(secure="", clients=count, rounds=2) for count in (8, 3))
    async with world_in(tmp_path, large, clients=4) as world:
        assert world.submitted is not None
        earlier, world.task = world.submitted.task_id, small
        await world.submit(request=b"another request.")
        assert (await world.run()).state is TaskState.COMPLETED
        waiting = await world.store.task(earlier)
        assert waiting is not None and waiting.state is TaskState.RUNNING


async def test_a_task_that_can_be_carried_out_comes_before_those_behind_it(
    tmp_path: Path, short: None
) -> None:
    async with world_in(tmp_path, task_of(secure="", clients=3, rounds=2), clients=3) as world:
        later = await second_task(world, task_of(secure="", clients=3, rounds=2, seed=9))
        assert (await world.run()).state is TaskState.COMPLETED
        assert (await world.store.rounds(later)).rounds[0].phase == "PENDING"


async def test_of_a_large_population_whoever_one_task_does_not_need_works_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_ins, "_LARGE", 2)
    first, second = (
        task_of(clients=1, secure="", deadline_s=600.0, heartbeat_s=60.0, seed=seed)
        for seed in (1, 2)
    )
    async with world_in(tmp_path, first, clients=4) as world:
        later = await second_task(world, second)
        given = await asked(world, 0)
        assert isinstance(given, Assigned)
        await world.in_phase(Phase.COLLECTING)
        beside = await asked(world, 1)
        assert isinstance(beside, Assigned)
        assert (given.ref.task_id == later, beside.ref.task_id == later) == (False, True)


async def test_whoever_was_not_drawn_works_for_the_next_task(tmp_path: Path) -> None:
    sampled = task_of(privacy=SAMPLED, secure="", clients=38, minimum=1, deadline_s=600.0)
    async with world_in(tmp_path, sampled, clients=40) as world:
        later = await second_task(world, task_of(secure="", clients=1, rounds=1, seed=9))
        assert world.federation is not None and world.submitted is not None
        driver = world.federation._drivers[world.submitted.task_id]
        while driver.attempt is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        driver.attempt.start()
        while driver.attempt.state.phase is not Phase.SELECTING:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert driver.attempt.invited is not None
        number = next(
            number
            for number, device in enumerate(world.devices)
            if device.identity.id not in driver.attempt.invited
        )
        given = await asked(world, number)
        assert isinstance(given, Assigned) and given.ref.task_id == later


async def test_clients_leave_a_task_that_waits_in_vain_for_one_of_another_server(
    tmp_path: Path, short: None
) -> None:
    """In the end, and not to and fro: each server says once where else to ask."""
    large = task_of(secure="", clients=8)
    async with servers_in(tmp_path, large) as world:
        first, second = world.rivals
        assert world.submitted is not None
        earlier, caller = world.submitted.task_id, world.devices[0].caller
        await driven(first, world)
        world.federation = second.federation
        world.task = task_of(secure="", clients=1, seed=9)
        later = (await world.submit(request=b"2" * 16)).task_id
        await driven(second, world)
        for rival in world.rivals:
            await rival.federation._take_up()
        driver = first.federation._drivers[earlier]
        while not driver.turn.over_until(asyncio.get_running_loop().time()):
            assert isinstance(await first.federation.check_in(caller, question()), RetryLater)
        with pytest.raises(ElsewhereError) as told:
            await first.federation.check_in(caller, question())
        assert (told.value.address, told.value.passed) == (second.name, {later, first.name})
        passed = replace(caller, passed=told.value.passed)
        assert isinstance(await second.federation.check_in(passed, question()), Assigned)


async def test_clients_of_several_servers_leave_a_task_in_vain_for_the_same_one(
    tmp_path: Path, short: None
) -> None:
    """Also those of the server that has the task in vain: the other one does not send them back."""
    async with servers_in(tmp_path, task_of(secure="", clients=8)) as world:
        later = await _second_of_another_server(world, task_of(secure="", clients=3, seed=9))
        asking = (_asked_until_assigned(world, number, at=number % 2) for number in range(3))
        given = await asyncio.wait_for(asyncio.gather(*asking), 20)
        assert {assigned.ref.task_id for assigned in given} == {later}


async def test_where_no_task_has_its_turn_all_clients_wait_for_the_earliest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_ins, "_HELD_S", 0.05)
    async with servers_in(tmp_path, task_of(secure="", clients=3)) as world:
        await _second_of_another_server(world, task_of(secure="", clients=3, seed=9))
        now_s = asyncio.get_running_loop().time()
        for rival in world.rivals:
            for driver in rival.federation._drivers.values():
                driver.turn.begins(now_s - 30.0)
                driver.turn.in_vain(now_s)
        for at in (0, 1):
            _, servers = await _asked_along(world, 0, at=at)
            assert servers[-1] == world.rivals[0].name and len(servers) <= 3


async def test_clients_of_several_servers_meet_though_each_waited_alone_for_long(
    tmp_path: Path, short: None
) -> None:
    """Two of three wait for two tasks until both turns are over, each at a server of its own."""
    async with servers_in(tmp_path, task_of(secure="", clients=3)) as world:
        first, second = world.rivals
        await _second_of_another_server(world, task_of(secure="", clients=3, seed=9))
        drivers = [*first.federation._drivers.values(), *second.federation._drivers.values()]
        clock = asyncio.get_running_loop().time
        alone = [
            asyncio.ensure_future(_asked_until_assigned(world, number, at=number))
            for number in (0, 1)
        ]
        while not all(driver.turn.over_until(clock()) for driver in drivers):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        later = asyncio.ensure_future(_asked_until_assigned(world, 2, at=1))
        given = await asyncio.wait_for(asyncio.gather(*alone, later), 20)
        assert len({assigned.ref for assigned in given}) == 1


async def _second_of_another_server(world: Rivals, task: Task) -> str:
    """Hands in a later task, to the second server; all of them know of both."""
    world.federation, world.task = world.rivals[1].federation, task
    later = (await world.submit(request=b"2" * 16)).task_id
    await driven(world.rivals[1], world)
    for rival in world.rivals:
        await rival.federation._take_up()
    return later


async def _asked_until_assigned(world: Rivals, number: int, *, at: int) -> Assigned:
    while True:
        answer, _ = await _asked_along(world, number, at=at)
        if isinstance(answer, Assigned):
            return answer


async def _asked_along(
    world: Rivals, number: int, *, at: int
) -> tuple[Assigned | RetryLater, list[str]]:
    """What a device is answered that asks one server, and which servers had the call in turn."""
    servers = {rival.name: rival.federation for rival in world.rivals}
    along, caller = [world.rivals[at].name], world.devices[number].caller
    while True:
        try:
            return await servers[along[-1]].check_in(caller, question()), along
        except ElsewhereError as told:
            along.append(told.address)
            caller = replace(caller, passed=told.passed)
