"""What may be claimed of all that a ledger has charged, under one plan or several: weakest first.

A later plan takes nothing back: a server that saw exact sums has seen them, and who was in an
earlier sample stays a secret that the figure rests on. So every statement is made over all plans
that something was spent under.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from typing import Any

from fedcore.privacy.accounting import account
from fedcore.privacy.events import (
    RATE_UNIT,
    AdditiveEvent,
    Event,
    FixedSizeEvent,
    PoissonEvent,
    RepeatedEvent,
    TruncatedPoissonEvent,
)
from fedcore.privacy.grade import Grade
from fedcore.privacy.ledger_history import History
from fedcore.privacy.noise import CompactShares, NoiseShares, SimulatedNoise
from fedcore.privacy.plan import PrivacyPlan
from fedcore.privacy.rdp import compose, epsilon
from fedcore.privacy.sampling import Uncontrolled
from fedcore.privacy.units import Unit

__all__ = ["NOT_COVERED", "Claims", "flat", "often", "statement_over", "upward"]

NOT_COVERED = (
    "the choice of hyper-parameters, and test results, where they were computed from the same data",
    "whatever else is computed from the data and not charged to the ledger",
    "more units than the population counts, or one unit that comes under several names",
    "a ledger that was replaced by an older copy, unless a checkpoint elsewhere holds its head",
    "a stop that was chosen by what had been released: then the budget is what holds",
)
"""What no plan, no ledger and no accountant sees."""

_TAIL = Fraction(1, 100)
"""The part of delta that a unit may take part more often than `often` says."""

_OTHERWISE = "; under another plan: "


class Claims:
    """Of the plans that something was spent under; where nothing was, of the present one."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._segments = [one for one in history.segments if one.reservations] or [history.segment]
        self.plans = tuple(segment.plan for segment in self._segments)

    @property
    def delta(self) -> float:
        """What the accountant used, and what each plan has set aside of its own, rounded up."""
        exact = Fraction(self._history.plan.failure)
        for plan in self.plans:
            assert plan.delta is not None
            exact += Fraction(plan.delta) - Fraction(plan.failure)
        found = float(exact)
        return found if Fraction(found) >= exact else math.nextafter(found, 1.0)

    @property
    def population(self) -> int:
        """The public number of units, where there were fewest."""
        return min(plan.population for plan in self.plans)

    @property
    def noise_multiplier(self) -> Fraction:
        """Of the plan with the least."""
        return min(plan.noise_multiplier for plan in self.plans)

    @property
    def statement(self) -> dict[str, str]:
        """What has to be said beside the figure, in words."""
        return statement_over(self.plans)

    @property
    def secret(self) -> str:
        """What nobody may learn for the figure to hold."""
        sampled = [plan for plan in self.plans if not isinstance(plan.sampling, Uncontrolled)]
        if not sampled:
            return "nothing: who takes part may be known to anybody"
        where = "" if len(sampled) == len(self.plans) else "where the plan sampled, "
        if sampled[0].unit is Unit.RECORD:
            return (
                f"{where}which records joined a step, drawn and kept by their holder: whoever "
                "learns it is to be counted as the adversary who knows the participants"
            )
        return (
            f"{where}who took part in which round: whoever learns it, as the server that selects, "
            "is to be counted as the adversary who knows the participants"
        )

    @property
    def participations(self) -> dict[str, Any]:
        """The `most` of one unit, `of` how many steps or rounds, and what bounds them."""
        most = of = 0
        for segment, known in zip(self._segments, self._known, strict=True):
            plan, times = segment.plan, 1
            if isinstance(plan.sampling, Uncontrolled) and plan.rounds_a_reservation > 1:
                times = plan.sampling.maximum_participations  # of each matrix of rounds
            most += times * sum(known.values())
            steps = sum(flat(event, count)[1] for event, count in segment.counts.items())
            of += plan.rounds_a_reservation * steps
        bounds = []
        if not all(isinstance(plan.sampling, Uncontrolled) for plan in self.plans):
            chance = float(_TAIL) * self._history.plan.failure
            bounds.append(f"but for a chance of {chance:.3g}, by the sampling")
        if any(isinstance(plan.sampling, Uncontrolled) for plan in self.plans):
            bounds.append("as the ledger enforces, or as often as there were rounds")
        return {
            "most": most,
            "of": of,
            "in": "steps" if self.plans[0].unit is Unit.RECORD else "rounds",
            "bound": _OTHERWISE.join(bounds),
        }

    @property
    def float_noise(self) -> bool:
        """Whether some of the noise was of a known seed."""
        return any(isinstance(plan.noise, SimulatedNoise) for plan in self.plans)

    def adversaries(self, value: float) -> list[dict[str, Any]]:
        """What is claimed against whom, `value` against readers; None: nothing."""
        without = self._without_sampling(value)
        found = [
            {
                "name": "readers",
                "sees": "all that was released, and not who took part",
                "epsilon": value,
            },
            {
                "name": "who knows participants",
                "sees": "all that was released, and who took part when; what "
                "a unit takes part in composes, without amplification by sampling",
                "epsilon": without,
            },
            self._server(value, without),
        ]
        if self.float_noise:
            for adversary in found:
                adversary["epsilon"] = None
        return found

    def _server(self, value: float, without: float) -> dict[str, Any]:
        # What it saw under an earlier plan it has not forgotten.
        shared = [isinstance(plan.noise, NoiseShares | CompactShares) for plan in self.plans]
        against: float | None = value
        if self.plans[0].unit is Unit.RECORD:
            sees = (
                "noisy sums under secure aggregation, and not which records joined a step"
                if any(shared)
                else "what readers see, for the holder adds the noise"
            )
        elif all(shared):
            sees = "noisy sums under secure aggregation, and who took part when"
            against = without
        else:
            adds = "where it added the noise" if any(shared) else "for it adds the noise"
            sees = f"the exact sums, {adds}, and is trusted to forget them"
            against = None
        return {"name": "the server", "sees": sees, "epsilon": against}

    def _without_sampling(self, value: float) -> float:
        """What it costs the dearest unit against those who know when it took part."""
        history = self._history
        if all(isinstance(flat(event, 1)[0], AdditiveEvent) for event in history.spend()):
            return value
        known: dict[Event, int] = {}
        for segment in self._known:
            for event, count in segment.items():
                known[event] = known.get(event, 0) + count
        adjacency, delta = history.plan.adjacency, float(1 - _TAIL) * history.plan.failure
        if history.order is None:
            return account(known, adjacency=adjacency, delta=delta).value
        return epsilon(compose(known, adjacency), delta, order=history.order)[0]

    @cached_property
    def _known(self) -> list[dict[Event, int]]:
        """By plan, what the dearest unit takes part in: by event, how often."""
        spends = [segment.spend({}) for segment in self._segments]
        tail = float(_TAIL) * self._history.plan.failure / max(1, sum(map(len, spends)))
        return [_known(spend, tail) for spend in spends]


def statement_over(plans: Sequence[PrivacyPlan]) -> dict[str, str]:
    """The statements of all plans, each text once, and the weakest first."""
    found = {}
    for name in plans[0].statement():
        ordered = sorted(plans, key=_STRENGTH.get(name, lambda plan: 0))
        found[name] = _OTHERWISE.join(dict.fromkeys(plan.statement()[name] for plan in ordered))
    return found


def upward(value: float) -> str:
    """At most five significant digits, never less than the value.

    >>> upward(1.99962), upward(1.999601), upward(1e-5), upward(0.0)
    ('1.9997', '1.9997', '1e-05', '0')
    """
    nearest = f"{value:.5g}"
    if not 0 < value < math.inf or float(nearest) >= value:
        return nearest
    step = Fraction(10) ** (math.floor(math.log10(value)) - 4)
    return f"{float(math.ceil(Fraction(value) / step) * step):.6g}"


def flat(event: Event, count: int) -> tuple[Event, int]:
    """An event that repeats nothing, and how often it happens."""
    return (
        flat(event.event, count * event.count)
        if isinstance(event, RepeatedEvent)
        else (event, count)
    )


def often(rounds: int, probability: float, tail: float) -> int:
    """How often one takes part in so many rounds, exceeded with a probability of at most `tail`.

    Source: Chernoff's bound, P[Bin(n, q) >= k] <= exp(-n KL(k/n, q)) for k >= n q.
    """

    def proven(count: int) -> bool:
        part = (count + 1) / rounds
        divergence = part * math.log(part / probability)
        if part < 1:
            divergence += (1 - part) * math.log((1 - part) / (1 - probability))
        return rounds * divergence >= -math.log(tail)

    least = math.ceil(rounds * probability)
    # Above the mean the divergence grows: what holds for one count holds for those after it.
    return least + bisect.bisect_left(range(least, rounds), True, key=proven)


def _known(spend: Mapping[Event, int], tail: float) -> dict[Event, int]:
    found: dict[Event, int] = {}
    for event, count in spend.items():
        step, steps = flat(event, count)
        match step:
            case PoissonEvent(rate=rate) | TruncatedPoissonEvent(rate=rate):
                step, steps = step.event, often(steps, rate / RATE_UNIT, tail)
            case FixedSizeEvent(size=size, population=population):
                step, steps = step.event, often(steps, size / population, tail)
            case _:
                pass
        found[step] = found.get(step, 0) + steps
    return found


def _trusted(plan: PrivacyPlan) -> tuple[int, int]:
    """Less where more is taken on trust: first the noise, then its adder, then all clients."""
    if isinstance(plan.noise, NoiseShares | CompactShares):
        return (2, plan.noise.corrupt)
    return (0 if isinstance(plan.noise, SimulatedNoise) else 1, 0)


_STRENGTH: Mapping[str, Callable[[PrivacyPlan], Any]] = {
    "sampling": lambda plan: isinstance(plan.sampling, Uncontrolled),
    "trust": _trusted,
    "quantisation": lambda plan: plan.grade is Grade.EXACT,
}
