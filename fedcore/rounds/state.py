"""The state of one attempt at a round, which changes durably by transitions alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import NamedTuple

from fedcore.errors import TransitionError
from fedcore.rounds.phases import CLIENT_PHASES, ENDS, Phase
from fedcore.rounds.table import EDGES

__all__ = ["LATE", "LEFT_OUT", "SURPLUS", "Loss", "RoundState", "Transition", "replay"]

LATE = "was not heard of in time"
LEFT_OUT = "sent a message that was not used"
SURPLUS = "was not waited for, as enough had reported"
_NOBODY: frozenset[bytes] = frozenset()


def _nobody_lost() -> Mapping[bytes, Loss]:
    return MappingProxyType({})


class Loss(NamedTuple):
    """In which phase a client was lost, and why."""

    phase: Phase
    why: str


@dataclass(frozen=True, slots=True)
class Transition:
    """What is made durable when an attempt passes from one phase to the next.

    `sequence`: that of the state it leads to, one more than before. `at`: when, and `deadline`:
    until when the new phase waits, in Unix milliseconds. `cohort`: the clients that take part in
    the new phase; the survivors, where it is AGGREGATING. `lost`: everyone lost so far. `digest`:
    of the released bytes, from RELEASING on.
    """

    from_phase: Phase
    to_phase: Phase
    sequence: int
    at: int
    reason: str = ""
    deadline: int | None = None
    cohort: frozenset[bytes] = _NOBODY
    lost: Mapping[bytes, Loss] = field(default_factory=_nobody_lost)
    digest: bytes = b""


@dataclass(frozen=True, slots=True)
class RoundState:
    """One attempt at a round. Clients are named by opaque bytes, times are Unix milliseconds.

    `sequence`: transitions so far. `since`: when the phase began. `deadline`: when it stops to
    wait, if it waits for clients. `cohort`: everyone who was selected. `members`: who takes part in
    the phase; each of them is in exactly one of `pending`, `arrived` (in SELECTING: who checked in)
    and `lost`, which also holds those lost in earlier phases. `survivors`: whose reports make up
    the sum, once that set is frozen. `closing`: the driver was asked to end the phase, so nobody
    else arrives. `reason`: of the last transition. `digest`: of the released bytes.

    >>> RoundState.opened("digits", round=3, attempt=1, at=0).phase
    <Phase.PENDING: 'PENDING'>
    """

    task_id: str
    round: int
    attempt: int
    phase: Phase
    sequence: int
    since: int
    deadline: int | None = None
    cohort: frozenset[bytes] = _NOBODY
    members: frozenset[bytes] = _NOBODY
    pending: Set[bytes] = _NOBODY
    arrived: Set[bytes] = _NOBODY
    survivors: frozenset[bytes] = _NOBODY
    lost: Mapping[bytes, Loss] = field(default_factory=_nobody_lost)
    closing: bool = False
    reason: str = ""
    digest: bytes = b""

    @classmethod
    def opened(cls, task_id: str, *, round: int, attempt: int, at: int) -> RoundState:
        """A new attempt, which waits for `Started`."""
        return cls(task_id, round, attempt, Phase.PENDING, 0, at)

    @property
    def over(self) -> bool:
        """Whether the attempt has come to its end, with or without a result."""
        return self.phase in ENDS

    def takes(self, phase: Phase, client: bytes) -> bool:
        """Whether what `phase` awaits of a client may still arrive, or has: ask before storing it.

        A repetition of what has arrived is taken as long as the phase lasts.
        """
        if phase is not self.phase or phase not in CLIENT_PHASES:
            return False
        return client in self.arrived or (client in self.members and not self.closing)

    def lost_by_phase(self) -> dict[Phase, int]:
        """How many clients were lost in each phase, in the order of the phases."""
        where = [loss.phase for loss in self.lost.values()]
        return {phase: where.count(phase) for phase in Phase if phase in where}

    def moved(self, transition: Transition) -> RoundState:
        """The state after a transition. Raises: TransitionError, if it is not the next one."""
        source, target = transition.from_phase, transition.to_phase
        if (source, transition.sequence) != (self.phase, self.sequence + 1) or (
            (source, target) not in EDGES
        ):
            raise TransitionError(
                f"transition {transition.sequence} from {source.name} to {target.name} does not"
                f" follow {self.phase.name} after transition {self.sequence}",
                why="transitions follow each other along the edges of docs/rounds.md",
                fix="replay all transitions of one attempt in their order",
            )
        waits = target in CLIENT_PHASES
        going_on = waits or target is Phase.AGGREGATING
        members = transition.cohort if waits else _NOBODY
        return replace(
            self,
            phase=target,
            sequence=transition.sequence,
            since=transition.at,
            deadline=transition.deadline,
            cohort=transition.cohort if source is Phase.SELECTING and waits else self.cohort,
            members=members,
            pending=members,
            arrived=_NOBODY,
            survivors=transition.cohort
            if source is Phase.COLLECTING and going_on
            else self.survivors,
            lost=transition.lost,
            closing=False,
            reason=transition.reason,
            digest=transition.digest,
        )


def replay(opened: RoundState, transitions: Iterable[Transition]) -> RoundState:
    """The state that the durable transitions of an attempt lead to, one after the other."""
    state = opened
    for transition in transitions:
        state = state.moved(transition)
    return state
