"""What becomes of a load as it grows, held against what the server takes at most just then.

A shared machine is not as fast in one second as in the next: the same server was seen to take 730
and 1,400 check-ins a second within a minute. So what it takes at most is found again and again,
and each step of the load is held against what was found right before and right after it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import NamedTuple

from benchmarks.federation.storm import Begin, Storm, Tally

__all__ = ["Curve", "Offered", "Trial", "curve"]

_PROBES_A_S, _SOON_S = 20.0, 0.25
_RECOVERY_S = 60.0  # after which nobody waits any longer


class Offered(NamedTuple):
    """How many calls a second were offered, and as a share of what was taken at most."""

    value: float
    share: float


@dataclass(frozen=True)
class Trial:
    """A step of the load, once; `most`: the calls a second that were taken right beside it."""

    step: float
    most: float
    tally: Tally

    @property
    def share(self) -> float:
        """What was of use, as a share of the most."""
        return self.tally.goodput / self.most


@dataclass(frozen=True)
class Curve:
    """All trials, what was taken at most between them, and the slowest recovery from the load."""

    trials: Sequence[Trial]
    most: Sequence[float]
    recovery_s: float

    @property
    def capacity(self) -> float:
        """What was taken at most, in calls a second: half of the time it was less."""
        return median(self.most)

    @property
    def tallies(self) -> Sequence[Tally]:
        """How all calls of all steps ended."""
        return [trial.tally for trial in self.trials]

    @property
    def peak(self) -> float:
        """The highest share of all steps, and never less than 1, which is that of the capacity."""
        return max(1.0, *(self.share(trial.step) for trial in self.trials))

    def goodput(self, step: float) -> float:
        """Calls of use a second at a step: half of the time they were fewer."""
        return median(trial.tally.goodput for trial in self._at(step))

    def share(self, step: float) -> float:
        """The same as a share of what was taken at most right beside."""
        return median(trial.share for trial in self._at(step))

    def offered(self, step: float) -> Offered:
        """What was offered at a step."""
        rates = [(trial.tally.due / trial.tally.elapsed_s, trial.most) for trial in self._at(step)]
        return Offered(median(r for r, _ in rates), median(r / most for r, most in rates))

    def _at(self, step: float) -> Sequence[Trial]:
        return [trial for trial in self.trials if trial.step == step]


def curve(
    storm: Storm,
    begin: Begin,
    probe: Begin,
    *,
    steps: Sequence[float],
    at_once: int,
    repeats: int,
    seconds: float,
) -> Curve:
    """Offers `steps` times what is taken with `at_once` on their way; all of it `repeats` times.

    `seconds`: of a step; for half of it, before and after, it is found what is taken at most.
    `probe`: begins the calls that tell whether the server has recovered from the last step.
    Raises: RuntimeError if it does not recover.
    """

    def most() -> float:
        return max(1.0, storm.filled(begin, at_once=at_once, seconds=seconds / 2).goodput)

    found, trials, slowest_s = [most()], list[Trial](), 0.0
    for step in list(steps) * repeats:
        tally = storm.offered(begin, rate=step * found[-1], seconds=seconds)
        if step == steps[-1]:
            slowest_s = max(slowest_s, _recovery_s(storm, probe, tally.end_s))
        found.append(most())
        trials.append(Trial(step, fmean(found[-2:]), tally))
    return Curve(trials, found, slowest_s)


def _recovery_s(storm: Storm, probe: Begin, end_s: float) -> float:
    """Seconds from the end of the load until a second begins in which all are answered soon.

    First all calls of the load end, or are given up. Raises: RuntimeError if no such second comes.
    """
    while (begin_s := time.perf_counter() - end_s) < _RECOVERY_S:
        if storm.offered(probe, rate=_PROBES_A_S, seconds=1.0).latest_s <= _SOON_S:
            return begin_s
    raise RuntimeError(f"the server has not recovered in {_RECOVERY_S:g} s")
