"""Every state that a small round can reach: the table is taken whole, and nothing beside it."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import pytest

from fedcore.errors import TransitionError
from fedcore.rounds import (
    CLIENT_PHASES,
    EDGES,
    TABLE,
    Aggregated,
    Arm,
    Arrived,
    Cancel,
    CannotClose,
    CheckedIn,
    Close,
    Closed,
    DeadlinePassed,
    Effect,
    Event,
    Lost,
    Persist,
    Phase,
    Published,
    Recovered,
    Released,
    RoundPolicy,
    RoundState,
    Scrubbed,
    Started,
    step,
)
from fedcore.rounds.state import SURPLUS
from tests.rounds.driving import DIGEST, plain, secure

POLICIES = (  # the last two attempts of a round differ, so two are enough
    plain(goal=1, minimum=1, select=2),
    plain(goal=2, minimum=2, select=2, max_attempts=2),
    secure(goal=2, minimum=1, select=2, confirming=False),
    secure(goal=2, minimum=1, select=2, max_attempts=2),
)
PEOPLE = (b"a", b"b", b"c")  # one more than are selected
NOW = 7
EVENTS = {event for _, event in TABLE}


@dataclass(frozen=True)
class Step:
    policy: RoundPolicy
    before: RoundState
    event: Event
    after: RoundState
    effects: tuple[Effect, ...]

    @property
    def taken(self) -> tuple[Phase, type[Event], Phase]:
        return self.before.phase, type(self.event), self.after.phase


def events_at(state: RoundState) -> Iterator[Event]:
    """All that might be told of a round in this phase, sensible or not; time stands still."""
    phase, deadline = state.phase, state.deadline or NOW
    yield from (Aggregated(NOW), Released(NOW, DIGEST), Published(NOW), Scrubbed(NOW))
    yield from (Started(NOW), Started(NOW, "again"), Cancel(NOW, "enough"), Recovered(NOW))
    yield CannotClose(NOW, phase, "no")
    yield from (DeadlinePassed(NOW, phase), DeadlinePassed(deadline, phase))
    for client in PEOPLE:
        yield from (CheckedIn(NOW, client), Arrived(NOW, phase, client), Lost(NOW, client, "gone"))
        yield Recovered(NOW, (client,), {b"b": "gone"})
        yield Closed(NOW, phase, frozenset({client}))
    yield from (Closed(NOW, phase, frozenset()), Closed(NOW, phase, frozenset(PEOPLE[:2])))


def essence(state: RoundState) -> object:
    """What decides of the future: neither words nor numbers of transitions."""
    lost = frozenset(
        (client, loss.phase, loss.why == SURPLUS) for client, loss in state.lost.items()
    )
    sets = (state.cohort, state.members, state.pending, state.arrived, state.survivors)
    return state.phase, state.attempt, *sets, lost, state.closing


@cache
def explored() -> tuple[tuple[Step, ...], tuple[tuple[RoundState, Event], ...]]:
    """Every step from every reachable state, and every refusal."""
    steps: list[Step] = []
    refused: list[tuple[RoundState, Event]] = []
    for policy in POLICIES:
        opened = RoundState.opened("t", round=0, attempt=1, at=0)
        queue, known = deque([opened]), {essence(opened)}
        if policy.max_attempts > 1:
            queue.append(replace(opened, attempt=policy.max_attempts))
        while queue:
            state = queue.popleft()
            for event in events_at(state):
                try:
                    after, effects = step(state, event, policy)
                except TransitionError:
                    refused.append((state, event))
                    continue
                steps.append(Step(policy, state, event, after, effects))
                if essence(after) not in known:
                    known.add(essence(after))
                    queue.append(after)
    return tuple(steps), tuple(refused)


def test_every_outcome_in_the_table_happens_and_no_other() -> None:
    listed = {(phase, event, to) for (phase, event), targets in TABLE.items() for to in targets}
    assert {one.taken for one in explored()[0]} == listed


def test_every_edge_is_persisted_and_nothing_else_is() -> None:
    edges = set()
    for one in explored()[0]:
        written = [effect for effect in one.effects if isinstance(effect, Persist)]
        assert len(written) == (one.before.phase is not one.after.phase)
        assert written == list(one.effects[: len(written)])
        for effect in written:
            edge = (effect.transition.from_phase, effect.transition.to_phase)
            assert edge == (one.before.phase, one.after.phase)
            assert one.before.moved(effect.transition) == one.after
            assert effect.transition.sequence == one.before.sequence + 1
            assert effect.transition.at == one.event.at
            edges.add(edge)
    assert edges == EDGES


def test_a_transition_says_why_unless_it_only_follows_from_the_one_before() -> None:
    for one in explored()[0]:
        for effect in one.effects:
            if isinstance(effect, Persist):
                reason = effect.transition.reason
                assert bool(reason) == (not isinstance(one.event, Released | Published | Scrubbed))
                if isinstance(one.event, Started | Cancel | CannotClose):
                    assert one.event.why in reason
                elif isinstance(one.event, Closed):
                    assert str(len(one.event.remaining)) in re.split("[ ;]", reason)


@pytest.mark.parametrize("phase", Phase, ids=lambda phase: phase.name)
def test_an_event_that_the_table_does_not_list_is_refused(phase: Phase) -> None:
    listed = {type(one.event) for one in explored()[0] if one.before.phase is phase}
    told = {type(event): (state, event) for state, event in explored()[1] if state.phase is phase}
    for event in EVENTS:
        if (phase, event) in TABLE:
            assert event in listed, event
        else:
            state, refused = told[event]
            with pytest.raises(TransitionError, match=phase.name) as caught:
                step(state, refused, POLICIES[0])
            assert caught.value.why and caught.value.fix


def test_every_reachable_state_accounts_for_each_client_once() -> None:
    for one in explored()[0]:
        state, policy = one.after, one.policy
        assert not state.arrived & state.lost.keys()
        assert not state.pending & state.lost.keys()
        assert not state.pending & state.arrived
        assert len(state.arrived) <= policy.select and len(state.cohort) <= policy.select
        if state.phase in CLIENT_PHASES:
            assert state.pending | state.arrived | (state.members & state.lost.keys()) == (
                state.members
            )
            assert state.members <= state.cohort
        else:
            assert not state.members and not state.pending
        assert state.survivors <= state.cohort
        assert bool(state.digest) <= bool(state.survivors)


def test_a_phase_is_closed_once_and_whoever_comes_then_is_refused() -> None:
    closings = 0
    for one in explored()[0]:
        asks = Close(one.before.phase) in one.effects
        if isinstance(one.event, Recovered):
            continue
        assert not (asks and one.before.closing)
        closings += asks
        if one.before.closing and one.before.phase in CLIENT_PHASES:
            assert one.after.arrived <= one.before.arrived
        if asks:
            assert one.after.closing
    assert closings > 100


def test_what_was_frozen_never_changes() -> None:
    for one in explored()[0]:
        if one.before.cohort:
            assert one.after.cohort == one.before.cohort
        if one.before.survivors:
            assert one.after.survivors == one.before.survivors
        if one.before.digest:
            assert one.after.digest == one.before.digest


def test_a_result_is_completed_only_after_it_was_released() -> None:
    for one in explored()[0]:
        if one.after.phase in (Phase.COMPLETED, Phase.SCRUBBED):
            assert one.after.digest == DIGEST
            assert len(one.after.survivors) >= one.policy.minimum


def test_recovering_twice_is_recovering_once_and_makes_no_transition() -> None:
    for one in explored()[0]:
        if isinstance(one.event, Recovered):
            assert one.after.phase is one.before.phase
            assert step(one.after, one.event, one.policy) == (one.after, one.effects)


def test_every_state_that_waits_has_a_timer_armed_or_asks_something_of_the_driver() -> None:
    """After `Recovered` nothing can stand still: a timer, a closing or work of the server."""
    for one in explored()[0]:
        if isinstance(one.event, Recovered) and not one.after.over:
            waits = [effect for effect in one.effects if isinstance(effect, Arm)]
            assert waits or one.effects or one.after.phase is Phase.PENDING
            assert bool(waits) == (one.after.deadline is not None)


def test_the_explored_states_are_many() -> None:
    assert len(explored()[0]) > 5_000
