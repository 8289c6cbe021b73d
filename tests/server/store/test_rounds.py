"""Contract: a round goes on by compare-and-swap under one lease, with all that belongs to it."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import pytest

from fedcore.errors import ConflictError, LeaseLostError, NotFoundError, PhaseError
from fedserver.store.records import (
    AssignmentState,
    AuditEntry,
    MetricRecord,
    ModelRecord,
    OutboxMessage,
    RoundRef,
    TaskState,
    Transition,
)


async def everything(world, ref: RoundRef) -> object:
    """What an act on a round could have changed."""
    store = world.store
    return (
        await store.round(ref),
        await store.round_events(ref),
        await store.assignments(ref),
        await store.session(ref),
        await store.audit_entries(),
        await store.outbox_pending(),
        await store.head("task-1"),
        await store.models("task-1"),
        await store.metrics(ref),
        await store.task("task-1"),
    )


async def advance(world, ref: RoundRef, transition: Transition, **options: object) -> object:
    options = {"state": {}, "lease_token": world.held, "session": {"a": b"x"}} | options
    (client,) = await world.store.clients(limit=1)
    options = {"assignments": (world.assignment(ref, client.client_id),)} | options
    return await world.store.advance_round(
        ref, transition, outbox=(OutboxMessage("topic", b"payload"),), **options
    )


@pytest.fixture
async def ref(world) -> RoundRef:
    await world.clients(3)
    return await world.round(await world.task())


async def test_a_transition_brings_its_event_audit_outbox_assignments_and_session(
    world, ref
) -> None:
    world.clock.now += 5
    step = Transition("SELECTING", "COLLECTING", 1, "3 came", 77)
    after = await advance(world, ref, step, state={"n": [1, None]}, epsilon=0.5)
    assert (after.phase, after.sequence, after.deadline_ms) == ("COLLECTING", 1, 77)
    assert (after.state, after.since_ms, after.epsilon) == ({"n": [1, None]}, world.clock.now, 0.5)
    assert after.assigned == 1
    opening, event = await world.store.round_events(ref)
    assert (opening.from_phase, opening.to_phase, opening.sequence) == ("", "SELECTING", 0)
    assert (event.from_phase, event.to_phase, event.sequence) == ("SELECTING", "COLLECTING", 1)
    assert (event.actor, event.reason, event.event) == ("driver", "3 came", after.last_event)
    assert [record.entry.action for record in await world.store.audit_entries()] == [
        "round.selecting",
        "round.collecting",
    ]
    assert [entry.payload for entry in await world.store.outbox_pending()] == [b"payload"]
    assert await world.store.session(ref) == {"a": b"x"}


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (Transition("COLLECTING", "AGGREGATING", 1), ConflictError),
        (Transition("SELECTING", "COLLECTING", 2), ConflictError),
        (Transition("SELECTING", "COLLECTING", 0), ConflictError),
    ],
)
async def test_a_step_from_elsewhere_changes_nothing_at_all(world, ref, step, error) -> None:
    before = await everything(world, ref)
    with pytest.raises(error):
        await advance(world, ref, step)
    assert await everything(world, ref) == before


async def test_a_step_under_an_older_lease_changes_nothing_at_all(world, ref) -> None:
    stale = world.held
    world.clock.now += 60_001
    assert await world.store.acquire_lease("task-1", "other", 60_000)
    before = await everything(world, ref)
    step = Transition("SELECTING", "COLLECTING", 1)
    with pytest.raises(LeaseLostError):
        await advance(world, ref, step, lease_token=stale)
    with pytest.raises(LeaseLostError):
        await world.store.put_session(ref, {"b": b""}, lease_token=stale)
    with pytest.raises(LeaseLostError):
        await world.round(world.digest("base"), 2)
    with pytest.raises(LeaseLostError):
        await world.store.set_task_state(
            "task-1", TaskState.COMPLETED, lease_token=stale, audit=AuditEntry("a", "b", "c")
        )
    assert await everything(world, ref) == before


async def test_of_many_drivers_that_do_the_same_step_one_does_it(world, ref) -> None:
    step = Transition("SELECTING", "COLLECTING", 1)
    results = await asyncio.gather(
        *(advance(world, ref, step) for _ in range(20)), return_exceptions=True
    )
    assert sum(not isinstance(result, Exception) for result in results) == 1
    assert sum(isinstance(result, ConflictError) for result in results) == 19
    assert len(await world.store.round_events(ref)) == 2
    assert len(await world.store.outbox_pending()) == 1


async def test_what_fails_late_in_a_step_takes_its_beginning_back(world, ref) -> None:
    (client, *_) = await world.store.clients()
    twice = (world.assignment(ref, client.client_id),) * 2
    before = await everything(world, ref)
    with pytest.raises(ConflictError):
        await world.go(ref, "COLLECTING", assignments=twice)
    assert await everything(world, ref) == before


async def test_a_round_is_opened_once_and_only_one_of_a_task_is_open(world, ref) -> None:
    base = (await world.store.head("task-1")).digest
    again = await world.round(base)
    assert again == ref
    assert len(await world.store.round_events(ref)) == 1
    with pytest.raises(ConflictError, match="otherwise"):
        await world.round(world.digest("another base"))
    with pytest.raises(ConflictError, match="is open"):
        await world.round(base, 1, 2)
    await world.go(ref, "ABANDONED", end_assignments=AssignmentState.CANCELLED)
    second = await world.round(base, 1, 2)
    assert (await world.store.latest_attempt("task-1", 1)).ref == second
    assert [round.ref for round in await world.store.open_rounds()] == [second]
    assert await world.store.open_rounds("task-2") == ()


async def test_watchers_see_each_change_once(world, ref) -> None:
    page = await world.store.rounds("task-1")
    assert [round.ref for round in page.rounds] == [ref]
    assert (await world.store.rounds("task-1", after_event=page.last_event)).rounds == ()
    await world.go(ref, "ABANDONED")
    second = await world.round((await world.store.head("task-1")).digest, 1, 2)
    seen, after = [], page.last_event
    while (more := await world.store.rounds("task-1", after_event=after, limit=1)).rounds:
        seen += [(round.ref, round.phase) for round in more.rounds]
        after = more.last_event
    assert seen == [(ref, "ABANDONED"), (second, "SELECTING")]


async def complete(world, ref: RoundRef, *, parent: bytes, expected: bytes | None = None):
    found = await world.store.round(ref)
    return await world.store.complete_round(
        ref,
        Transition(found.phase, "COMPLETED", found.sequence + 1),
        state={},
        lease_token=world.held,
        model=ModelRecord(world.digest(f"model {ref}"), "task-1", parent, ref.round, 100),
        expected_parent=parent if expected is None else expected,
        metrics={"loss": MetricRecord(0.5, 10, "dp"), "odd": MetricRecord(math.nan, 0, "plain")},
        state_digest=b"state",
        ledger_head=b"ledger",
        outbox=(OutboxMessage("scrub", b"1"),),
    )


async def test_a_transition_keeps_what_the_ledger_must_hold_from_then_on(world, ref) -> None:
    before = await world.store.head("task-1")
    await advance(world, ref, Transition("SELECTING", "COLLECTING", 1), ledger_head=b"paid")
    assert await world.store.head("task-1") == replace(before, ledger_head=b"paid")
    await advance(world, ref, Transition("COLLECTING", "ABANDONED", 2), assignments=())
    assert (await world.store.head("task-1")).ledger_head == b"paid"


async def test_completing_a_round_moves_the_head_in_the_same_step(world, ref) -> None:
    base = (await world.store.head("task-1")).digest
    (client, *_) = await world.store.clients()
    await world.part(ref, client.client_id)
    done = await complete(world, ref, parent=base)
    head = await world.store.head("task-1")
    assert (head.digest, head.round) == (done.result_digest, 1)
    assert (head.state_digest, head.ledger_head) == (b"state", b"ledger")
    assert (await world.store.task("task-1")).rounds_completed == 1
    assert [model.round for model in await world.store.models("task-1")] == [0, 1]
    assert (await world.store.model(head.digest)).parent == base
    assert await world.store.model(head.digest, task_id="task-2") is None
    figures = await world.store.metrics(ref)
    assert figures["loss"] == MetricRecord(0.5, 10, "dp")
    assert math.isnan(figures["odd"].value)
    (part,) = await world.store.assignments(ref)
    assert part.state == AssignmentState.COMPLETED
    assert await world.store.open_rounds() == ()


async def test_the_line_of_models_never_forks_and_never_jumps(world, ref) -> None:
    base = (await world.store.head("task-1")).digest
    await complete(world, ref, parent=base)
    head = (await world.store.head("task-1")).digest
    late, unknown = await world.round(base, 2), world.digest("a model of another line")
    before = await everything(world, late)
    for parent, expected in [
        (base, base),
        (b"", b""),
        (base, head),
        (unknown, unknown),
        (unknown, head),
    ]:
        with pytest.raises(ConflictError):
            await complete(world, late, parent=parent, expected=expected)
    assert await everything(world, late) == before


async def test_a_lease_is_one_owners_until_it_expires_and_its_token_grows(world) -> None:
    await world.task()
    store, first = world.store, world.lease
    assert await store.acquire_lease("task-1", "other", 60_000) is None
    assert await store.lease("task-1") == first and await store.lease("nothing") is None
    world.clock.now += 30_000
    renewed = await store.renew_lease(first, 60_000)
    assert (renewed.token, renewed.expires_ms) == (first.token, world.clock.now + 60_000)
    world.clock.now += 59_999
    assert await store.acquire_lease("task-1", "other", 60_000) is None
    world.clock.now += 1
    assert await store.lease("task-1") is None
    taken = await store.acquire_lease("task-1", "other", 60_000)
    assert await store.lease("task-1") == taken
    assert taken.token > first.token
    assert taken.attempts == 2
    with pytest.raises(LeaseLostError):
        await store.renew_lease(first, 60_000)
    await store.release_lease(first)  # too late, and without effect
    assert (await store.renew_lease(taken, 60_000)).owner == "other"
    await store.release_lease(taken)
    assert await store.lease("task-1") is None
    with pytest.raises(LeaseLostError):
        await store.renew_lease(taken, 60_000)
    again = await store.acquire_lease("task-1", "driver", 60_000)
    assert again.token > taken.token
    assert again.attempts == 1
    await store.release_lease(again, attempts=1)  # in vain
    assert (await store.acquire_lease("task-1", "driver", 60_000)).attempts == 2
    with pytest.raises(NotFoundError):
        await store.acquire_lease("nothing", "driver", 60_000)


async def test_a_driver_that_comes_back_gets_its_lease_anew_and_progress_clears_the_count(
    world, ref
) -> None:
    for expected in (2, 3, 4):
        world.lease = await world.store.acquire_lease("task-1", "driver", 60_000)
        assert world.lease.attempts == expected
    await world.go(ref, "COLLECTING")
    assert (await world.store.acquire_lease("task-1", "driver", 60_000)).attempts == 1


async def test_a_lease_that_is_given_back_in_vain_counts_no_more_than_since_the_last_step(
    world, ref
) -> None:
    for _ in range(3):
        world.lease = await world.store.acquire_lease("task-1", "driver", 60_000)
    await world.go(ref, "COLLECTING")
    await world.store.release_lease(world.lease, attempts=world.lease.attempts)
    assert (await world.store.acquire_lease("task-1", "driver", 60_000)).attempts == 1


@pytest.mark.parametrize("state", [TaskState.CANCELLED, TaskState.FAILED, TaskState.COMPLETED])
async def test_a_round_of_a_task_that_has_ended_goes_nowhere_but_to_its_end(
    world, ref, state
) -> None:
    base = (await world.store.head("task-1")).digest
    await world.store.set_task_state("task-1", state, reason="consent was withdrawn")
    before = await everything(world, ref)
    for phase in ("KEYS", "COLLECTING", "UNMASKING", "AGGREGATING", "RELEASING"):
        with pytest.raises(ConflictError, match="goes no further"):
            await world.go(ref, phase)
    assert await everything(world, ref) == before
    await world.go(ref, "CANCELLED", end_assignments=AssignmentState.CANCELLED)
    with pytest.raises(ConflictError, match="goes no further"):
        await world.round(base, 1, 2)
    assert len((await world.store.rounds("task-1")).rounds) == 1


async def test_what_was_released_before_a_task_was_cancelled_is_completed(world, ref) -> None:
    base = (await world.store.head("task-1")).digest
    for phase in ("COLLECTING", "AGGREGATING", "RELEASING"):
        await world.go(ref, phase)
    await world.store.set_task_state("task-1", TaskState.CANCELLED)
    model = ModelRecord(world.digest("next"), "task-1", base, 1, 100)
    await world.store.complete_round(
        ref,
        Transition("RELEASING", "COMPLETED", 4),
        state={},
        lease_token=world.held,
        model=model,
        expected_parent=base,
        metrics={},
    )
    assert (await world.go(ref, "SCRUBBED")).phase == "SCRUBBED"


async def test_a_task_that_has_ended_stays_so(world) -> None:
    await world.task()
    await world.store.set_task_state("task-1", TaskState.RUNNING)
    audit = AuditEntry("user:ada", "task.cancel", "task:task-1")
    await world.store.set_task_state("task-1", TaskState.CANCELLED, reason="why", audit=audit)
    await world.store.set_task_state("task-1", TaskState.CANCELLED, reason="again")
    task = await world.store.task("task-1")
    assert (task.state, task.reason) == (TaskState.CANCELLED, "why")
    with pytest.raises(ConflictError):
        await world.store.set_task_state("task-1", TaskState.RUNNING)
    with pytest.raises(NotFoundError):
        await world.store.set_task_state("none", TaskState.RUNNING)
    assert [found.task_id for found in await world.store.tasks(state=TaskState.CANCELLED)] == [
        "task-1"
    ]
    assert await world.store.tasks(tenant="other") == ()
    task, model = world.new_task()
    with pytest.raises(ConflictError):
        await world.store.add_task(task, model)


async def test_a_tenant_runs_a_task_of_one_content_once_at_a_time(world) -> None:
    await world.task()
    task, model = world.new_task("task-2")
    twin = replace(task, digest=world.digest("task-1"))
    with pytest.raises(ConflictError, match="runs as task-1"):
        await world.store.add_task(twin, model)
    assert await world.store.task("task-2") is None
    await world.store.add_task(replace(twin, tenant="other"), model)
    await world.store.set_task_state("task-1", TaskState.CANCELLED)
    third, first = world.new_task("task-3")
    await world.store.add_task(replace(third, digest=twin.digest), first)


async def test_what_a_store_holds_it_holds_after_it_was_closed_and_opened(world, ref) -> None:
    (client, *_) = await world.store.clients()
    await world.part(ref, client.client_id)
    await world.store.put_session(ref, {"set/1": b"members"})
    before = await everything(world, ref)
    await world.reopen()
    assert await everything(world, ref) == before


async def test_earlier_attempts_are_those_before_in_their_order(world, ref) -> None:
    base = (await world.store.head("task-1")).digest
    places = [(ref.round, 1), (ref.round, 2), (ref.round + 1, 1), (ref.round + 1, 2)]
    for round_, attempt in places:
        await world.round(base, round_, attempt)
        await world.store.advance_round(
            RoundRef("task-1", round_, attempt),
            Transition("SELECTING", "ABANDONED", 1),
            state={"at": [round_, attempt]},
            lease_token=world.held,
        )
    ends = [{"at": list(place)} for place in places]
    last = RoundRef("task-1", *places[-1])
    assert await world.store.earlier_states(last, 10) == tuple(ends[:3])
    assert await world.store.earlier_states(last, 2) == tuple(ends[1:3])
    assert await world.store.earlier_states(replace(last, round=99), 10) == tuple(ends)
    assert await world.store.earlier_states(ref, 10) == ()
    assert await world.store.earlier_states(replace(last, task_id="task-2"), 10) == ()


async def test_session_records_are_replaced_erased_and_gone_when_scrubbed(world, ref) -> None:
    store = world.store
    await store.put_session(ref, {"a": b"1", "b": b"2"}, lease_token=world.held)
    await store.put_session(ref, {"a": b"3"}, erase=["b", "c"])
    await world.go(ref, "COLLECTING", session={"d": b"4"}, erase=["a"])
    assert await store.session(ref) == {"d": b"4"}
    with pytest.raises(PhaseError):
        await store.scrub_round(ref)
    await world.go(ref, "ABANDONED")
    assert await store.scrub_round(ref, lease_token=world.held) == ()
    assert await store.scrub_round(ref) == ()
    assert await store.session(ref) == {}
    with pytest.raises(PhaseError):
        await store.put_session(ref, {"a": b"late"})
    with pytest.raises(NotFoundError):
        await store.put_session(replace(ref, round=9), {})
    with pytest.raises(NotFoundError):
        await store.scrub_round(replace(ref, round=9))
    with pytest.raises(NotFoundError):
        await store.advance_round(
            replace(ref, round=9),
            Transition("A", "B", 1),
            state={},
            lease_token=world.held,
        )


async def test_who_is_barred_from_a_task_stays_so_after_a_restart_and_with_another_driver(
    world,
) -> None:
    bad, other = await world.clients(2)
    await world.task()
    audit = AuditEntry("driver", "client.bad_shares", bad.hex(), decision="barred")
    how = {"reason": "its shares contradict each other", "audit": audit}
    assert await world.store.barred_clients("task-1") == frozenset()
    assert await world.store.bar_client("task-1", bad, **how, lease_token=world.held)
    assert not await world.store.bar_client("task-1", bad, **how, lease_token=world.held)
    with pytest.raises(NotFoundError):
        await world.store.bar_client("task-1", b"nobody", **how, lease_token=world.held)
    store = await world.reopen()
    overtaken = world.held
    await store.release_lease(world.lease)
    assert await store.acquire_lease("task-1", "another", 60_000) is not None
    with pytest.raises(LeaseLostError):
        await store.bar_client("task-1", other, **how, lease_token=overtaken)
    assert await store.barred_clients("task-1") == {bad}
    assert await store.barred_clients("task-2") == frozenset()
    assert [found.entry for found in await store.audit_entries()].count(audit) == 1
