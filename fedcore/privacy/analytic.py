"""One Gaussian mechanism, exactly: where no sampling helps, nothing has to be bounded numerically.

The classic sqrt(2 ln(1.25/delta))/epsilon holds below epsilon = 1 alone, and asks for more noise
than is needed there.
"""

from __future__ import annotations

import math
from fractions import Fraction

from fedcore.errors import ArgumentError
from fedcore.privacy import rdp

__all__ = ["analytic_gaussian_epsilon", "analytic_noise_multiplier"]


def analytic_gaussian_epsilon(noise_multiplier: Fraction | float, delta: float) -> float:
    """The epsilon of one Gaussian mechanism at `delta`, rounded up by less than 1e-9 of itself.

    `noise_multiplier`: in distances of neighbours.

    Source: Balle and Wang 2018 (1805.06530), Theorem 8.

    >>> round(analytic_gaussian_epsilon(1, 1e-5), 6)
    4.377178
    """
    rdp.require_delta(delta)
    if not noise_multiplier > 0:
        raise _unreachable(f"a noise multiplier of {noise_multiplier!r}")
    distance = rdp.above(1 / Fraction(noise_multiplier))
    if distance > 1e100:
        return math.inf
    high = 1.0
    if _gaussian_delta(distance, 0.0) <= delta:
        return 0.0
    while _gaussian_delta(distance, high) > delta:
        high *= 2
    low = 0.0 if high == 1 else high / 2
    while high - low > 1e-10 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _gaussian_delta(distance, middle) > delta else (low, middle)
    return high


def analytic_noise_multiplier(epsilon: float, delta: float) -> float:
    """The least noise multiplier of one Gaussian mechanism for `epsilon`, rounded up likewise.

    Source: Balle and Wang 2018 (1805.06530), Theorem 9.

    >>> round(analytic_noise_multiplier(1, 1e-5), 6)
    3.730632
    """
    rdp.require_delta(delta)
    if not 0 <= epsilon < math.inf:
        raise _unreachable(f"an epsilon of {epsilon!r}")
    high = 1.0
    while _gaussian_delta(1 / high, epsilon) > delta:
        high *= 2
    low = high / 2
    while _gaussian_delta(1 / low, epsilon) <= delta:
        low, high = low / 2, low
    while high - low > 1e-10 * high:
        middle = (low + high) / 2
        fits = _gaussian_delta(1 / middle, epsilon) <= delta
        low, high = (low, middle) if fits else (middle, high)
    return high


def _unreachable(what: str) -> ArgumentError:
    return ArgumentError(
        f"{what} cannot be had",
        why="noise has a positive multiplier, and epsilon is finite and has no sign",
        fix="pass a number in its range",
    )


def _gaussian_delta(distance: float, epsilon: float) -> float:
    """Phi(d/2 - e/d) - exp(e) Phi(-d/2 - e/d), rounded up."""
    near, far = epsilon / distance - distance / 2, epsilon / distance + distance / 2
    # exp(epsilon) phi(far) = phi(near): only tails relative to phi(near) are left.
    density = math.exp(-near * near / 2) / math.sqrt(2 * math.pi)
    first = density * _mills(near) if near > 0 else math.erfc(near / math.sqrt(2)) / 2
    lost = 1e-12 + 2.0**-50 * far * (abs(near) + 1)
    return first - density * _mills(far) + lost * first


def _mills(x: float) -> float:
    """(1 - Phi(x)) / phi(x) for x >= 0."""
    if x < 25:
        return math.sqrt(math.pi / 2) * math.exp(x * x / 2) * math.erfc(x / math.sqrt(2))
    # Abramowitz and Stegun 26.2.12; the next term is below 1e-16.
    term, total = 1.0, 1.0
    for n in range(1, 9):
        term *= -(2 * n - 1) / (x * x)
        total += term
    return total / x
