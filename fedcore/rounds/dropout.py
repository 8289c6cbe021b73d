"""How many clients to select for a goal, learnt from how many were lost before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil, prod
from types import MappingProxyType
from typing import NamedTuple

from fedcore.errors import ArgumentError
from fedcore.rounds.phases import CLIENT_PHASES, Phase
from fedcore.rounds.state import SURPLUS, RoundState

__all__ = ["DropoutEstimate", "Seen", "overselection", "seen_in"]

_REPORTING = (Phase.KEYS, Phase.SHARES, Phase.COLLECTING)
_LARGEST_FACTOR = 10
_ROUNDING = 1e-9


class Seen(NamedTuple):
    """In one phase of one attempt: clients that took part, and those of them that were lost."""

    asked: int
    lost: int


def _no_rates() -> Mapping[Phase, float]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class DropoutEstimate:
    """The share of clients that is lost in each phase, as exponentially weighted means.

    `smoothing`: the weight of the newest attempt. A phase of which nothing is known loses nobody.

    >>> DropoutEstimate.expecting(1.3).selection(10)
    13
    """

    rates: Mapping[Phase, float] = field(default_factory=_no_rates)
    smoothing: float = 0.2

    def __post_init__(self) -> None:
        object.__setattr__(self, "rates", MappingProxyType(dict(self.rates)))
        if not 0 < self.smoothing <= 1 or not all(0 <= r <= 1 for r in self.rates.values()):
            raise ArgumentError(
                f"rates {dict(self.rates)} with smoothing {self.smoothing} are no estimate",
                why="rates lie in 0 to 1, and the weight of what is new above 0 and up to 1",
                fix="begin with `DropoutEstimate.expecting`",
            )

    @classmethod
    def expecting(cls, factor: float, *, smoothing: float = 0.2) -> DropoutEstimate:
        """A first guess: `factor` times as many clients are needed as shall report."""
        if not factor >= 1:
            raise ArgumentError(
                f"factor is {factor}",
                why="fewer clients than shall report cannot be enough",
                fix="use 1.0 where nobody is lost, or more",
            )
        return cls({Phase.COLLECTING: 1 - 1 / factor}, smoothing)

    @property
    def reporting(self) -> float:
        """The share of clients that report; who is lost after COLLECTING has reported."""
        return prod(1 - self.rates.get(phase, 0.0) for phase in _REPORTING)

    def selection(self, goal: int) -> int:
        """The clients to select so that, of those, about `goal` report; ten times as many at most.

        >>> DropoutEstimate({Phase.KEYS: 0.1, Phase.COLLECTING: 0.2}).selection(18)
        25
        """
        return ceil(goal / max(self.reporting, 1 / _LARGEST_FACTOR) - _ROUNDING)


def overselection(previous: DropoutEstimate, seen: Mapping[Phase, Seen]) -> DropoutEstimate:
    """The estimate after another attempt: `selection(goal)` of it says how many to select.

    >>> guess = DropoutEstimate.expecting(1.0, smoothing=0.5)
    >>> learnt = overselection(guess, {Phase.COLLECTING: Seen(asked=10, lost=4)})
    >>> round(learnt.rates[Phase.COLLECTING], 3), learnt.selection(10)
    (0.2, 13)
    """
    rates = dict(previous.rates)
    for phase, (asked, lost) in seen.items():
        if not 0 <= lost <= asked:
            raise ArgumentError(
                f"{lost} of {asked} clients were lost in {phase.name}",
                why="no more can be lost than took part",
                fix="use `seen_in` of the attempt's last state",
            )
        if asked:
            rate = rates.get(phase, 0.0)
            rates[phase] = rate + previous.smoothing * (lost / asked - rate)
    return DropoutEstimate(rates, previous.smoothing)


def seen_in(state: RoundState) -> dict[Phase, Seen]:
    """Who took part and was lost in each phase of clients, of an attempt that is over.

    Who was not waited for, because the goal was reached, counts as neither. Of an attempt without a
    result nothing is known after the last phase in which it lost someone.
    """
    genuine = [
        loss.phase for c, loss in state.lost.items() if c in state.cohort and loss.why != SURPLUS
    ]
    surplus = sum(loss.why == SURPLUS for loss in state.lost.values())
    present = len(state.cohort)
    seen: dict[Phase, Seen] = {}
    last = max((CLIENT_PHASES.index(phase) for phase in genuine), default=-1)
    for index, phase in enumerate(CLIENT_PHASES):
        if not state.digest and index > last:
            break
        present -= surplus if phase is Phase.COLLECTING else 0
        lost = genuine.count(phase)
        seen[phase] = Seen(present, lost)
        present -= lost
    return seen
