"""The terms of a guarantee in one immutable value: what does not add up cannot be constructed.

A plan is public. Its digest opens the ledger, and every round reads from it alone who takes part,
how updates are clipped and rounded, how much noise is added and what that costs.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from fractions import Fraction
from functools import cached_property
from typing import Any, TypeAlias

from fedcore.errors import PlanError
from fedcore.privacy.accounting import Accountant
from fedcore.privacy.adaptive import Adaptive
from fedcore.privacy.calibration import noise_multiplier
from fedcore.privacy.clipping import Flat, PerLayer
from fedcore.privacy.codec import from_json, to_json
from fedcore.privacy.events import (
    AdditiveEvent,
    Event,
    GaussianEvent,
    RepeatedEvent,
    SharesEvent,
)
from fedcore.privacy.noise import BandedNoise, CentralNoise, Noise, NoiseShares
from fedcore.privacy.sampling import Sampling, Uncontrolled
from fedcore.privacy.units import Adjacency, Unit

__all__ = ["Clipping", "Grade", "PrivacyPlan", "default_delta"]

Clipping: TypeAlias = Flat | PerLayer | Adaptive

_MOST_GRID_STEPS = 2**26
_DOMAIN = b"fedcore privacy plan 1\0"


class Grade(Enum):
    """How records are put on the grid.

    EXACT: each record's clipped gradient is truncated by itself, its norm checked in integers.
    SUM: the sum of the clipped gradients, computed in float64, is truncated once; the declared
    sensitivity grows by that rounding.
    """

    EXACT = "exact"
    SUM = "sum-quantised"


def default_delta(population: int) -> float:
    """N^-1.1: below 1 / N, at which a guarantee would allow to publish a unit outright.

    >>> f"{default_delta(10_000):.3g}"
    '3.98e-05'
    """
    return float(population**-1.1)


@dataclass(frozen=True, kw_only=True)
class PrivacyPlan:
    """What is protected, how, and for how long.

    `population`: the public number of units. `rounds`: how many are planned, of `steps` noisy steps
    each. `noise_multiplier`: standard deviation of the noise of a step in clipping norms, exact.
    `denominator`: what sums are divided by, declared and never counted. `dimension`: coordinates of
    what is summed, metrics included. `grid_steps`: integer steps in a clipping norm (default 2^24,
    2^20 under noise shares). `epsilon`: the budget, a hard stop. `delta`: default population^-1.1.
    `largest_weight`: contributions count by min(n, largest_weight) / largest_weight; None: alike.

    Raises: PlanError where parts contradict each other, with the remedy.
    """

    unit: Unit
    adjacency: Adjacency
    population: int
    sampling: Sampling
    clipping: Clipping
    noise: Noise
    noise_multiplier: Fraction
    denominator: int
    dimension: int
    rounds: int
    epsilon: float
    steps: int = 1
    delta: float | None = None
    grid_steps: int | None = None
    grade: Grade = Grade.EXACT
    largest_weight: int | None = None

    def __post_init__(self) -> None:
        shared = isinstance(self.noise, NoiseShares)
        if self.grid_steps is None:
            object.__setattr__(self, "grid_steps", 2**20 if shared else 2**24)
        _check_numbers(self)
        if self.delta is None:
            object.__setattr__(self, "delta", default_delta(self.population))
        _check_budget(self)
        _check_relation(self)
        if isinstance(self.noise, NoiseShares):
            self.noise.check(self.variance, self.grid)
        if isinstance(self.noise, BandedNoise):
            _check_banded(self, self.noise)
        _check_unit(self)
        self.event  # noqa: B018  (sampling and noise that no accountant joins raise here)

    @property
    def grid(self) -> int:
        """Integer steps in a clipping norm."""
        assert self.grid_steps is not None
        return self.grid_steps

    @property
    def failure(self) -> float:
        """δ, resolved."""
        assert self.delta is not None
        return self.delta

    @property
    def clipping_norm(self) -> Fraction:
        """The Euclidean norm that contributions are clipped to, at the start if it adapts."""
        return self.clipping.norm

    @cached_property
    def squared_sensitivity(self) -> Fraction:
        """The largest squared norm of one contribution on the grid, adaptive count included."""
        base = Fraction(self.grid) ** 2
        if isinstance(self.clipping, Adaptive):
            return base + self.clipping.count_step(self.noise_multiplier, self.grid) ** 2
        if self.grade is Grade.SUM:
            # Sums in float64 of at most N + 1 terms, then one truncation of each coordinate.
            rounding = Fraction((self.population + 1) ** 2, 2**52)
            root = Fraction(math.isqrt(self.dimension) + 1)
            return (self.grid * (1 + rounding) + root) ** 2
        return base

    @cached_property
    def contribution_norm(self) -> int:
        """What an `IntUpdate` is bounded by: the grid, under adaptive clipping the count too."""
        if not isinstance(self.clipping, Adaptive):
            return self.grid
        return math.isqrt(math.ceil(self.squared_sensitivity) - 1) + 1

    @cached_property
    def variance(self) -> Fraction:
        """Of the noise in one coordinate, in squared grid steps."""
        squared = self.noise_multiplier**2
        if isinstance(self.clipping, Adaptive):
            return self.clipping.update_noise(self.noise_multiplier) ** 2 * self.grid**2
        if isinstance(self.noise, BandedNoise):
            assert isinstance(self.sampling, Uncontrolled)
            squared *= self.noise.strategy.sensitivity2(
                max_participations=self.sampling.maximum_participations,
                minimum_separation=self.sampling.minimum_separation,
            )
        return squared * self.squared_sensitivity

    @cached_property
    def noise_event(self) -> AdditiveEvent:
        """What a noisy step costs a unit that is known to be in it."""
        if isinstance(self.noise, NoiseShares):
            return SharesEvent(
                shares=self.noise.counted,
                local_variance=self.noise.local_variance(self.variance),
                squared_sensitivity=self.squared_sensitivity,
                dimension=self.dimension,
            )
        return GaussianEvent(self.noise_multiplier)

    @cached_property
    def event(self) -> Event:
        """What a round costs, or with banded noise the whole matrix of rounds."""
        step = self.sampling.event(self.noise_event)
        return step if self.steps == 1 else RepeatedEvent(self.steps, step)

    @property
    def rounds_a_reservation(self) -> int:
        """How many rounds one entry of the ledger pays for."""
        return self.rounds if isinstance(self.noise, BandedNoise) else 1

    def spend(self, reservations: int) -> Mapping[Event, int]:
        """What so many entries of the ledger cost the unit that they cost most.

        Where nobody is sampled, a unit pays for the rounds that it may take part in.
        """
        if isinstance(self.sampling, Uncontrolled) and not isinstance(self.noise, BandedNoise):
            reservations = min(reservations, self.sampling.maximum_participations)
        return {self.event: reservations} if reservations else {}

    @property
    def reservations(self) -> int:
        """How many entries of the ledger the planned rounds take."""
        return -(-self.rounds // self.rounds_a_reservation)

    def calibrated(self, *, accountant: Accountant = "rdp") -> PrivacyPlan:
        """This plan with the least noise with which its rounds stay within `epsilon`.

        `accountant`: the ledger's. "pld" needs less noise, the extra `dp`, and seconds.
        Raises: AccountantError, InstallError; PlanError if so much noise does not fit the plan.
        """

        def spend(noise_multiplier: Fraction) -> Mapping[Event, int]:
            return replace(self, noise_multiplier=noise_multiplier).spend(self.reservations)

        found = noise_multiplier(
            self.epsilon,
            spend,
            adjacency=self.adjacency,
            delta=self.failure,
            accountant=accountant,
        )
        return replace(self, noise_multiplier=found)

    def weight(self, examples: int) -> Fraction:
        """By what a clipped contribution of so many examples is multiplied.

        Raises: PlanError if the plan declares no bound, or for a negative number.
        """
        if self.largest_weight is None or examples < 0:
            raise PlanError(
                f"a contribution is weighted by {examples} examples",
                why="the plan bounds no weights, so one client could outweigh the noise"
                if self.largest_weight is None
                else "nothing has a negative number of examples",
                fix="plan with largest_weight, or count every contribution alike",
            )
        return Fraction(min(examples, self.largest_weight), self.largest_weight)

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values, exact."""
        found: dict[str, Any] = to_json(self)
        return found

    @classmethod
    def from_json(cls, data: object) -> PrivacyPlan:
        """The plan that `to_json` wrote. Raises: LedgerError for anything else."""
        plan = from_json(data, cls)
        assert isinstance(plan, cls)
        return plan

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the canonical JSON: two plans are the same if and only if this is."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(_DOMAIN + text.encode()).digest()

    def statement(self) -> dict[str, str]:
        """What has to be said beside every ε, in words."""
        return {
            "unit": f"one {self.unit.value}",
            "adjacency": self.adjacency.value,
            "sampling": self.sampling.describe(),
            "trust": self.noise.describe(),
            "clipping": self.clipping.describe(),
            "quantisation": f"{self.grade.value}, {self.grid} grid steps in a clipping norm",
        }


def _check_numbers(plan: PrivacyPlan) -> None:
    for name in ("population", "denominator", "dimension", "rounds", "steps", "grid_steps"):
        if type(value := getattr(plan, name)) is not int or value < 1:
            raise _refused(name, value, "it is a public count", f"pass a positive int as {name}")
    if plan.grid > _MOST_GRID_STEPS:
        raise _refused(
            "grid_steps", plan.grid, "squares are exact up to 2^52", "take at most 2**26"
        )
    if plan.largest_weight is not None and (
        type(plan.largest_weight) is not int or plan.largest_weight < 1
    ):
        raise _refused(
            "largest_weight",
            plan.largest_weight,
            "it bounds a number of examples",
            "pass a positive int, or None",
        )
    if not isinstance(plan.noise_multiplier, Fraction) or plan.noise_multiplier <= 0:
        raise _refused(
            "noise_multiplier",
            plan.noise_multiplier,
            "without noise, or with noise that was rounded, nothing is guaranteed",
            "pass a positive Fraction, like Fraction(11, 10)",
        )


def _check_budget(plan: PrivacyPlan) -> None:
    for name in ("epsilon", "delta"):
        value = getattr(plan, name)
        if type(value) not in (float, int) or not 0 < value < math.inf:
            raise _refused(name, value, "it bounds a probability", "pass a positive number")
        object.__setattr__(plan, name, float(value))
    if plan.failure * plan.population >= 1:
        raise _refused(
            "delta",
            plan.delta,
            f"publishing one of {plan.population} units outright would satisfy it",
            f"take less than {1 / plan.population:.3g}, as {default_delta(plan.population):.3g}",
        )


def _check_relation(plan: PrivacyPlan) -> None:
    if plan.adjacency not in plan.sampling.adjacencies:
        allowed = " or ".join(sorted(item.name for item in plan.sampling.adjacencies))
        raise _refused(
            "adjacency",
            plan.adjacency.name,
            f"no accountant bounds {type(plan.sampling).__name__} sampling under it",
            f"take {allowed}",
        )
    declared = getattr(plan.sampling, "population", plan.population)
    if declared != plan.population:
        raise _refused(
            "population",
            plan.population,
            f"the sampling draws from {declared}",
            "declare one population in both places",
        )


def _check_banded(plan: PrivacyPlan, noise: BandedNoise) -> None:
    if not isinstance(plan.sampling, Uncontrolled):
        raise _refused(
            "noise",
            "BandedNoise",
            "its cost counts participations, which sampling leaves open",
            "take Uncontrolled(minimum_separation, maximum_participations)",
        )
    if plan.adjacency is Adjacency.REPLACE_ONE or plan.steps != 1:
        raise _refused(
            "noise",
            "BandedNoise",
            "its sensitivity is known for one step a round and one unit more or less",
            "take steps=1 and ADD_REMOVE or ZERO_OUT",
        )
    if noise.strategy.bands > plan.sampling.minimum_separation:
        raise _refused(
            "noise",
            f"{noise.strategy.bands} bands",
            f"a unit may return after {plan.sampling.minimum_separation} rounds, and its "
            f"contributions would then add up",
            "take no more bands than minimum_separation",
        )


def _check_unit(plan: PrivacyPlan) -> None:
    adapts = isinstance(plan.clipping, Adaptive)
    if plan.unit is Unit.RECORD and (adapts or plan.largest_weight is not None):
        raise _refused(
            "clipping" if adapts else "largest_weight",
            plan.clipping if adapts else plan.largest_weight,
            "records are clipped alike, by a norm that is fixed",
            "take Flat or PerLayer clipping and no weights for unit=RECORD",
        )
    if plan.unit is not Unit.RECORD and (plan.grade is not Grade.EXACT or plan.steps != 1):
        raise _refused(
            "grade" if plan.grade is not Grade.EXACT else "steps",
            plan.grade if plan.grade is not Grade.EXACT else plan.steps,
            "a client sends one update a round, which is truncated by itself",
            "take grade=Grade.EXACT and steps=1 unless unit=RECORD",
        )
    if adapts and not isinstance(plan.noise, CentralNoise | NoiseShares):
        raise _refused(
            "clipping",
            "Adaptive",
            "the count of unclipped updates needs noise of its own round",
            "take CentralNoise or NoiseShares",
        )


def _refused(name: str, value: object, why: str, fix: str) -> PlanError:
    return PlanError(f"a privacy plan with {name} = {value!r:.80}", why=why, fix=fix)
