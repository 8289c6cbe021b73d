"""How many clients are selected follows from who was lost before, also after a crash."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from math import ceil
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedcore.federated.task import Task
from fedcore.rounds import Loss, Phase, RoundState
from fedcore.rounds.records import from_record, to_record
from fedcore.rounds.state import SURPLUS
from fedserver.federation.interface import FailureCode, Report
from fedserver.federation.selection import learnt_policy
from fedserver.store.records import RoundRef, TaskState
from tests.server.federation.device import Device, Silence
from tests.server.federation.test_rounds import CLIENTS
from tests.server.federation.world import World, task_of, world_in


class History:
    """A store that has only the ends of earlier attempts."""

    def __init__(self, *states: RoundState) -> None:
        self._states = states

    async def earlier_states(self, ref: RoundRef, limit: int) -> list[Mapping[str, object]]:
        return [to_record(state) for state in self._states[-limit:]]


def ended(asked: int, lost: int, surplus: int = 0) -> RoundState:
    """An attempt that had a result."""
    cohort = [bytes([number]) for number in range(asked)]
    whys = ["no sign of life"] * lost + [SURPLUS] * surplus
    losses = {one: Loss(Phase.COLLECTING, why) for one, why in zip(cohort, whys, strict=False)}
    opened = RoundState.opened("small", round=0, attempt=1, at=0)
    return RoundState(
        *(opened.task_id, 0, 1, Phase.SCRUBBED, 9, 0),
        cohort=frozenset(cohort),
        lost=losses,
        digest=bytes(32),
    )


async def learnt(task: Task, *states: RoundState) -> tuple[int, str]:
    """How many are selected after these attempts, and why."""
    hosted = SimpleNamespace(task=task, policy=task.policy())
    policy, why = await learnt_policy(hosted, History(*states), RoundRef("small", 9, 1))  # type: ignore[arg-type]
    assert (policy.goal, policy.minimum) == (task.cohort.goal, task.cohort.minimum)
    return policy.select, why


async def test_the_first_attempt_selects_what_the_task_asks_for() -> None:
    task = task_of(clients=10, minimum=8, overselection=1.5, secure="")
    assert await learnt(task) == (15, "selects 15 for 10 reports: as the task asks for at first")


async def test_without_losses_fewer_and_fewer_are_selected_and_never_less_than_the_goal() -> None:
    task = task_of(clients=10, minimum=8, overselection=1.5, secure="")
    found = [(await learnt(task, *[ended(15, 0, 5)] * n))[0] for n in range(21)]
    assert found[:4] == [15, 14, 13, 13]  # 10 / (1 - 0.8^n / 3), rounded up
    assert found == sorted(found, reverse=True)
    assert found[-1] in (10, 11)
    assert (await learnt(task, *[ended(15, 0, 5)] * 3))[1] == (
        "selects 13 for 10 reports: 17 % are expected to be lost"
    )


async def test_with_many_losses_more_are_selected_and_never_more_than_the_task_allows() -> None:
    task = task_of(clients=10, minimum=8, overselection=1.5, secure="")
    few = [ended(15, 0, 5)] * 20
    found = [(await learnt(task, *few, *[ended(12, 6)] * n))[0] for n in range(12)]
    assert found == sorted(found) and found[0] < found[-1] == 15
    assert "the most that the task allows" in (await learnt(task, *[ended(12, 6)] * 12))[1]


async def test_what_is_older_than_twenty_attempts_counts_no_more() -> None:
    task = task_of(clients=10, minimum=8, overselection=1.5, secure="")
    lately = [ended(15, 1, 4)] * 20
    assert await learnt(task, *[ended(15, 9)] * 30, *lately) == await learnt(task, *lately)


@pytest.mark.parametrize("states", [(), (ended(10, 0),), (ended(10, 6),)])
async def test_a_task_without_overselection_or_with_privacy_learns_nothing(
    states: tuple[RoundState, ...],
) -> None:
    plain = task_of(clients=5, secure="")
    assert await learnt(plain, *states) == (5, "selects 5, as many as shall report")
    private = task_of(secure="", privacy=CLIENTS.format(noise="central"))
    assert private.plan is not None
    assert await learnt(private, *states) == (5, "selects whom its privacy was planned for")


def fail(device: Device) -> None:
    """Lets a device say in each round that it cannot train."""

    async def blocks(world, part, train):  # type: ignore[no-untyped-def]
        report = Report(part.assignment_id, FailureCode.DIVERGED, "", 0, 0, 0, False)
        await world.call(lambda f: f.report(device.caller, report))
        raise Silence

    device._blocks = blocks  # type: ignore[method-assign]


async def expected(world: World, ref: RoundRef, factor: float) -> int:
    """From what the store has of earlier rounds, by the formula of the documentation."""
    rate, goal = 1 - 1 / factor, world.task.cohort.goal
    for number in range(ref.round):
        record = await world.store.round(RoundRef(ref.task_id, number, 1))
        assert record is not None
        state = from_record(record.state)
        surplus = sum(loss.why == SURPLUS for loss in state.lost.values())
        asked = len(state.cohort) - surplus
        rate += 0.2 * ((len(state.lost) - surplus) / asked - rate)
    return min(max(ceil(goal / (1 - rate) - 1e-9), goal), world.task.cohort.select)


@pytest.mark.parametrize(
    "failing", [pytest.param((), marks=pytest.mark.slow), (1, 3)], ids=["none", "two"]
)
async def test_every_round_selects_what_follows_from_the_rounds_before_also_after_crashes(
    tmp_path: Path, failing: tuple[int, ...]
) -> None:
    task = task_of(clients=4, minimum=4, overselection=2.0, rounds=6, secure="", heartbeat_s=30)
    async with world_in(tmp_path, task, clients=8) as world:
        for number in failing:
            fail(world.devices[number])
        running = asyncio.ensure_future(world.run())
        for number in (1, 3):
            await world.in_phase(Phase.COLLECTING, round=number)
            await world.crash()
        assert (await running).state is TaskState.COMPLETED
        assert world.submitted is not None
        selected = []
        for number in range(6):
            ref = RoundRef(world.submitted.task_id, number, 1)
            record = await world.store.round(ref)
            assert record is not None
            selected.append(record.assigned)
            assert record.assigned == await expected(world, ref, 2.0)
            (begun,) = [e for e in await world.store.round_events(ref) if e.from_phase == "PENDING"]
            assert begun.reason.startswith(f"attempt 1 of 3: selects {record.assigned} for 4")
        assert selected[0] == 8
        if not failing:
            assert selected == [8, 7, 6, 6, 6, 5]  # 4 / (1 - 0.8^n / 2), rounded up
