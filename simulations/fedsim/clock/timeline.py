"""What came of an attempt, and of a round: who reported when, who was lost where and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import NamedTuple

from fedcore.rounds import Phase, RoundState, Seen, Transition
from fedcore.secagg.loopback import LostAt
from fedsim.clock.work import Traffic

__all__ = ["Attempt", "Cause", "ClockState", "Loss", "RoundTimeline", "Span"]


class Cause(Enum):
    """Why a client did not do its part, as it was: a server often knows only that it was late.

    DROPPED: by the probability of its stage. AWAY: it was there no longer. FAILED: its program
    failed. SLOW: too late for a deadline. SURPLUS: enough others had reported. UNUSED: its message
    was not used. STALE: it was of too old a model. GIVEN_UP: the whole attempt was, not the client.
    """

    DROPPED = "dropped out"
    AWAY = "went away"
    FAILED = "failed"
    SLOW = "was too slow"
    SURPLUS = "was not waited for"
    UNUSED = "was not used"
    STALE = "was of too old a model"
    GIVEN_UP = "the attempt was given up"


class Loss(NamedTuple):
    """In which phase a client was lost, why, and when, in milliseconds."""

    phase: Phase
    cause: Cause
    at: int


class Span(NamedTuple):
    """A phase of an attempt, from when until when, in milliseconds."""

    phase: Phase
    begin: int
    end: int


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """One attempt at a round. Clients are places in the population, times milliseconds.

    `state`: as the machine left it, after these `transitions`. `cohort`: who was selected, in the
    order of the draw. `reported`: when the report of each survivor was whole. `lost`: everybody
    else of the cohort; who left before it was selected; and survivors that were silent later.
    `roster`: the members of its session of secure aggregation, ascending. `silent_from`: of an
    attempt with a result, where its session hears of some of them no more.
    `traffic`: the bytes of each phase; a model counts that was received whole, and an answer that
    arrived in time.
    """

    state: RoundState
    transitions: tuple[Transition, ...]
    cohort: tuple[int, ...]
    reported: Mapping[int, int]
    lost: Mapping[int, Loss]
    roster: tuple[int, ...]
    silent_from: Mapping[int, LostAt]
    traffic: Mapping[Phase, Traffic]
    begin: int
    end: int

    @property
    def completed(self) -> bool:
        """Whether it led to a model."""
        return bool(self.state.digest)

    @property
    def survivors(self) -> tuple[int, ...]:
        """Whose reports make up the sum, ascending."""
        return tuple(sorted(self.reported))

    @property
    def spans(self) -> tuple[Span, ...]:
        """The phases that took time or might have, in order."""
        return tuple(
            Span(one.to_phase, one.at, following.at)
            for one, following in pairwise(self.transitions)
        )

    @property
    def funnel(self) -> Mapping[tuple[Phase, Cause], int]:
        """How many were lost in each phase and why."""
        counted = Counter((loss.phase, loss.cause) for loss in self.lost.values())
        phases, causes = list(Phase), list(Cause)
        order = sorted(counted, key=lambda one: (phases.index(one[0]), causes.index(one[1])))
        return {key: counted[key] for key in order}

    @property
    def bytes_down(self) -> int:
        """From the server to all clients."""
        return sum(each.down for each in self.traffic.values())

    @property
    def bytes_up(self) -> int:
        """From all clients to the server."""
        return sum(each.up for each in self.traffic.values())


@dataclass(frozen=True, slots=True)
class ClockState:
    """Where a clock stands between two rounds, which is all that the next one depends on.

    `at`: milliseconds since the begin of the simulation. `seen`: of the newest attempts, who took
    part and was lost in each phase.
    """

    at: int = 0
    seen: tuple[Mapping[Phase, Seen], ...] = ()

    def to_record(self) -> dict[str, object]:
        """JSON values that `from_record` reads."""
        seen = [{phase.value: list(counts) for phase, counts in one.items()} for one in self.seen]
        return {"at": self.at, "seen": seen}

    @classmethod
    def from_record(cls, record: Mapping[str, object]) -> ClockState:
        """What `to_record` wrote."""
        at, seen = record["at"], record["seen"]
        assert isinstance(at, int) and isinstance(seen, Iterable)
        return cls(
            at, tuple({Phase(name): Seen(*counts) for name, counts in one.items()} for one in seen)
        )


@dataclass(frozen=True, slots=True, eq=False)
class RoundTimeline:
    """All attempts at a round. `begin`: when the one before had ended. `after`: what is then."""

    round: int
    begin: int
    attempts: tuple[Attempt, ...]
    after: ClockState

    @property
    def completed(self) -> bool:
        """Whether the last attempt led to a model."""
        return self.attempts[-1].completed

    @property
    def last(self) -> Attempt:
        """The attempt that led to a model, or the last that did not."""
        return self.attempts[-1]

    @property
    def end(self) -> int:
        """When the round is over."""
        return self.last.end

    @property
    def waited_ms(self) -> int:
        """For how long too few clients were there to begin, before all attempts together."""
        ends = [self.begin, *(attempt.end for attempt in self.attempts)]
        begins = [attempt.begin for attempt in self.attempts]
        return sum(begin - end for begin, end in zip(begins, ends, strict=False))
