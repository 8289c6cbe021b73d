"""What a round waits for, in one sentence: the first thing to ask of one that does not move."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from fedcore.rounds.phases import Phase
from fedcore.rounds.policy import RoundPolicy
from fedcore.rounds.state import RoundState

__all__ = ["waiting_for"]

_AWAITED: Mapping[Phase, str] = MappingProxyType(
    {
        Phase.KEYS: "to post their keys",
        Phase.SHARES: "to deal their shares",
        Phase.COLLECTING: "to train and report",
        Phase.CONFIRMING: "to confirm the survivors",
        Phase.UNMASKING: "to help to unmask the sum",
    }
)
_SERVER: Mapping[Phase, str] = MappingProxyType(
    {
        Phase.PENDING: "waits for the server to begin",
        Phase.AGGREGATING: "waits for the server to release the result",
        Phase.RELEASING: "waits for the server to publish the model",
        Phase.COMPLETED: "is complete, and waits for its updates and keys to be destroyed",
    }
)


def waiting_for(state: RoundState, policy: RoundPolicy, at: int) -> str:
    """What for, from how many clients, for how long, and for how much longer.

    `at`: now, in Unix milliseconds. Whom it waits for is in `state.pending`.

    >>> state = RoundState("digits", 0, 1, Phase.SELECTING, 1, since=0, deadline=60_000)
    >>> policy = RoundPolicy(
    ...     goal=2,
    ...     minimum=2,
    ...     select=3,
    ...     durations={Phase.SELECTING: 60_000, Phase.COLLECTING: 90_000},
    ... )
    >>> waiting_for(state, policy, at=12_000)
    'waits for 3 clients to check in (0 came, at least 2 must): for 12 s, at most 48 s more'
    """
    if state.over:
        why = f": {state.reason}" if state.reason else ""
        return f"waits for nothing, it is {state.phase.name.lower()}{why}"
    return f"{_what(state, policy)}: {_times(state, at)}"


def _what(state: RoundState, policy: RoundPolicy) -> str:
    came, needed = len(state.arrived), policy.needed(state.phase)
    if state.phase is Phase.SELECTING:
        missing = _clients(policy.select - came)
        return f"waits for {missing} to check in ({came} came, at least {needed} must)"
    if state.phase is Phase.AGGREGATING and not state.closing:
        return f"waits for the server to sum the reports of {_clients(len(state.survivors))}"
    if state.phase in _SERVER:
        return _SERVER[state.phase]
    if state.closing:
        return f"waits for the server to go on with {came} of {_clients(len(state.members))}"
    gone = len(state.members) - came - len(state.pending)
    return (
        f"waits for {len(state.pending)} of {_clients(len(state.members))}"
        f" {_AWAITED[state.phase]} ({came} came, {gone} lost, at least {needed} must)"
    )


def _clients(count: int) -> str:
    return "1 client" if count == 1 else f"{count} clients"


def _times(state: RoundState, at: int) -> str:
    waited = f"for {_seconds(at - state.since)}"
    if state.deadline is None or state.closing:
        return waited
    if at >= state.deadline:
        return f"{waited}, its deadline passed {_seconds(at - state.deadline)} ago"
    return f"{waited}, at most {_seconds(state.deadline - at)} more"


def _seconds(ms: int) -> str:
    return f"{max(ms, 0) // 1000} s"
