"""The terms of a guarantee in one immutable value: what does not add up cannot be constructed.

A plan is public. Its digest opens the ledger, and every round reads from it alone who takes part,
how updates are clipped and rounded, how much noise is added and what that costs.
"""

from __future__ import annotations

import hashlib
import json
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any, TypeAlias

from fedcore.errors import LedgerError, NoiseRoomError, PlanError
from fedcore.privacy.accounting import Accountant
from fedcore.privacy.adaptive import Adaptive
from fedcore.privacy.calibration import noise_multiplier
from fedcore.privacy.clipping import Flat, PerLayer
from fedcore.privacy.codec import from_json, to_json
from fedcore.privacy.coherence import (
    COHORT_SHARE,
    check,
    declared_delta,
    default_delta,
    hides_cohort,
    refused,
)
from fedcore.privacy.compact import CompactTerms
from fedcore.privacy.events import (
    AdditiveEvent,
    Event,
    GaussianEvent,
    RepeatedEvent,
    SharesEvent,
)
from fedcore.privacy.grade import Grade
from fedcore.privacy.noise import (
    LARGEST_VARIANCE,
    LEAST_VARIANCE,
    BandedNoise,
    CompactShares,
    Noise,
    NoiseShares,
)
from fedcore.privacy.sampling import Sampling, Uncontrolled
from fedcore.privacy.statement import statement_of
from fedcore.privacy.units import Adjacency, Unit

__all__ = ["Clipping", "Grade", "PrivacyPlan", "default_delta", "own_plan"]

Clipping: TypeAlias = Flat | PerLayer | Adaptive

_DOMAIN = b"fedcore privacy plan 1\0"


@dataclass(frozen=True, kw_only=True)
class PrivacyPlan:
    """What is protected, how, and for how long.

    `population`: the public number of units. `rounds`: how many are planned, of `steps` noisy steps
    each. `noise_multiplier`: standard deviation of the noise of a step in clipping norms, exact.
    `denominator`: what sums are divided by, declared and never counted. `dimension`: coordinates of
    what is summed, metrics and the count of adaptive clipping included. `grid_steps`: integer steps
    in a clipping norm (default 2^24, 2^20 under noise shares; fewer where the noise would be wider
    than its sampler draws, as the banded one is). In the compact mode the grid follows from the
    noise, which counts in the radius that rounding may reach, a little above the clipping norm.
    `epsilon`: the budget, a hard stop. `delta`: of the guarantee, default population^-1.1; see
    `failure`. `largest_weight`: contributions count by min(n, largest_weight) / largest_weight;
    None: alike.

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
        check(self)
        object.__setattr__(self, "delta", float(declared_delta(self)))
        object.__setattr__(self, "epsilon", float(self.epsilon))
        if isinstance(self.noise, CompactShares):
            object.__setattr__(self, "noise", self.noise.fitted(self.compact_terms))
        if self.grid_steps is None:
            object.__setattr__(self, "grid_steps", _default_grid(self))
        _check_noise(self)

    @property
    def grid(self) -> int:
        """Integer steps in a clipping norm."""
        assert self.grid_steps is not None
        return self.grid_steps

    @property
    def failure(self) -> float:
        """What of δ an accountant may use.

        All of it but where shares of noise are sampled: there a 1024th is set aside for cohorts
        whose size would tell of one unit.
        """
        delta = declared_delta(self)
        kept = float(1 - COHORT_SHARE)
        return math.nextafter(delta * kept, 0) if hides_cohort(self) else delta

    @property
    def clipping_norm(self) -> Fraction:
        """The Euclidean norm that contributions are clipped to, at the start if it adapts."""
        return self.clipping.norm

    @cached_property
    def compact_terms(self) -> CompactTerms:
        """What clients of the compact mode agree on. Raises: PlanError under other noise."""
        if not isinstance(self.noise, CompactShares):
            raise refused(
                "noise", self.noise, "it is not of the compact mode", "plan with CompactShares"
            )
        return self.noise.terms(dimension=self.dimension, noise_multiplier=self.noise_multiplier)

    @property
    def wire_dimension(self) -> int:
        """Coordinates of what a client sends: rotated updates are padded."""
        compact = isinstance(self.noise, CompactShares)
        return self.compact_terms.padded if compact else self.dimension

    @cached_property
    def squared_sensitivity(self) -> Fraction:
        """The largest squared norm of one contribution on the grid, adaptive count included."""
        return _squared_sensitivity(self, self.grid)

    @cached_property
    def contribution_norm(self) -> int:
        """What an `IntUpdate` is bounded by: the grid, under adaptive clipping the count too.

        In the compact mode, the radius within which updates are rounded.
        """
        return _contribution_norm(self, self.grid)

    @cached_property
    def variance(self) -> Fraction:
        """Of the noise in one coordinate, in squared grid steps."""
        return _variance(self, self.grid)

    @cached_property
    def noise_event(self) -> AdditiveEvent:
        """What a noisy step costs a unit that is known to be in it."""
        return _noise_event(self, self.noise, self.noise_multiplier)

    @cached_property
    def event(self) -> Event:
        """What a round costs, or with banded noise the whole matrix of rounds."""
        return _event(self, self.noise, self.noise_multiplier)

    @property
    def rounds_a_reservation(self) -> int:
        """How many rounds one entry of the ledger pays for."""
        return self.rounds if isinstance(self.noise, BandedNoise) else 1

    def spend(self, reservations: int) -> Mapping[Event, int]:
        """What so many entries of the ledger cost the unit that they cost most.

        Where nobody is sampled, a unit pays for the rounds that it may take part in.
        """
        return _spend(self, self.event, reservations)

    @property
    def reservations(self) -> int:
        """How many entries of the ledger the planned rounds take."""
        return -(-self.rounds // self.rounds_a_reservation)

    def calibrated(self, *, accountant: Accountant = "rdp") -> PrivacyPlan:
        """This plan with the least noise with which its rounds stay within `epsilon`.

        `accountant`: the ledger's. "pld" needs less noise, the extra `dp`, and seconds.
        Raises: AccountantError, InstallError; NoiseRoomError if so much noise does not fit.
        """
        noise = _unfitted(self)

        def spend(noise_multiplier: Fraction) -> Mapping[Event, int]:
            # Not by a plan: on its way to the least noise a search passes through what fits none.
            return _spend(self, _event(self, noise, noise_multiplier), self.reservations)

        found = noise_multiplier(
            self.epsilon,
            spend,
            adjacency=self.adjacency,
            delta=self.failure,
            accountant=accountant,
        )
        grid = None if self.grid == _default_grid(self) else self.grid
        return replace(self, noise=noise, noise_multiplier=found, grid_steps=grid)

    def weight(self, examples: int) -> Fraction:
        """By what a clipped contribution of so many examples is multiplied.

        Raises: PlanError if the plan declares no bound, or for what is no number of examples.
        """
        if self.largest_weight is None:
            raise PlanError(
                "a contribution is to be weighted by its examples",
                why="the plan bounds no weights, so one client could outweigh the noise",
                fix="plan with largest_weight, or count every contribution alike",
            )
        try:
            counted = operator.index(examples)
        except TypeError:
            counted = -1
        if counted < 0:
            raise PlanError(
                "a contribution is weighted by what is no number of examples",
                why="weights are exact fractions of counts",
                fix="pass how many examples there are, an int of at least 0",
            )
        return Fraction(min(counted, self.largest_weight), self.largest_weight)

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values, exact."""
        found: dict[str, Any] = to_json(self)
        return found

    @classmethod
    def from_json(cls, data: object) -> PrivacyPlan:
        """The plan that `to_json` wrote. Raises: LedgerError for anything else."""
        if isinstance(data, str | bytes):
            raise LedgerError(
                "a plan is read from a text",
                why="it is read from JSON values, as to_json() returns them",
                fix="pass json.loads() of the text",
            )
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
        return statement_of(self)


def own_plan(plan: PrivacyPlan) -> PrivacyPlan:
    """The plan anew from its fields, so that no figure that it keeps can differ from its digest.

    For what outlives a call, or leaves what relies on it: 0.2 to 0.7 ms, of 500 bands 3 ms.
    """
    found = from_json(to_json(plan), PrivacyPlan)
    assert isinstance(found, PrivacyPlan)
    return found


def _squared_sensitivity(plan: PrivacyPlan, grid: int) -> Fraction:
    if plan.grade is Grade.EXACT:
        return Fraction(_contribution_norm(plan, grid) ** 2)
    # Of neighbouring data, two sums in float64: of at most N + 2 roundings on each term's way, of N
    # and N + 1 terms, with norms right to D 2^-53; and one truncation of each coordinate.
    rounding = Fraction((plan.population + 2) ** 2 + plan.dimension, 2**52)
    return (grid * (1 + rounding) + math.isqrt(plan.dimension) + 1) ** 2


def _contribution_norm(plan: PrivacyPlan, grid: int) -> int:
    if isinstance(plan.noise, CompactShares):
        return plan.compact_terms.radius
    if not isinstance(plan.clipping, Adaptive):
        return grid
    step = plan.clipping.count_step(plan.noise_multiplier, grid)
    return math.isqrt(grid**2 + step**2 - 1) + 1


def _variance(plan: PrivacyPlan, grid: int) -> Fraction:
    squared = plan.noise_multiplier**2 * _squared_sensitivity(plan, grid)
    if isinstance(plan.noise, BandedNoise):
        assert isinstance(plan.sampling, Uncontrolled)
        squared *= plan.noise.strategy.sensitivity2(
            max_participations=plan.sampling.maximum_participations,
            minimum_separation=plan.sampling.minimum_separation,
        )
    return squared


def _noise_event(plan: PrivacyPlan, noise: Noise, noise_multiplier: Fraction) -> AdditiveEvent:
    if isinstance(noise, NoiseShares):
        squared = plan.squared_sensitivity
        return SharesEvent(
            shares=noise.counted,
            local_variance=noise.local_variance(noise_multiplier**2 * squared),
            squared_sensitivity=squared,
            dimension=plan.dimension,
        )
    if isinstance(noise, CompactShares):
        try:
            return noise.terms(dimension=plan.dimension, noise_multiplier=noise_multiplier).event
        except PlanError:
            # Of no plan, only of a search that passes through it: Skellam noise costs no less.
            return GaussianEvent(noise_multiplier)
    return GaussianEvent(noise_multiplier)


def _event(plan: PrivacyPlan, noise: Noise, noise_multiplier: Fraction) -> Event:
    step = plan.sampling.event(_noise_event(plan, noise, noise_multiplier))
    return step if plan.steps == 1 else RepeatedEvent(plan.steps, step)


def _unfitted(plan: PrivacyPlan) -> Noise:
    """The plan's noise, in slots of a width that is to be chosen anew if it was chosen before."""
    if isinstance(plan.noise, CompactShares):
        free = replace(plan.noise, slot_bits=None)
        terms = free.terms(dimension=plan.dimension, noise_multiplier=plan.noise_multiplier)
        if free.fitted(terms) == plan.noise:
            return free
    return plan.noise


def _spend(plan: PrivacyPlan, event: Event, reservations: int) -> Mapping[Event, int]:
    if isinstance(plan.sampling, Uncontrolled) and not isinstance(plan.noise, BandedNoise):
        reservations = min(reservations, plan.sampling.maximum_participations)
    return {event: reservations} if reservations else {}


def _default_grid(plan: PrivacyPlan) -> int:
    if isinstance(plan.noise, NoiseShares):
        return 2**20
    if isinstance(plan.noise, CompactShares):
        return plan.compact_terms.grid_steps
    grid = 2**24
    while grid > 1 and (
        _variance(plan, grid) > LARGEST_VARIANCE
        or plan.population * _contribution_norm(plan, grid) > _largest_sum(plan)
    ):
        grid //= 2
    return grid


def _largest_sum(plan: PrivacyPlan) -> int:
    return plan.noise.strategy.largest_sum if isinstance(plan.noise, BandedNoise) else 2**62


def _check_noise(plan: PrivacyPlan) -> None:
    if isinstance(plan.noise, CompactShares):
        if plan.grid != plan.compact_terms.grid_steps:
            raise refused(
                "grid_steps",
                plan.grid,
                f"the slots have room for {plan.compact_terms.grid_steps} beside the noise",
                "pass grid_steps=None in the compact mode: it follows from noise and dimension",
            )
        return  # sums may leave their slots, and the terms have looked at the noise
    variance = plan.variance
    if isinstance(plan.noise, NoiseShares):
        plan.noise.check(variance, plan.contribution_norm)
    elif not LEAST_VARIANCE <= variance <= LARGEST_VARIANCE:
        raise refused(
            "noise_multiplier",
            plan.noise_multiplier,
            f"on this grid the noise has a variance of {float(variance):.3g}, of which the sampler "
            f"draws 0.25 … 1e18",
            "take more grid_steps if it is too small, fewer if it is too large",
            error=NoiseRoomError,
        )
    if plan.population * plan.contribution_norm > _largest_sum(plan):
        raise refused(
            "grid_steps",
            plan.grid,
            f"the sum of {plan.population} contributions could leave the integers",
            "take fewer grid_steps",
            error=NoiseRoomError,
        )
