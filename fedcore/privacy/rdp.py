"""Rényi accounting at the integer orders 2 … 256: the filter that stops a run before it overspends.

It needs NumPy alone, so that no budget ever goes unchecked. Each event has one curve, the bounds on
its Rényi divergence, in both directions, at every order; composition adds curves. Whatever is
rounded is rounded toward more epsilon: `_MARGIN` covers all float errors below, by an analysis of
their largest terms that `test_rdp_samples.py` checks against 50 digits.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import AccountantError, ArgumentError, ShapeError
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
from fedcore.privacy.rdp_sampled import fixed_size, poisson, truncated_poisson
from fedcore.privacy.units import Adjacency

__all__ = ["MOST_ROUNDS", "ORDERS", "compose", "epsilon", "max_rounds", "rdp"]

ORDERS = tuple(range(2, 257))
"""The orders at which every curve is known."""

MOST_ROUNDS = 2**53
"""Stands for no end: beyond it, rounds are not counted."""

# Exponents reach 1.2e4 by more than their result, each in about five roundings of 2^-53.
_MARGIN = 2.0**-35
_MOST_TERMS = 2**16


def rdp(event: Event, adjacency: Adjacency) -> NDArray[np.float64]:
    """Bounds on the Rényi divergence of `event` between neighbours: (255,), nats, read-only.

    Raises: AccountantError for a combination without a proven bound.

    >>> rdp(GaussianEvent(Fraction(2)), Adjacency.ADD_REMOVE)[:2].round(6)
    array([0.25 , 0.375])
    """
    return _curve(event, adjacency)


def compose(spend: Mapping[Event, int], adjacency: Adjacency) -> NDArray[np.float64]:
    """The curve of all events of `spend`, each as often as it says: (255,), nats.

    Source: Mironov 2017 (1702.07476), Proposition 1.
    """
    require_counts(spend)
    total = np.zeros(len(ORDERS))
    for event, count in spend.items():
        if count:
            total += _times(count, rdp(event, adjacency))
    return total


def epsilon(
    curve: NDArray[np.float64], delta: float, *, order: int | None = None
) -> tuple[float, int]:
    """The least epsilon that `curve` proves at `delta`, and the order that proves it.

    `order`: the one order to read. A plan that chooses later events by the outcome of earlier ones
    fixes it beforehand, as filters hold order by order (Feldman and Zrnic 2020, 2008.11193).

    Source: Canonne, Kamath and Steinke 2020 (2004.00010), Proposition 12 in version 4; epsilon is 0
    where delta pays for the total variation (Bretagnolle and Huber: TV² <= 1 - exp(-KL)).

    >>> epsilon(rdp(GaussianEvent(Fraction(1)), Adjacency.ADD_REMOVE), 1e-5)
    (4.75..., 5)
    """
    if curve.shape != (len(ORDERS),):
        raise ShapeError(
            f"a curve of shape {curve.shape} is none",
            why=f"it holds one value for each order of {ORDERS[0]} … {ORDERS[-1]}",
            fix="pass what rdp or compose gives",
        )
    require_delta(delta)
    if order is not None and order not in ORDERS:
        raise ArgumentError(
            f"order {order!r} has no bound",
            why=f"curves are known at the integers {ORDERS[0]} … {ORDERS[-1]}",
            fix="pass one of rdp.ORDERS, or None for the best",
        )
    found = curve + _conversion(delta)
    found = np.maximum(found + 2.0**-49 * (np.abs(found) + 1), 0)
    # Strictly: a float that rounds up must not pass for one that is covered.
    found[-np.expm1(-curve) < delta * delta * (1 - 2.0**-49)] = 0
    best = int(found.argmin()) if order is None else order - ORDERS[0]
    return float(found[best]), ORDERS[best]


def max_rounds(
    event: Event,
    *,
    adjacency: Adjacency,
    epsilon: float,
    delta: float,
    order: int | None = None,
    spent: Mapping[Event, int] | None = None,
) -> int:
    """How often `event` may still happen after `spent` before more than `epsilon` is spent.

    At most 2^53, which stands for no end.

    >>> event = PoissonEvent(rate=round(0.01 * 2**32), event=GaussianEvent(Fraction(1)))
    >>> max_rounds(event, adjacency=Adjacency.ADD_REMOVE, epsilon=2, delta=1e-5)
    879
    """
    before, once = compose(spent or {}, adjacency), rdp(event, adjacency)

    def fits(count: int) -> bool:
        # `epsilon` names the budget here.
        return _epsilon_of(before + _times(count, once), delta, order=order) <= epsilon

    low, high = 0, 1
    while high <= MOST_ROUNDS and fits(high):
        low, high = high, 2 * high
    if low == MOST_ROUNDS:
        return low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def require_counts(spend: Mapping[Event, int]) -> None:
    """Raises: ArgumentError for a negative count."""
    for count in spend.values():
        if count < 0:
            raise ArgumentError(
                f"an event was spent {count} times",
                why="what was released cannot be taken back",
                fix="pass counts of zero and more",
            )


def require_delta(delta: float) -> None:
    """Raises: ArgumentError unless 0 < delta < 1."""
    if not 0 < delta < 1:
        raise ArgumentError(
            f"delta = {delta!r}",
            why="it is a probability: at 0 no noise of ours gives an epsilon, at 1 none is needed",
            fix="pass a delta well below 1 / population",
        )


def _epsilon_of(curve: NDArray[np.float64], delta: float, *, order: int | None) -> float:
    return epsilon(curve, delta, order=order)[0]


@functools.lru_cache(maxsize=64)
def _conversion(delta: float) -> NDArray[np.float64]:
    a = np.asarray(ORDERS, np.float64)
    return np.log1p(-1 / a) - (math.log(delta) + np.log(a)) / (a - 1)


def _times(count: int, curve: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):
        return np.nextafter(above(Fraction(count)) * curve, np.inf)


@functools.lru_cache(maxsize=1024)
def _curve(event: Event, adjacency: Adjacency) -> NDArray[np.float64]:
    found = np.nextafter(_bound(event, adjacency) * (1 + _MARGIN), np.inf)
    found.setflags(write=False)
    return found


def _bound(event: Event, adjacency: Adjacency) -> NDArray[np.float64]:
    match event:
        case GaussianEvent():
            return _gaussian(event, adjacency.clipping_norms)
        case SharesEvent():
            return _shares(event, adjacency.clipping_norms)
        case SkellamEvent():
            return _skellam(event, adjacency.clipping_norms)
        case RepeatedEvent():
            return _times(event.count, rdp(event.event, adjacency))
        case PoissonEvent():
            if adjacency is Adjacency.REPLACE_ONE:
                raise _unproven(
                    "a Poisson sample", adjacency, "adding, removing or zeroing one unit"
                )
            return poisson(event.rate / RATE_UNIT, rdp(event.event, adjacency))
        case TruncatedPoissonEvent():
            if adjacency is not Adjacency.ZERO_OUT:
                raise _unproven("a truncated Poisson sample", adjacency, "zeroing one unit")
            return truncated_poisson(
                event.rate / RATE_UNIT,
                event.limit,
                event.population,
                near=rdp(event.event, adjacency),
                noise_multiplier=event.event.noise_multiplier,
            )
        case FixedSizeEvent():
            if adjacency is not Adjacency.REPLACE_ONE:
                raise _unproven("a sample of fixed size", adjacency, "replacing one unit")
            whole = rdp(event.event, adjacency)
            if event.size == event.population:
                return whole
            share = above(Fraction(event.size, event.population))
            return fixed_size(share, whole, noise_multiplier=event.event.noise_multiplier)


def _gaussian(event: GaussianEvent, distance: int) -> NDArray[np.float64]:
    # Mironov 2017, Corollary 3. Rounding the noisy value afterwards is post-processing.
    return np.asarray(ORDERS) * above(distance**2 / (2 * event.noise_multiplier**2))


def _shares(event: SharesEvent, distance: int) -> NDArray[np.float64]:
    """Kairouz, Liu and Steinke 2021 (2102.06387), Proposition 14; needs a variance of 1/4 a share.

    With sigma² the variance of one share, n of them sum to a discrete Gaussian of n sigma² but for
    tau = 10 sum_{k=1}^{n-1} exp(-2 pi² sigma² k/(k+1)) a coordinate.
    """
    if event.local_variance < Fraction(1, 4):
        raise AccountantError(
            f"a share of noise has variance {float(event.local_variance):.3g} in grid steps",
            why="sums of discrete Gaussians are understood for variances of 1/4 and more",
            fix="take a finer grid or more noise",
        )
    a = np.asarray(ORDERS, np.float64)
    apart = math.sqrt(above(distance**2 / event.squared_noise_multiplier)) * (1 + 2.0**-50)
    tau = _tau(event.shares, event.local_variance)
    dimension = above(Fraction(event.dimension))
    each = a / 2 * apart**2 + tau * dimension
    together = a / 2 * (apart + math.sqrt(dimension) * tau) ** 2
    return np.minimum(each, together)


def _tau(shares: int, variance: Fraction) -> float:
    k = np.arange(1, min(shares, _MOST_TERMS), dtype=np.float64)
    scale = 2 * math.pi**2 * below(variance) * (1 - 2.0**-50)
    terms = np.exp(-scale * (k / (k + 1)))
    left_out = shares - 1 - len(k)
    # Terms fall with k. Exponents below -745 underflow, others are off by at most 745 · 2^-51.
    rest = left_out * float(terms[-1]) if left_out else 0.0
    return 10 * (float(terms.sum()) + rest) * (1 + 1e-11) + shares * 1e-320


def _skellam(event: SkellamEvent, distance: int) -> NDArray[np.float64]:
    """Agarwal, Kairouz and Liu 2021 (2110.04995), Corollary 3.6; integer vectors, integer orders.

    An integer vector of squared L2 norm s has an L1 norm of at most min(sqrt(D s), s).
    """
    a = np.asarray(ORDERS, np.float64)
    squared = distance**2 * event.squared_sensitivity
    manhattan = min(math.sqrt(above(event.dimension * squared)), above(squared))
    double = above(1 / (2 * event.variance))  # 1 / (2 mu)
    fine = ((2 * a - 1) * above(squared) + 6 * manhattan) * double**2
    return a * above(squared / (2 * event.variance)) + np.minimum(fine, 3 * manhattan * double)


def above(value: Fraction) -> float:
    """A float that is not below the non-negative `value`, at most two units in the last place."""
    try:
        return math.nextafter(float(value), math.inf)
    except OverflowError:
        return math.inf


def below(value: Fraction) -> float:
    """A float that is not above the positive `value`, at most two units in the last place."""
    return math.nextafter(float(value), 0)


def _unproven(what: str, adjacency: Adjacency, proven: str) -> AccountantError:
    return AccountantError(
        f"{what} has no proven cost under the adjacency '{adjacency.value}'",
        why=f"its amplification by sampling is proven for {proven}",
        fix="take that adjacency, or another sampling",
    )
