"""What a round does, told as stories: who is waited for, when it goes on, and why it gives up."""

from __future__ import annotations

import pytest

from fedcore.errors import TransitionError
from fedcore.rounds import (
    Aggregate,
    Aggregated,
    Arm,
    Arrived,
    Begin,
    Cancel,
    CannotClose,
    CheckedIn,
    Close,
    Closed,
    DeadlinePassed,
    Effect,
    Event,
    Invite,
    Loss,
    Lost,
    Persist,
    Phase,
    Publish,
    Published,
    Recovered,
    Release,
    Released,
    RoundPolicy,
    RoundState,
    Scrub,
    Scrubbed,
    Started,
    Transition,
    replay,
    step,
)
from tests.rounds.driving import DIGEST, clients, plain, secure

A, B, C, D = clients(4)
EVERYONE = frozenset({A, B, C, D})


def told(
    policy: RoundPolicy, *events: Event, state: RoundState | None = None
) -> tuple[RoundState, tuple[Effect, ...]]:
    """The state after some events, and the effects of the last."""
    state = state or RoundState.opened("t", round=0, attempt=1, at=0)
    effects: tuple[Effect, ...] = ()
    for event in events:
        state, effects = step(state, event, policy)
    return state, effects


def in_first_phase(policy: RoundPolicy) -> RoundState:
    return told(policy, Started(0), *(CheckedIn(10, c) for c in sorted(EVERYONE)))[0]


def collecting(policy: RoundPolicy) -> RoundState:
    """A secure round whose four clients have all dealt their shares."""
    state = in_first_phase(policy)
    for phase in (Phase.KEYS, Phase.SHARES):
        arrivals = [Arrived(20, phase, c) for c in EVERYONE]
        state, _ = told(policy, *arrivals, Closed(20, phase, EVERYONE), state=state)
    return state


def aggregating(policy: RoundPolicy) -> RoundState:
    """A plain round with three reports."""
    state = in_first_phase(policy)
    arrivals = [Arrived(20, Phase.COLLECTING, c) for c in (A, B, C)]
    return told(policy, *arrivals, Closed(20, Phase.COLLECTING, EVERYONE - {D}), state=state)[0]


def test_a_selection_ends_with_the_last_client_that_is_selected() -> None:
    policy = plain()
    state, effects = told(policy, Started(0), *(CheckedIn(10, c) for c in (A, B, B, C)))
    assert (state.phase, effects) == (Phase.SELECTING, ())
    state, effects = told(policy, CheckedIn(10, D), state=state)
    assert state.cohort == state.pending == EVERYONE
    assert effects[1:] == (Invite(EVERYONE), Arm(Phase.COLLECTING, 1_010))
    assert isinstance(effects[0], Persist) and effects[0].transition.cohort == EVERYONE


def test_a_selection_goes_on_at_its_deadline_with_the_minimum() -> None:
    policy = secure()
    state, _ = told(policy, Started(0), CheckedIn(1, A), CheckedIn(2, B))
    assert told(policy, DeadlinePassed(999, Phase.SELECTING), state=state) == (
        state,
        (Arm(Phase.SELECTING, 1_000),),
    )
    state, _ = told(policy, DeadlinePassed(1_000, Phase.SELECTING), state=state)
    assert (state.phase, state.cohort) == (Phase.KEYS, {A, B})


def test_a_selection_of_too_few_is_abandoned_and_then_fails() -> None:
    events = (Started(0), CheckedIn(1, A), DeadlinePassed(1_000, Phase.SELECTING))
    state, effects = told(plain(max_attempts=2), *events)
    assert (state.phase, state.reason) == (Phase.ABANDONED, "too few clients: 1 of 2")
    assert effects[1:] == (Scrub(), Begin(2))
    state, effects = told(plain(), *events)
    assert (state.phase, effects[1:]) == (Phase.FAILED, (Scrub(),))


def test_who_leaves_a_selection_is_not_selected_unless_it_comes_back() -> None:
    state, _ = told(plain(), Started(0), CheckedIn(1, A), Lost(2, A, "hung up"))
    assert not state.arrived and state.lost == {A: Loss(Phase.SELECTING, "hung up")}
    state, _ = told(plain(), CheckedIn(3, A), state=state)
    assert state.arrived == {A} and not state.lost


def test_a_phase_is_closed_when_nobody_living_is_awaited() -> None:
    policy = secure()
    state = in_first_phase(policy)
    state, effects = told(policy, *(Arrived(20, Phase.KEYS, c) for c in (A, B, C)), state=state)
    assert effects == () and state.pending == {D}
    state, effects = told(policy, Lost(30, D, "silent"), state=state)
    assert effects == (Close(Phase.KEYS),) and state.closing


def test_a_lost_client_may_arrive_as_long_as_its_phase_is_open() -> None:
    policy = secure()
    state, _ = told(policy, Lost(20, D, "silent"), state=in_first_phase(policy))
    assert state.takes(Phase.KEYS, D)
    state, _ = told(policy, Arrived(30, Phase.KEYS, D), state=state)
    assert state.arrived == {D} and not state.lost


def test_who_arrived_is_not_lost_in_the_same_phase() -> None:
    policy = secure()
    state, _ = told(policy, Arrived(20, Phase.KEYS, D), state=in_first_phase(policy))
    assert told(policy, Lost(30, D, "silent"), state=state) == (state, ())


def test_a_stranger_neither_arrives_nor_is_lost() -> None:
    state = in_first_phase(plain())
    assert not state.takes(Phase.COLLECTING, b"stranger")
    for event in (Arrived(1, Phase.COLLECTING, b"stranger"), Lost(1, b"stranger", "silent")):
        with pytest.raises(TransitionError):
            step(state, event, plain())


def test_reports_are_not_waited_for_beyond_the_goal() -> None:
    policy = plain()
    state = in_first_phase(policy)
    arrivals = [Arrived(20, Phase.COLLECTING, c) for c in (A, B, C)]
    state, effects = told(policy, *arrivals, state=state)
    assert effects == (Close(Phase.COLLECTING),)
    assert not state.takes(Phase.COLLECTING, D) and state.takes(Phase.COLLECTING, A)
    with pytest.raises(TransitionError, match="COLLECTING") as caught:
        step(state, Arrived(21, Phase.COLLECTING, D), policy)
    assert caught.value.why == "the set is being frozen"
    assert told(policy, arrivals[0], state=state) == (state, ())
    state, effects = told(policy, Closed(22, Phase.COLLECTING, EVERYONE - {D}), state=state)
    assert (state.phase, state.survivors) == (Phase.AGGREGATING, {A, B, C})
    assert effects[1:] == (Aggregate(),)
    assert state.lost[D].why == "was not waited for, as enough had reported"


def test_the_goal_matters_to_reports_alone() -> None:
    policy = secure()
    arrivals = [Arrived(20, Phase.KEYS, c) for c in (A, B, C)]
    assert told(policy, *arrivals, state=in_first_phase(policy))[1] == ()


def test_an_attempt_is_abandoned_at_once_when_too_few_can_still_report() -> None:
    policy = secure(max_attempts=2)
    state, _ = told(policy, Lost(20, D, "failed"), Lost(20, C, "x"), state=in_first_phase(policy))
    assert state.phase is Phase.KEYS
    state, effects = told(policy, Lost(21, B, "silent"), state=state)
    assert state.phase is Phase.ABANDONED
    assert state.reason == "too few clients: 1 of 2; lost: KEYS 3 (failed; silent; x)"
    assert effects[1:] == (Scrub(), Begin(2))


def test_a_deadline_closes_with_enough_and_gives_up_with_too_few() -> None:
    policy = secure()
    state = in_first_phase(policy)
    one, _ = told(policy, Arrived(20, Phase.KEYS, A), state=state)
    ended, _ = told(policy, DeadlinePassed(1_010, Phase.KEYS), state=one)
    assert ended.reason == "too few clients: 1 of 2; lost: KEYS 3 (was not heard of in time)"
    two, _ = told(policy, Arrived(21, Phase.KEYS, B), state=one)
    closing, effects = told(policy, DeadlinePassed(1_010, Phase.KEYS), state=two)
    assert effects == (Close(Phase.KEYS),)
    assert told(policy, DeadlinePassed(1_011, Phase.KEYS), state=closing) == (closing, ())
    state, _ = told(policy, Closed(1_012, Phase.KEYS, frozenset({A, B})), state=closing)
    assert state.lost == dict.fromkeys((C, D), Loss(Phase.KEYS, "was not heard of in time"))


def test_a_message_that_the_driver_left_out_is_told_from_silence() -> None:
    policy = secure()
    state = in_first_phase(policy)
    arrivals = [Arrived(20, Phase.KEYS, c) for c in EVERYONE]
    state, _ = told(policy, *arrivals, Closed(21, Phase.KEYS, frozenset({A, B, C})), state=state)
    assert state.lost == {D: Loss(Phase.KEYS, "sent a message that was not used")}
    assert state.members == {A, B, C} and state.cohort == EVERYONE


def test_who_remains_is_awaited_though_it_was_given_up_before() -> None:
    """Survivors that did not confirm are asked for their answers all the same."""
    policy = secure(goal=4)
    state = collecting(policy)
    arrivals = [Arrived(30, Phase.COLLECTING, c) for c in EVERYONE]
    state, _ = told(policy, *arrivals, Closed(31, Phase.COLLECTING, EVERYONE), state=state)
    confirmations = [Arrived(32, Phase.CONFIRMING, c) for c in (A, B, C)]
    state, effects = told(policy, *confirmations, Lost(33, D, "silent"), state=state)
    assert effects == (Close(Phase.CONFIRMING),)
    state, _ = told(policy, Closed(34, Phase.CONFIRMING, EVERYONE), state=state)
    assert state.pending == EVERYONE and not state.lost


def test_after_the_reports_the_session_and_not_the_minimum_decides() -> None:
    policy = secure(minimum=3, goal=4)
    state = collecting(policy)
    arrivals = [Arrived(30, Phase.COLLECTING, c) for c in EVERYONE]
    state, _ = told(policy, *arrivals, Closed(31, Phase.COLLECTING, EVERYONE), state=state)
    state, effects = told(policy, *(Lost(32, c, "silent") for c in (A, B, C)), state=state)
    assert (state.phase, effects) == (Phase.CONFIRMING, ())
    state, _ = told(policy, CannotClose(33, Phase.CONFIRMING, "1 of 3 confirmed"), state=state)
    assert state.reason == "1 of 3 confirmed; lost: CONFIRMING 3 (silent)"


def test_survivors_are_those_whose_reports_were_frozen_and_not_those_who_answered() -> None:
    policy = secure(confirming=False)
    state = collecting(policy)
    arrivals = [Arrived(30, Phase.COLLECTING, c) for c in (A, B, C)]
    state, _ = told(policy, *arrivals, Closed(31, Phase.COLLECTING, EVERYONE - {D}), state=state)
    assert state.phase is Phase.UNMASKING
    answers = [Arrived(40, Phase.UNMASKING, c) for c in (A, B)]
    timer = DeadlinePassed(9_999, Phase.UNMASKING)
    closed = Closed(9_999, Phase.UNMASKING, frozenset({A, B}))
    state, effects = told(policy, *answers, timer, closed, state=state)
    assert state.survivors == {A, B, C}
    assert isinstance(effects[0], Persist) and effects[0].transition.cohort == {A, B, C}


def test_a_result_is_summed_released_published_and_scrubbed_in_this_order() -> None:
    policy, state = plain(), aggregating(plain())
    with pytest.raises(TransitionError):
        step(state, Released(50, DIGEST), policy)
    state, effects = told(policy, Aggregated(50), state=state)
    assert effects == (Release(),)
    with pytest.raises(TransitionError):
        step(state, Aggregated(50), policy)
    with pytest.raises(TransitionError):
        step(state, Released(50, b"short"), policy)
    state, effects = told(policy, Released(51, DIGEST), state=state)
    assert (state.phase, effects[1:]) == (Phase.RELEASING, (Publish(DIGEST),))
    state, effects = told(policy, Published(52), state=state)
    assert (state.phase, effects[1:]) == (Phase.COMPLETED, (Scrub(),))
    state, effects = told(policy, Scrubbed(53), state=state)
    assert (state.phase, effects[1:]) == (Phase.SCRUBBED, ())


def test_a_cancelled_round_ends_at_once_unless_its_result_is_paid_for() -> None:
    policy, state = plain(), aggregating(plain())
    state, _ = told(policy, Aggregated(50), state=state)
    cancelled, effects = told(policy, Cancel(51, "wrong data"), state=state)
    assert (cancelled.phase, cancelled.reason) == (Phase.CANCELLED, "wrong data")
    assert effects[1:] == (Scrub(),)
    with pytest.raises(TransitionError):
        step(cancelled, Released(52, DIGEST), policy)
    state, _ = told(policy, Released(51, DIGEST), state=state)
    assert told(policy, Cancel(52, "wrong data"), state=state) == (state, ())
    assert told(policy, Published(53), state=state)[0].phase is Phase.COMPLETED


def test_a_result_that_cannot_be_published_does_not_hold_up_the_task() -> None:
    policy = plain(max_attempts=2)
    state, _ = told(policy, Aggregated(50), Released(51, DIGEST), state=aggregating(policy))
    state, effects = told(policy, CannotClose(52, Phase.RELEASING, "10 leases"), state=state)
    assert state.phase is Phase.ABANDONED and effects[1:] == (Scrub(), Begin(2))


def test_the_timer_of_a_phase_that_is_over_is_ignored_everywhere() -> None:
    state = aggregating(plain())
    assert told(plain(), DeadlinePassed(9_999, Phase.COLLECTING), state=state) == (state, ())


@pytest.mark.parametrize(
    "event",
    [
        Arrived(30, Phase.SHARES, A),
        Closed(30, Phase.KEYS, EVERYONE),
        CannotClose(30, Phase.KEYS, "no"),
        Closed(30, Phase.COLLECTING, frozenset({b"stranger"})),
    ],
    ids=lambda event: f"{type(event).__name__} {event.phase.name}",
)
def test_what_belongs_to_another_phase_or_to_nobody_is_refused(event: Event) -> None:
    with pytest.raises(TransitionError):
        step(collecting(secure()), event, secure())


def test_a_set_that_froze_before_a_crash_goes_on_unasked() -> None:
    policy = secure()
    state = in_first_phase(policy)
    state, effects = told(policy, Recovered(50, (A, B)), state=state)
    assert effects == (Invite(EVERYONE), Arm(Phase.KEYS, 1_010)) and state.pending == {C, D}
    state, _ = told(policy, Closed(50, Phase.KEYS, frozenset({A, B})), state=state)
    assert (state.phase, state.members) == (Phase.SHARES, {A, B})


def test_recovering_asks_again_for_all_that_is_owed() -> None:
    policy = plain()
    state = in_first_phase(policy)
    invite, arm = Invite(EVERYONE), Arm(Phase.COLLECTING, 1_010)
    recovered = Recovered(50, (A, B), {C: "failed", A: "failed"})
    after, effects = told(policy, recovered, state=state)
    assert effects == (invite, arm)
    assert (after.arrived, after.pending, set(after.lost)) == ({A, B}, {D}, {C})
    after, effects = told(policy, Recovered(50, (A, B, C)), state=state)
    assert effects == (invite, arm, Close(Phase.COLLECTING)) and after.closing
    late = Arm(Phase.COLLECTING, 1_010)
    assert told(policy, Recovered(5_000, (A,)), state=state)[1] == (invite, late)

    state = aggregating(policy)
    releasing, _ = told(policy, Aggregated(60), state=state)
    again = told(policy, Recovered(61), state=releasing)
    assert again == (state, (Aggregate(),))
    state, _ = told(policy, Released(62, DIGEST), state=releasing)
    assert told(policy, Recovered(63), state=state) == (state, (Publish(DIGEST),))
    state, _ = told(policy, Published(64), state=state)
    assert told(policy, Recovered(65), state=state) == (state, (Scrub(),))
    state, _ = told(policy, Scrubbed(66), state=state)
    assert told(policy, Recovered(67), state=state) == (state, ())


def test_a_transition_that_is_due_after_a_crash_waits_for_a_timer_that_goes_off_at_once() -> None:
    policy = plain()
    state, _ = told(policy, Started(0))
    full, effects = told(policy, Recovered(50, (D, C, B, A, b"late")), state=state)
    assert full.arrived == EVERYONE
    assert effects == (Arm(Phase.SELECTING, 50),)
    with pytest.raises(TransitionError):
        step(full, CheckedIn(50, b"late"), policy)
    state, _ = told(policy, DeadlinePassed(50, Phase.SELECTING), state=full)
    assert (state.phase, state.cohort) == (Phase.COLLECTING, EVERYONE)
    gone = dict.fromkeys((A, B, C), "failed")
    short, effects = told(policy, Recovered(60, (), gone), state=state)
    assert effects == (Invite(EVERYONE), Arm(Phase.COLLECTING, 60))
    assert told(policy, Arrived(60, Phase.COLLECTING, D), state=short)[1] == ()
    state, _ = told(policy, DeadlinePassed(60, Phase.COLLECTING), state=short)
    assert state.phase is Phase.FAILED


def test_who_was_lost_before_a_crash_takes_no_place_in_the_selection() -> None:
    state, _ = told(plain(), Started(0))
    state, _ = told(plain(), Recovered(50, (A, B, C, D, b"next"), {A: "hung up"}), state=state)
    assert state.arrived == {B, C, D, b"next"}


def test_an_attempt_that_a_restore_abandoned_is_followed_by_another() -> None:
    """Even beyond the last: a backup that was restored is no fault of the round."""
    state = RoundState("t", 0, 3, Phase.ABANDONED, 4, since=0)
    assert told(plain(max_attempts=3), Recovered(9), state=state)[1] == (Scrub(), Begin(4))


def test_transitions_that_do_not_follow_each_other_are_not_replayed() -> None:
    opened = RoundState.opened("t", round=0, attempt=1, at=0)
    first = Transition(Phase.PENDING, Phase.SELECTING, 1, at=0)
    for wrong in (
        Transition(Phase.SELECTING, Phase.KEYS, 1, at=0),
        Transition(Phase.PENDING, Phase.SELECTING, 2, at=0),
        Transition(Phase.PENDING, Phase.COMPLETED, 1, at=0),
    ):
        with pytest.raises(TransitionError):
            replay(opened, [wrong])
    assert replay(opened, [first]).phase is Phase.SELECTING
    with pytest.raises(TransitionError):
        replay(opened, [first, first])
