"""How a text for people is set: a name and what there is to say of it, a line or more each."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from fedcore.privacy.events import (
    RATE_UNIT,
    Event,
    FixedSizeEvent,
    GaussianEvent,
    PoissonEvent,
    RepeatedEvent,
    SharesEvent,
    SkellamEvent,
    TruncatedPoissonEvent,
)

__all__ = ["describe", "rows"]

_COLUMN, _WIDTH = 16, 100


def rows(entries: Iterable[tuple[str, str]]) -> str:
    """One entry a line, wrapped; an empty name goes on with the entry before it."""
    lines: list[str] = []
    for name, text in entries:
        lines += textwrap.wrap(
            text,
            width=_WIDTH,
            initial_indent=f"{name:{_COLUMN}}",
            subsequent_indent=" " * _COLUMN,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(lines)


def describe(event: Event) -> str:
    """An event in a few words.

    >>> from fractions import Fraction
    >>> describe(PoissonEvent(2**30, GaussianEvent(Fraction(11, 10))))
    'Gaussian noise of 1.1 norms on a Poisson sample of rate 0.25'
    """
    match event:
        case GaussianEvent(noise_multiplier=noise):
            return f"Gaussian noise of {float(noise):.6g} norms"
        case SharesEvent(shares=shares, squared_noise_multiplier=squared):
            return f"{shares} shares of noise, {float(squared) ** 0.5:.6g} norms together"
        case SkellamEvent(variance=variance, squared_sensitivity=squared):
            return f"Skellam noise of {float(variance / squared) ** 0.5:.6g} norms"
        case PoissonEvent(rate=rate):
            return f"{describe(event.event)} on a Poisson sample of rate {rate / RATE_UNIT:.6g}"
        case TruncatedPoissonEvent(rate=rate, limit=limit):
            return (
                f"{describe(event.event)} on a Poisson sample of rate {rate / RATE_UNIT:.6g} "
                f"cut to {limit}"
            )
        case FixedSizeEvent(size=size, population=population):
            return f"{describe(event.event)} on {size} of {population}"
        case RepeatedEvent(count=count):
            return f"{count} times {describe(event.event)}"
