"""What a release costs, as data: immutable trees of numbers that accountants and ledgers read.

An event says what was done, never what it costs; the accountants know that. Noise multipliers and
variances are exact fractions, sampling rates are multiples of 2^-32, as they are drawn.

A noise multiplier lies in 2^-40 … 2^40, a variance or squared norm in 2^-200 … 2^200, what is
counted is at most 2^40, and a fraction has at most 2,000 digits above and below its bar: far beyond
any noise that protects or lets learn, and within what floats and stored records can hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias, get_args

from fedcore.errors import PlanError

__all__ = [
    "RATE_UNIT",
    "AdditiveEvent",
    "Event",
    "FixedSizeEvent",
    "GaussianEvent",
    "PoissonEvent",
    "RepeatedEvent",
    "SharesEvent",
    "SkellamEvent",
    "TruncatedPoissonEvent",
]

RATE_UNIT = 2**32
"""A sampling rate is an integer of these parts."""


@dataclass(frozen=True)
class GaussianEvent:
    """The Gaussian mechanism, also rounded to integers afterwards, which costs the same.

    `noise_multiplier`: standard deviation of the noise, in clipping norms.
    """

    noise_multiplier: Fraction

    def __post_init__(self) -> None:
        _require_positive(self, "noise_multiplier")
        _require_noise(self, self.noise_multiplier**2)


@dataclass(frozen=True)
class SharesEvent:
    """A sum with `shares` independent discrete Gaussians of variance `local_variance` each.

    `squared_sensitivity`: the largest squared L2 norm of one contribution; like the variance in
    squared grid steps. Shares beyond those counted only add noise.
    """

    shares: int
    local_variance: Fraction
    squared_sensitivity: Fraction
    dimension: int

    def __post_init__(self) -> None:
        _require_positive(self, "shares", "local_variance", "squared_sensitivity", "dimension")
        _require_noise(self, self.squared_noise_multiplier)

    @property
    def squared_noise_multiplier(self) -> Fraction:
        """Variance of the whole noise, in squared sensitivities."""
        return self.shares * self.local_variance / self.squared_sensitivity


@dataclass(frozen=True)
class SkellamEvent:
    """A sum with symmetric Skellam noise of `variance` in all, in squared grid steps.

    `squared_sensitivity`: the largest squared L2 norm of one contribution, in squared grid steps.
    """

    variance: Fraction
    squared_sensitivity: Fraction
    dimension: int

    def __post_init__(self) -> None:
        _require_positive(self, "variance", "squared_sensitivity", "dimension")
        _require_noise(self, self.variance / self.squared_sensitivity)


AdditiveEvent: TypeAlias = GaussianEvent | SharesEvent | SkellamEvent


@dataclass(frozen=True)
class PoissonEvent:
    """`event` on a sample that each unit joins by a coin of its own, `rate` · 2^-32 likely."""

    rate: int
    event: AdditiveEvent

    def __post_init__(self) -> None:
        _require_rate(self.rate)
        _require_event(self.event, get_args(AdditiveEvent))


@dataclass(frozen=True)
class TruncatedPoissonEvent:
    """`event` on a Poisson sample cut to a uniform subset of `limit` units if it is larger.

    `population`: the public number of units.
    """

    rate: int
    limit: int
    population: int
    event: GaussianEvent

    def __post_init__(self) -> None:
        _require_rate(self.rate)
        _require_positive(self, "limit", "population")
        _require_event(self.event, (GaussianEvent,))
        if self.limit > self.population:
            raise PlanError(
                f"a sample cut to {self.limit} of {self.population} units is never cut",
                why="the limit lies above the population",
                fix="take a PoissonEvent",
            )


@dataclass(frozen=True)
class FixedSizeEvent:
    """`event` on a uniform sample of `size` of `population` units, without replacement.

    `event.noise_multiplier` counts in clipping norms; neighbours (one unit replaced) differ by two.
    """

    size: int
    population: int
    event: GaussianEvent

    def __post_init__(self) -> None:
        _require_positive(self, "size", "population")
        _require_event(self.event, (GaussianEvent,))
        if self.size > self.population:
            raise PlanError(
                f"a sample of {self.size} of {self.population} units cannot be drawn",
                why="it is drawn without replacement",
                fix=f"take size <= {self.population}",
            )


@dataclass(frozen=True)
class RepeatedEvent:
    """`event`, `count` times, each chosen in knowledge of the outcomes before."""

    count: int
    event: Event

    def __post_init__(self) -> None:
        _require_positive(self, "count")
        _require_event(self.event, get_args(Event))
        total, event = self.count, self.event
        while isinstance(event, RepeatedEvent):
            total, event = total * event.count, event.event
        if total > _MOST:
            raise _too_large(self, "count")


Event: TypeAlias = (
    GaussianEvent
    | SharesEvent
    | SkellamEvent
    | PoissonEvent
    | TruncatedPoissonEvent
    | FixedSizeEvent
    | RepeatedEvent
)

_MOST = 2**40
_LARGEST_NOISE = 2**40
_LARGEST_SQUARE = 2**200
_MOST_BITS = 6643  # 2,000 decimal digits

_FRACTIONS = {"noise_multiplier", "local_variance", "variance", "squared_sensitivity"}


def _require_positive(event: object, *names: str) -> None:
    for name in names:
        value = getattr(event, name)
        wanted = Fraction if name in _FRACTIONS else int
        if type(value) is not wanted or value <= 0:
            raise PlanError(
                f"{type(event).__name__}: {name} = {_shown(value)}",
                why=f"it has to be a positive {wanted.__name__}, so that nothing is rounded",
                fix=f"pass {name}={wanted.__name__}(…)",
            )
        if isinstance(value, int):
            fits = value <= _MOST
        else:
            short = max(part.bit_length() for part in value.as_integer_ratio()) <= _MOST_BITS
            fits = short and Fraction(1, _LARGEST_SQUARE) <= value <= _LARGEST_SQUARE
        if not fits:
            raise _too_large(event, name)


def _shown(value: object) -> str:
    # Of a long integer Python refuses to print the digits.
    long = isinstance(value, int | Fraction) and max(map(abs, value.as_integer_ratio())) >= 10**30
    return "a number of many digits" if long else f"{value!r:.80}"


def _require_noise(event: object, squared: Fraction) -> None:
    if not Fraction(1, _LARGEST_NOISE**2) <= squared <= _LARGEST_NOISE**2:
        raise PlanError(
            f"{type(event).__name__} with a noise multiplier outside of 2^-40 … 2^40",
            why="less hides nobody, of more nothing is left to learn from",
            fix="take a noise multiplier about 1",
        )


def _too_large(event: object, name: str) -> PlanError:
    return PlanError(
        f"{type(event).__name__}: {name} is out of range, or has too many digits",
        why="what is counted is at most 2^40, a fraction lies in 2^-200 … 2^200 and has at most "
        "2,000 digits above and below its bar",
        fix=f"pass a usual number for {name}; round a fraction toward more noise",
    )


def _require_event(event: object, kinds: tuple[type, ...]) -> None:
    if type(event) not in kinds:
        raise PlanError(
            f"an event is made of a {type(event).__name__}",
            why="accountants know sampling of noise alone, and repetition of what they know",
            fix=f"pass one of {', '.join(kind.__name__ for kind in kinds)}",
        )


def _require_rate(rate: object) -> None:
    if type(rate) is not int or not 1 <= rate <= RATE_UNIT:
        raise PlanError(
            f"a sampling rate of {_shown(rate)} parts is none",
            why="a rate is an integer of 1 … 2^32 parts of 2^-32, as it is drawn",
            fix="pass rate=round(q * 2**32)",
        )
