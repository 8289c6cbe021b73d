"""What an author may hand in, what becomes of a task, and who sees any of it."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from fedcore.errors import ConflictError, InvalidRequestError, NotFoundError, TaskError
from fedcore.federated.task import Task
from fedcore.rounds import ENDS, Phase
from fedcore.wire.envelope import TASK, Place, signed_bytes
from fedserver.federation.interface import (
    Assigned,
    FailureCode,
    Outcome,
    Report,
    Submission,
    SubmittedTask,
)
from fedserver.federation.left_out import LeftOut
from fedserver.store.records import Idempotency, RoundRef, TaskState
from tests.server.federation.test_rounds import MASKED, RECORDS, final_of, models_of
from tests.server.federation.world import World, task_of, world_in


def once(world: World, number: int) -> Idempotency:
    return Idempotency(world.user.principal, "SubmitTask", bytes([number]) * 16, bytes(32))


def signed(world: World, task: Task) -> Submission:
    canonical = task.canonical
    return Submission(
        canonical, world.author.sign(signed_bytes(canonical, method=TASK, place=Place())), b""
    )


async def test_a_cancelled_task_ends_its_round_and_tells_its_clients(tmp_path: Path) -> None:
    task = task_of(secure=MASKED, heartbeat_s=30.0)
    async with world_in(tmp_path, task) as world:
        # One that never deals its shares holds the round up until its deadline.
        world.devices[0].silent_at = lambda round, place: place == "share"
        running = asyncio.ensure_future(world.run())
        await world.in_phase(Phase.SHARES)
        assert world.federation is not None and world.submitted is not None
        task_id = world.submitted.task_id
        await world.federation.cancel(
            world.user, task_id, reason="a mistake", once=replace(once(world, 9), method="Cancel")
        )
        record = await running
        assert (record.state, record.reason) == (TaskState.CANCELLED, "a mistake")
        assert await world.eventually(Phase.CANCELLED)
        outcomes = {outcome for device in world.devices for _, _, outcome in device.outcomes}
        assert outcomes <= {Outcome.CANCELLED}


async def test_a_task_ends_in_order_when_its_budget_does(tmp_path: Path) -> None:
    algorithm = 'name = "fedsgd"\nlr = 0.5'
    task = task_of(secure=MASKED, privacy=RECORDS, algorithm=algorithm, minimum=4, heartbeat_s=0.5)
    async with world_in(tmp_path, task) as world:
        left = {"attempts": 1}

        def silent(round: int, place: str) -> bool:
            return place == "upload" and bool(left["attempts"])

        for device in world.devices[:2]:
            device.silent_at = silent
        running = asyncio.ensure_future(world.run())
        assert world.submitted is not None
        await world.attempt_over(RoundRef(world.submitted.task_id, 0, 1))
        left["attempts"] = 0
        record = await running
        # Its noisy sums were begun, so the first attempt stays spent, and the plan pays for two.
        assert (record.state, record.rounds_completed) == (TaskState.COMPLETED, 1)
        assert record.reason == "the privacy budget pays for no further round"
        assert await world.store.latest_attempt(record.task_id, 1) is None
        assert world.federation is not None
        spent = await world.federation.spent(world.user, record.task_id)
        assert spent.epsilon <= spent.budget


async def test_the_same_submission_twice_is_one_task(tmp_path: Path) -> None:
    async with world_in(tmp_path, task_of()) as world:
        assert world.federation is not None and world.submitted is not None
        again = await world.submit()
        assert again == world.submitted
        assert len(await world.store.tasks()) == 1


async def test_a_task_that_runs_or_ran_is_not_taken_again_and_names_its_newest_model(
    tmp_path: Path,
) -> None:
    async with world_in(tmp_path, task_of(rounds=1)) as world:
        assert world.federation is not None and world.submitted is not None
        task_id = world.submitted.task_id
        submit, known = world.federation.submit, f"known as {task_id}"
        with pytest.raises(ConflictError, match=known):
            await submit(world.user, signed(world, world.task), once=once(world, 1))
        assert (await world.federation.task(world.user, task_id)).model_digest == b""
        record = await world.run()
        assert record.state is TaskState.COMPLETED
        found = await world.federation.task(world.user, task_id)
        assert found.model_digest == await world.final()
        with pytest.raises(ConflictError, match=known):
            await submit(world.user, signed(world, world.task), once=once(world, 2))
        other = task_of(rounds=1, seed=2)
        assert await submit(world.user, signed(world, other), once=once(world, 3))


async def test_of_two_submissions_at_the_same_moment_one_is_taken(tmp_path: Path) -> None:
    async with world_in(tmp_path, task_of(rounds=1)) as world:
        assert world.federation is not None
        other = signed(world, task_of(rounds=1, seed=2))
        answers = await asyncio.gather(
            *(world.federation.submit(world.user, other, once=once(world, n)) for n in (1, 2)),
            return_exceptions=True,
        )
        assert sorted(map(type, answers), key=str) == [
            ConflictError,
            SubmittedTask,
        ]
        assert len(await world.store.tasks()) == 2


async def test_a_task_that_its_author_did_not_sign_is_refused(tmp_path: Path) -> None:
    async with world_in(tmp_path, task_of()) as world:
        assert world.federation is not None
        forged = replace(signed(world, world.task), signature=bytes(64))
        with pytest.raises(InvalidRequestError, match="not signed"):
            await world.federation.submit(world.user, forged, once=once(world, 1))
        with pytest.raises(TaskError):
            await world.federation.submit(
                world.user, replace(forged, canonical=b"{}"), once=once(world, 2)
            )
        assert len(await world.store.tasks()) == 1


async def test_what_belongs_to_another_tenant_is_not_there(tmp_path: Path) -> None:
    async with world_in(tmp_path, task_of()) as world:
        assert world.federation is not None and world.submitted is not None
        stranger = replace(world.user, tenant="elsewhere")
        task_id, digest = world.submitted.task_id, world.submitted.model_digest
        for ask in (
            world.federation.task(stranger, task_id),
            world.federation.model(stranger, digest),
            world.federation.model_chunk(stranger, digest, offset=0, length=8),
            world.federation.spent(stranger, task_id),
            world.federation.certificate(stranger, task_id),
            world.federation.show_round(stranger, RoundRef(task_id, 0, 1)),
            world.federation.cancel(stranger, task_id, reason="x", once=once(world, 3)),
        ):
            with pytest.raises(NotFoundError):
                await ask
        found = await world.federation.model_chunk(world.user, digest, offset=0, length=8)
        assert len(found.data) == 8


async def test_a_round_says_what_it_waits_for(tmp_path: Path) -> None:
    async with world_in(tmp_path, task_of()) as world:
        assert world.federation is not None and world.submitted is not None
        found = await world.waiting_for(RoundRef(world.submitted.task_id, 0, 1))
        assert found == "waits for 5 clients (0 ask now)"


async def test_a_round_says_by_why_how_many_clients_refused_its_task(tmp_path: Path) -> None:
    async with world_in(tmp_path, task_of()) as world:
        assert world.federation is not None and world.submitted is not None
        ref = RoundRef(world.submitted.task_id, 0, 1)
        await world.waiting_for(ref)
        left_out = world.federation._drivers[ref.task_id].left_out
        for number, why in enumerate(["data_missing", "policy_refused", "policy_refused"]):
            left_out.refused(bytes([number]), why)
        found = await world.federation.show_round(world.user, ref)
        assert found.refused == {"policy_refused": 2, "data_missing": 1}
        assert re.fullmatch(
            r"waits for 5 clients \(0 ask now\); lately refused: 2 policy_refused, 1 data_missing"
            r" \(asked again when started with another policy or data, else by \d\d:\d\d UTC\)",
            found.waiting_for,
        )


async def test_a_server_that_is_stopped_and_started_goes_on(tmp_path: Path) -> None:
    task = task_of(secure=MASKED)
    async with world_in(tmp_path, task) as world:
        running = asyncio.ensure_future(world.run())
        with capture_logs() as logs:
            for phase in (Phase.SHARES, Phase.CONFIRMING, Phase.COMPLETED):
                await world.in_phase(phase)
                await world.stop()
                await world.start()
            record = await running
        assert (record.state, record.rounds_completed) == (TaskState.COMPLETED, 2)
        told = [(log["event"], Phase(log["phase"]) in ENDS) for log in logs if "phase" in log]
        assert set(told) == {("attempt.left", False), ("attempt.ended", True)}
        kept = await world.store.latest_attempt(record.task_id, 0)
        assert kept is not None
        assert kept.ref.attempt == 1


async def test_who_refuses_the_task_is_not_asked_for_its_next_attempt(tmp_path: Path) -> None:
    task = task_of(rounds=1, minimum=4, secure=MASKED, deadline_s=3.0)
    async with world_in(tmp_path, task) as world:
        device = world.devices[2]

        async def refuse(world: World, part: Assigned) -> None:
            refusal = Report(
                part.assignment_id, FailureCode.POLICY_REFUSED, "a rule", 0, 0, 0.0, False
            )
            await world.call(lambda f: f.report(device.caller, refusal))
            asked.append(part)

        asked: list[Assigned] = []
        device._take_part = refuse  # type: ignore[method-assign]
        record = await world.run()
        assert len(asked) == 1
        assert (record.state, record.rounds_completed) == (TaskState.COMPLETED, 1)
        assert await final_of(world) == models_of(task, world, without=frozenset({2}))[-1]


def test_a_refusal_is_forgotten_after_a_while_and_bad_shares_never_are() -> None:
    now = [0.0]
    left_out = LeftOut(lambda: now[0])
    left_out.refused(b"refused", "data_missing")
    assert left_out.bar(b"bad") and not left_out.bar(b"bad")
    assert b"refused" in left_out and b"bad" in left_out and b"other" not in left_out
    assert left_out.refusals == {"data_missing": 1}
    now[0] = 901.0
    assert b"refused" not in left_out and b"bad" in left_out
    assert left_out.refusals == {}
