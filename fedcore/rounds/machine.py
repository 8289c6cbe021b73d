"""The round as a function: a state and an event give the next state, and what is to be done."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import replace
from types import MappingProxyType
from typing import TypeAlias

from fedcore.errors import TransitionError
from fedcore.rounds.effects import (
    Aggregate,
    Arm,
    Begin,
    Close,
    Effect,
    Invite,
    Persist,
    Publish,
    Release,
    Scrub,
)
from fedcore.rounds.events import (
    Aggregated,
    Arrived,
    Cancel,
    CannotClose,
    CheckedIn,
    Closed,
    DeadlinePassed,
    Event,
    Lost,
    Published,
    Recovered,
    Released,
    Scrubbed,
    Started,
)
from fedcore.rounds.phases import CLIENT_PHASES, Phase
from fedcore.rounds.policy import RoundPolicy
from fedcore.rounds.sets import VersionedSet
from fedcore.rounds.state import LATE, LEFT_OUT, SURPLUS, Loss, RoundState, Transition
from fedcore.rounds.table import TABLE

__all__ = ["step"]

Outcome: TypeAlias = tuple[RoundState, tuple[Effect, ...]]
_NOBODY: frozenset[bytes] = frozenset()
_SHA256_BYTES = 32


def step(state: RoundState, event: Event, policy: RoundPolicy) -> Outcome:
    """The state after an event, and the effects that the driver owes, in order.

    At most one of them is a `Persist`, the first. The timer of a phase that is over is ignored;
    any other event that the table does not allow is refused, and changes nothing.

    Raises: TransitionError.

    >>> policy = RoundPolicy(
    ...     goal=1, minimum=1, select=1, durations={Phase.SELECTING: 60, Phase.COLLECTING: 90}
    ... )
    >>> state = RoundState.opened("digits", round=0, attempt=1, at=0)
    >>> state, _ = step(state, Started(at=10), policy)
    >>> state, effects = step(state, CheckedIn(at=20, client=b"a"), policy)
    >>> effects[1:]
    (Invite(cohort=frozenset({b'a'})), Arm(phase=<Phase.COLLECTING: 'COLLECTING'>, deadline=110))
    """
    if isinstance(event, DeadlinePassed) and event.phase is not state.phase:
        return state, ()
    _require_legal(state, event, policy)
    after, effects = _decide(state, event, policy)
    assert after.phase in TABLE[state.phase, type(event)]
    return after, effects


def _decide(state: RoundState, event: Event, policy: RoundPolicy) -> Outcome:
    match event:
        case Started():
            number = f"attempt {state.attempt} of {policy.max_attempts}"
            reason = f"{number}: {event.why}" if event.why else number
            return _move(state, Phase.SELECTING, event.at, policy, reason=reason)
        case CheckedIn() | Arrived():
            return _go_on(_with_arrived(state, {event.client}), event.at, policy)
        case Lost() if state.phase is Phase.SELECTING:
            return _with_lost(state, {event.client: event.why}), ()
        case Lost():
            return _judge(_with_lost(state, {event.client: event.why}), event.at, policy)
        case DeadlinePassed():
            return _timer(state, event.at, policy)
        case Closed():
            return _closed(state, event, policy)
        case CannotClose():
            return _give_up(state, event.at, policy, reason=event.why)
        case Aggregated():
            return replace(state, closing=True), (Release(),)
        case Released():
            return _move(state, Phase.RELEASING, event.at, policy, digest=event.digest)
        case Published():
            return _move(state, Phase.COMPLETED, event.at, policy)
        case Scrubbed() if state.phase is Phase.COMPLETED:
            return _move(state, Phase.SCRUBBED, event.at, policy)
        case Cancel() if state.phase not in (Phase.RELEASING, Phase.COMPLETED):
            return _move(state, Phase.CANCELLED, event.at, policy, reason=event.why)
        case Scrubbed() | Cancel():
            return state, ()
        case Recovered():
            return _recovered(state, event, policy)


def _require_legal(state: RoundState, event: Event, policy: RoundPolicy) -> None:
    """Refuse what the table does not list, or what the state has behind or before it."""
    why = ""
    if (state.phase, type(event)) not in TABLE:
        why = f"a round that is {state.phase.name} awaits nothing of that kind"
    match event:
        case CheckedIn() if _full(state, event.client, policy):
            why = "as many clients as are selected have checked in"
        case Arrived() | CannotClose() | Closed() if event.phase is not state.phase:
            why = f"it is about {event.phase.name}, and the round is {state.phase.name}"
        case Arrived() if not state.takes(event.phase, event.client):
            member = event.client in state.members
            why = "the set is being frozen" if member else "the client has no part in the phase"
        case Closed() if not event.remaining <= state.members:
            why = "clients remain that had no part in the phase"
        case Lost() if state.phase in CLIENT_PHASES and event.client not in state.cohort:
            why = "the client was not selected"
        case Aggregated() if state.closing:
            why = "the sum is already being released"
        case Released() if not state.closing:
            why = "there is no sum yet that could have been released"
        case Released() if len(event.digest) != _SHA256_BYTES:
            why = "a result is named by the 32 bytes of its SHA-256"
    if why:
        raise TransitionError(
            f"{type(event).__name__} is not possible in round {state.round}, attempt"
            f" {state.attempt}, which is {state.phase.name}",
            why=why,
            fix="ask the state before telling it; docs/rounds.md lists what may happen when",
        )


def _full(state: RoundState, client: bytes, policy: RoundPolicy) -> bool:
    """Only between `Recovered` and the timer that it sets can a selection be complete."""
    selecting = state.phase is Phase.SELECTING
    return selecting and client not in state.arrived and len(state.arrived) >= policy.select


def _with_arrived(state: RoundState, clients: Set[bytes]) -> RoundState:
    if clients <= state.arrived:
        return state
    lost = state.lost
    if clients & lost.keys():
        still = {client: loss for client, loss in lost.items() if client not in clients}
        lost = MappingProxyType(still)
    arrived = VersionedSet.of(state.arrived).including(clients)
    pending = VersionedSet.of(state.pending).excluding(clients)
    return replace(state, arrived=arrived, pending=pending, lost=lost)


def _with_lost(state: RoundState, whys: Mapping[bytes, str]) -> RoundState:
    """In SELECTING whoever checked in can go again; later only who is still awaited is lost."""
    selecting = state.phase is Phase.SELECTING
    here = state.arrived if selecting else state.pending
    clients = {client for client in whys if client in here}
    if not clients:
        return state
    lost = {client: Loss(state.phase, whys[client]) for client in clients}
    return replace(
        state,
        arrived=VersionedSet.of(state.arrived).excluding(clients) if selecting else state.arrived,
        pending=VersionedSet.of(state.pending).excluding(clients),
        lost=MappingProxyType({**state.lost, **lost}),
    )


def _timer(state: RoundState, at: int, policy: RoundPolicy) -> Outcome:
    """Only a timer ends a phase by its deadline, so that no other event leads to as many places."""
    assert state.deadline is not None
    late = at >= state.deadline
    after, effects = _judge(state, at, policy, late=late)
    return after, effects or (() if late or after.closing else _arm(after))


def _judge(state: RoundState, at: int, policy: RoundPolicy, *, late: bool = False) -> Outcome:
    """Give up where too few are left, and otherwise go on if that is possible."""
    came, awaited = len(state.arrived), len(state.pending)
    if state.phase is Phase.SELECTING:
        too_few = late and came < policy.minimum
    else:
        too_few = came + (0 if late else awaited) < policy.needed(state.phase)
    if too_few:
        gone = dict.fromkeys(state.pending, LATE) if late else {}
        return _too_few(_with_lost(state, gone), at, policy)
    return _go_on(state, at, policy, late=late)


def _go_on(state: RoundState, at: int, policy: RoundPolicy, *, late: bool = False) -> Outcome:
    """To the next phase, once nobody else need be waited for."""
    came = len(state.arrived)
    if state.phase is Phase.SELECTING:
        if not late and came < policy.select:
            return state, ()
        reason = f"{came} of {policy.select} clients checked in"
        following = policy.following(state.phase)
        return _move(state, following, at, policy, reason=reason, cohort=frozenset(state.arrived))
    at_goal = state.phase is Phase.COLLECTING and came >= policy.goal
    done = late or at_goal or not state.pending
    if state.closing or not done or came < policy.needed(state.phase):
        return state, ()
    return replace(state, closing=True), (Close(state.phase),)


def _closed(state: RoundState, event: Closed, policy: RoundPolicy) -> Outcome:
    """On to the next phase with those who remain; everyone else was lost in this one."""
    remaining = frozenset(event.remaining)
    at_goal = state.phase is Phase.COLLECTING and len(state.arrived) >= policy.goal
    lost = {client: loss for client, loss in state.lost.items() if client not in remaining}
    for client in state.members - remaining - lost.keys():
        why = LEFT_OUT if client in state.arrived else SURPLUS if at_goal else LATE
        lost[client] = Loss(state.phase, why)
    state = replace(state, arrived=remaining, pending=_NOBODY, lost=MappingProxyType(lost))
    if len(remaining) < policy.needed(state.phase):
        return _too_few(state, event.at, policy)
    reason = f"{len(remaining)} of {len(state.members)} clients remain"
    # Who answered at the end is of no more interest: the sum is that of the survivors.
    cohort = state.survivors if state.phase is Phase.UNMASKING else remaining
    following = policy.following(state.phase)
    return _move(state, following, event.at, policy, reason=reason, cohort=cohort)


def _too_few(state: RoundState, at: int, policy: RoundPolicy) -> Outcome:
    left = len(state.arrived) + len(state.pending)
    needed = policy.needed(state.phase)
    return _give_up(state, at, policy, reason=f"too few clients: {left} of {needed}")


def _give_up(state: RoundState, at: int, policy: RoundPolicy, *, reason: str) -> Outcome:
    """Abandon the attempt, or fail where it was the last; the reason ends with the losses."""
    lost = ", ".join(
        f"{phase.name} {n} ({'; '.join(_whys(state, phase))})"
        for phase, n in state.lost_by_phase().items()
    )
    target = Phase.ABANDONED if state.attempt < policy.max_attempts else Phase.FAILED
    return _move(state, target, at, policy, reason=f"{reason}; lost: {lost}" if lost else reason)


def _whys(state: RoundState, phase: Phase) -> list[str]:
    """For which reasons clients were lost in a phase, each once."""
    return sorted({loss.why for loss in state.lost.values() if loss.phase is phase})


def _move(
    state: RoundState,
    target: Phase,
    at: int,
    policy: RoundPolicy,
    *,
    reason: str = "",
    cohort: frozenset[bytes] = _NOBODY,
    digest: bytes = b"",
) -> Outcome:
    waits = target is Phase.SELECTING or target in CLIENT_PHASES
    transition = Transition(
        from_phase=state.phase,
        to_phase=target,
        sequence=state.sequence + 1,
        at=at,
        reason=reason,
        deadline=at + policy.durations[target] if waits else None,
        cohort=cohort,
        lost=state.lost,
        digest=digest or state.digest,
    )
    state = state.moved(transition)
    return state, (Persist(transition), *_owed(state))


def _owed(state: RoundState) -> tuple[Effect, ...]:
    """What a phase asks for when it begins, and again when a driver takes it over."""
    match state.phase:
        case Phase.PENDING | Phase.SCRUBBED:
            return ()
        case Phase.SELECTING:
            return _arm(state)
        case Phase.AGGREGATING:
            return (Aggregate(),)
        case Phase.RELEASING:
            return (Publish(state.digest),)
        case Phase.COMPLETED | Phase.FAILED | Phase.CANCELLED:
            return (Scrub(),)
        case Phase.ABANDONED:
            return Scrub(), Begin(state.attempt + 1)
        case _:
            return Invite(state.members), *_arm(state)


def _arm(state: RoundState) -> tuple[Arm, ...]:
    return () if state.deadline is None else (Arm(state.phase, state.deadline),)


def _recovered(state: RoundState, event: Recovered, policy: RoundPolicy) -> Outcome:
    """Everything that is owed, without a transition: if one is due, the timer goes off at once."""
    state = replace(state, closing=False)
    if state.phase is Phase.SELECTING:
        came = [*sorted(state.arrived), *event.arrived]
        first = [client for client in dict.fromkeys(came) if client not in event.lost]
        state = _with_arrived(state, frozenset(first[: policy.select]))
    else:
        state = _with_arrived(state, state.members.intersection(event.arrived))
    state = _with_lost(state, event.lost)
    if state.deadline is None:
        return state, _owed(state)
    then, due = _judge(state, event.at, policy)
    if then.phase is state.phase:
        return then, (*_owed(state), *due)
    at_once = replace(state, deadline=event.at)
    return state, _owed(at_once)
