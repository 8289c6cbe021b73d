"""Contract: what an epoch ends says why, and says what was spent only once somebody has looked."""

from __future__ import annotations

import pytest

from fedserver.store.records import (
    EPOCH_BEGUN,
    NOT_NOTED,
    RESTORED,
    RESTORED_OR_BEGUN,
    AssignmentState,
    RoundRef,
)


@pytest.fixture
async def ref(world) -> RoundRef:
    await world.clients(3)
    return await world.round(await world.task())


async def opened_next(world, *, spent: float | None) -> RoundRef:
    """The attempt after the first, opened by whoever knows that so much is spent."""
    world.lease = await world.store.acquire_lease("task-1", "another", 60_000)
    ref = RoundRef("task-1", 1, 2)
    await world.store.open_round(
        ref,
        phase="SELECTING",
        state={},
        base_model=(await world.store.head("task-1")).digest,
        deadline_ms=None,
        lease_token=world.held,
        spent=spent,
    )
    return ref


@pytest.mark.parametrize("reason", [RESTORED, EPOCH_BEGUN])
async def test_an_attempt_that_an_epoch_ends_says_why(world, ref, reason: str) -> None:
    (client, *_) = await world.store.clients()
    await world.part(ref, client.client_id)
    await world.store.bump_epoch(reason)
    found = await world.store.round(ref)
    assert (found.phase, found.reason, found.epsilon) == ("ABANDONED", reason, NOT_NOTED)
    event = (await world.store.round_events(ref))[-1]
    assert (event.to_phase, event.reason, event.actor) == ("ABANDONED", reason, "operator")
    (part,) = await world.store.assignments(ref)
    assert (part.state, part.reason) == (AssignmentState.CANCELLED, reason)


async def test_what_was_spent_by_then_is_noted_with_the_next_attempt(world, ref) -> None:
    await world.store.bump_epoch(RESTORED)
    following = await opened_next(world, spent=0.5)
    assert (await world.store.round(ref)).epsilon == 0.5
    assert (await world.store.round(following)).epsilon == 0.0
    await world.go(following, "ABANDONED", epsilon=0.75)
    assert (await world.store.round(ref)).epsilon == 0.5


async def test_without_privacy_nobody_notes_anything(world, ref) -> None:
    await world.store.bump_epoch(RESTORED)
    await opened_next(world, spent=None)
    assert (await world.store.round(ref)).epsilon == NOT_NOTED


async def test_what_a_release_has_noted_stands(world, ref) -> None:
    await world.go(ref, "RELEASING", epsilon=0.25)
    await world.store.bump_epoch(EPOCH_BEGUN)
    assert (await world.store.round(ref)).epsilon == 0.25


async def test_an_epoch_of_an_earlier_version_has_noted_nothing(world, ref) -> None:
    """It left 0 in the place of what was spent."""
    await world.store.bump_epoch(RESTORED)
    world.ground.execute(f"UPDATE round SET epsilon = 0, reason = '{RESTORED_OR_BEGUN}'")
    assert (await world.store.round(ref)).epsilon == NOT_NOTED
