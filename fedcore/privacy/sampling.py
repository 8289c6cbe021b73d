"""Who takes part, and what that is worth: one object draws the sample and names its event.

An accountant that assumes a sampling nobody does is the commonest false guarantee of the field
(Chua et al. 2403.17673), so no other object can state an event. Amplification holds against those
who do not learn who was drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import PlanError
from fedcore.privacy.csprng import Stream
from fedcore.privacy.events import (
    RATE_UNIT,
    AdditiveEvent,
    Event,
    FixedSizeEvent,
    GaussianEvent,
    PoissonEvent,
    TruncatedPoissonEvent,
)
from fedcore.privacy.units import Adjacency

__all__ = [
    "FixedSize",
    "Poisson",
    "Sampling",
    "TruncatedPoisson",
    "Uncontrolled",
    "rate_of",
]


def rate_of(probability: Fraction | float) -> int:
    """The nearest sampling rate in parts of 2^-32, at least one.

    Raises: PlanError outside (0, 1].

    >>> rate_of(0.25) == 2**30
    True
    """
    known = isinstance(probability, Fraction | float | int) and not isinstance(probability, bool)
    if not known or not 0 < probability <= 1:
        raise PlanError(
            f"a sampling probability of {probability!r} is none",
            why="every unit joins a round by a coin of its own",
            fix="take a number above 0 and at most 1",
        )
    return max(1, round(Fraction(probability) * RATE_UNIT))


@dataclass(frozen=True)
class Poisson:
    """Each unit joins by a coin of its own, with probability `rate` · 2^-32; the list is secret."""

    rate: int

    def __post_init__(self) -> None:
        self.event(_UNIT_NOISE)

    @property
    def probability(self) -> Fraction:
        """The chance that a unit joins a round."""
        return Fraction(self.rate, RATE_UNIT)

    @property
    def adjacencies(self) -> frozenset[Adjacency]:
        """The relations under which the accountants know this sampling."""
        return frozenset({Adjacency.ADD_REMOVE, Adjacency.ZERO_OUT})

    def expected(self, population: int) -> Fraction:
        """How many units join a round, in the mean."""
        return self.probability * population

    def event(self, noise: AdditiveEvent) -> Event:
        """What a round with `noise` costs."""
        return PoissonEvent(rate=self.rate, event=noise)

    def draw(self, population: int, *, stream: Stream) -> NDArray[np.int64]:
        """The units (k,) that join, ascending, of 0 … population - 1."""
        coins = np.empty(population, np.uint32)
        stream.fill(coins)
        return np.flatnonzero(coins < self.rate).astype(np.int64)

    def log_outside(self, population: int, *, least: int, most: int) -> float:
        """A bound on ln P that fewer than `least` or more than `most` units join; at most 0.

        Source: Chernoff's bound, P[Bin(n, q) <= k] <= exp(-n KL(k/n, q)) for k <= n q, and of >= k
        for k >= n q.
        """
        below = _log_at_most(population, self.rate, least - 1)
        above = _log_at_least(population, self.rate, most + 1)
        larger = max(below, above)
        if larger == -math.inf:
            return larger
        return min(0.0, larger + math.log1p(math.exp(min(below, above) - larger)) + 2.0**-40)

    def cohort(self, population: int, log_chance: float) -> tuple[int, int]:
        """The least and the most units that join, but for a chance of exp(log_chance).

        The narrowest bounds for which `log_outside` shows it with half of the chance on each side.
        """
        half = log_chance - math.log(2) - 2.0**-39
        low, high = 0, population + 1
        while high - low > 1:
            middle = (low + high) // 2
            rare = _log_at_most(population, self.rate, middle - 1) <= half
            low, high = (middle, high) if rare else (low, middle)
        least = low
        low, high = -1, population
        while high - low > 1:
            middle = (low + high) // 2
            rare = _log_at_least(population, self.rate, middle + 1) <= half
            low, high = (low, middle) if rare else (middle, high)
        return least, high

    def describe(self) -> str:
        """The assumption in words."""
        return (
            f"Poisson: every unit joins each noisy step by a coin of its own with probability "
            f"{float(self.probability):.6g}, drawn from the operating system's generator; "
            f"whoever learns who joined gains what this sampling had saved"
        )


@dataclass(frozen=True)
class TruncatedPoisson:
    """A Poisson sample, cut to a uniform subset of `limit` units where it is larger."""

    rate: int
    limit: int
    population: int

    def __post_init__(self) -> None:
        self.event(_UNIT_NOISE)

    @property
    def probability(self) -> Fraction:
        """The chance that a unit joins a round, if none is cut."""
        return Fraction(self.rate, RATE_UNIT)

    @property
    def adjacencies(self) -> frozenset[Adjacency]:
        """The relations under which the accountants know this sampling."""
        return frozenset({Adjacency.ZERO_OUT})

    def expected(self, population: int) -> Fraction:
        """At most how many units join a round, in the mean."""
        return min(self.probability * population, Fraction(self.limit))

    def event(self, noise: AdditiveEvent) -> Event:
        """What a round with `noise` costs.

        Raises: PlanError for noise other than Gaussian, which nobody has accounted for.
        """
        return TruncatedPoissonEvent(
            rate=self.rate,
            limit=self.limit,
            population=self.population,
            event=_require_gaussian(noise, "a truncated Poisson sample"),
        )

    def draw(self, population: int, *, stream: Stream) -> NDArray[np.int64]:
        """The units (k,) that join, ascending, of 0 … population - 1; k <= limit.

        Raises: PlanError for another population than the accounted one.
        """
        _require_population(population, self.population)
        drawn = Poisson(self.rate).draw(population, stream=stream)
        if drawn.size > self.limit:
            drawn = np.sort(drawn[stream.choose(drawn.size, self.limit)])
        return drawn

    def describe(self) -> str:
        """The assumption in words."""
        return (
            f"truncated Poisson: a coin of probability {float(self.probability):.6g} for each of "
            f"{self.population} units, at most {self.limit} of them in a noisy step"
        )


@dataclass(frozen=True)
class FixedSize:
    """`size` of `population` units, uniformly and without replacement."""

    size: int
    population: int

    def __post_init__(self) -> None:
        self.event(_UNIT_NOISE)

    @property
    def probability(self) -> Fraction:
        """The chance that a unit joins a round."""
        return Fraction(self.size, self.population)

    @property
    def adjacencies(self) -> frozenset[Adjacency]:
        """The relations under which the accountants know this sampling."""
        return frozenset({Adjacency.REPLACE_ONE})

    def expected(self, population: int) -> Fraction:
        """How many units join a round."""
        return Fraction(self.size)

    def event(self, noise: AdditiveEvent) -> Event:
        """What a round with `noise` costs.

        Raises: PlanError for noise other than Gaussian, which nobody has accounted for.
        """
        return FixedSizeEvent(
            size=self.size,
            population=self.population,
            event=_require_gaussian(noise, "a sample of fixed size"),
        )

    def draw(self, population: int, *, stream: Stream) -> NDArray[np.int64]:
        """The units (size,) that join, ascending, of 0 … population - 1.

        Raises: PlanError for another population than the accounted one.
        """
        _require_population(population, self.population)
        return np.sort(stream.choose(population, self.size))

    def describe(self) -> str:
        """The assumption in words."""
        return (
            f"fixed size: {self.size} of {self.population} units a noisy step, without replacement"
        )


@dataclass(frozen=True)
class Uncontrolled:
    """Whoever comes: no amplification, but bounds on how often one unit takes part.

    Between two rounds of one unit lie at least `minimum_separation` (1: any two rounds), and it
    takes part in at most `maximum_participations`. The ledger refuses what would break them. What
    a unit sends is protected, and not whether it comes: where one is missing another may come in
    its place, then and in all rounds that follow, and who takes part need be no secret.
    """

    minimum_separation: int
    maximum_participations: int

    def __post_init__(self) -> None:
        for field in fields(self):
            if type(value := getattr(self, field.name)) is not int or value < 1:
                raise PlanError(
                    f"a {field.name.replace('_', ' ')} of {value!r} bounds nothing",
                    why="the cost of a unit is counted by its participations",
                    fix=f"pass a positive int as {field.name}",
                )

    @property
    def adjacencies(self) -> frozenset[Adjacency]:
        """The relations under which the accountants know this sampling."""
        return frozenset({Adjacency.ZERO_OUT, Adjacency.REPLACE_ONE})

    def expected(self, population: int) -> None:
        """Nobody knows how many take part."""

    def event(self, noise: AdditiveEvent) -> Event:
        """What a round with `noise` costs a unit that is in it."""
        return noise

    def describe(self) -> str:
        """The assumption in words."""
        return (
            f"none: whoever comes takes part, each unit at most {self.maximum_participations} "
            f"times and {self.minimum_separation} or more rounds apart, as the ledger enforces; "
            f"who takes part need not be secret"
        )


Sampling: TypeAlias = Poisson | TruncatedPoisson | FixedSize | Uncontrolled

_UNIT_NOISE = GaussianEvent(Fraction(1))


def _log_at_most(trials: int, rate: int, count: int) -> float:
    """A bound on ln P[Bin(trials, rate 2^-32) <= count]."""
    if count < 0:
        return -math.inf
    return _log_chernoff(trials, rate, count) if count * RATE_UNIT < trials * rate else 0.0


def _log_at_least(trials: int, rate: int, count: int) -> float:
    """A bound on ln P[Bin(trials, rate 2^-32) >= count]."""
    if count > trials:
        return -math.inf
    return _log_chernoff(trials, rate, count) if count * RATE_UNIT > trials * rate else 0.0


def _log_chernoff(trials: int, rate: int, count: int) -> float:
    """-n KL(count/n, q), rounded up."""
    exponent = lost = 0.0
    for part, chance in ((count, rate), (trials - count, RATE_UNIT - rate)):
        if part and not chance:
            return -math.inf
        if part:
            # The quotient is rounded once, and its logarithm once more.
            ratio = math.log(part * RATE_UNIT / (trials * chance))
            exponent += part * ratio
            lost += part * (1 + abs(ratio)) * 2.0**-49
    return min(0.0, lost - exponent)


def _require_gaussian(noise: AdditiveEvent, what: str) -> GaussianEvent:
    if not isinstance(noise, GaussianEvent):
        raise PlanError(
            f"{what} is drawn for {type(noise).__name__} noise",
            why="its accountant knows the Gaussian mechanism alone",
            fix="take Poisson sampling with noise shares, or central noise with this sampling",
        )
    return noise


def _require_population(found: int, declared: int) -> None:
    if found != declared:
        raise PlanError(
            f"a sample is drawn of {found} units, the plan counts {declared}",
            why="the cost was computed for the declared population",
            fix="make a plan for the population that there is; pad it with units that send zeros",
        )
