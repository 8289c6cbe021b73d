"""Tail probabilities to full precision where they are small, so that a verdict can rest on them.

SciPy has all of these, but it is 143 MB that an audit in production should not need.
"""

from __future__ import annotations

import functools
import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

__all__ = [
    "binomial_probabilities",
    "chi_square_tail",
    "clopper_pearson_lower",
    "clopper_pearson_upper",
    "normal_tail",
]

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

_TINY = 1e-300
_PRECISION = 1e-15
_CONVERGED = 1e-14
_NEWTON_STEPS = 100
_LAST_STEP = 1e-11
_ROUNDING = 1e-10
_CHUNK = 1024
"""Counts at a time: they converge together, and stay in the cache."""


def normal_tail(x: float) -> float:
    """P(N(0, 1) > x), of full relative precision for any x."""
    return math.erfc(x / math.sqrt(2)) / 2


def binomial_probabilities(trials: int, chance: float) -> Floats:
    """P(Binomial(trials, chance) = k) for k = 0 ... trials: shape (trials + 1,).

    The relative error is about 1e-16 trials log(trials); `chance` lies strictly between 0 and 1.
    """
    k = np.arange(trials + 1)
    logs = _log_factorials(trials)
    choices = logs[trials] - logs[: trials + 1] - logs[trials::-1]
    found: Floats = np.exp(choices + k * math.log(chance) + (trials - k) * math.log1p(-chance))
    return found


def clopper_pearson_lower(successes: Counts, trials: int, *, confidence: float) -> Floats:
    """A lower bound of a chance, which holds with `confidence`.

    Elementwise, exact, rounded down; 0.03 s for a thousand different counts, 0.5 s for 10,000.
    Source: Clopper and Pearson, Biometrika 26 (1934).

    >>> clopper_pearson_lower(np.array([0, 5]), 10, confidence=0.95).round(4)
    array([0.    , 0.2224])
    """
    distinct, places = np.unique(successes, return_inverse=True)
    parts = [distinct[start : start + _CHUNK] for start in range(0, len(distinct), _CHUNK)]
    return np.concatenate([_lower_bounds(part, trials, confidence) for part in parts])[places]


def clopper_pearson_upper(successes: Counts, trials: int, *, confidence: float) -> Floats:
    """An upper bound of a chance, which holds with `confidence`: as `clopper_pearson_lower`.

    >>> clopper_pearson_upper(np.array([0, 5]), 10, confidence=0.95).round(4)
    array([0.2589, 0.7776])
    """
    # To see k of n at most is to see n - k failures at least.
    return 1 - clopper_pearson_lower(trials - successes, trials, confidence=confidence)


def chi_square_tail(statistic: float, degrees: int) -> float:
    """P(chi-square of so many degrees of freedom > statistic).

    The regularised incomplete gamma function Q(degrees/2, statistic/2): one minus its series below
    the mean (NIST DLMF 8.11.4), its continued fraction above (8.9.2).
    """
    a, x = degrees / 2, statistic / 2
    if x <= 0:
        return 1.0
    front = math.exp(a * math.log(x) - x - math.lgamma(a))
    if x < a + 1:
        term = total = 1 / a
        place = a
        while term > total * _PRECISION:
            place += 1
            term *= x / place
            total += term
        return max(0.0, 1 - front * total)
    # Lentz's method
    b = x + 1 - a
    c, d = 1 / _TINY, 1 / b
    value, step = d, 0
    while True:
        step += 1
        numerator = -step * (step - a)
        b += 2
        d = 1 / (numerator * d + b)
        c = b + numerator / c
        value *= c * d
        if abs(c * d - 1) < _PRECISION:
            return front * value


def _lower_bounds(successes: Counts, trials: int, confidence: float) -> Floats:
    """The chance at which so many successes or more have probability 1 - confidence.

    By Newton's method on the logarithms of both, in which the tail is concave: from wherever it
    starts, each step ends below the solution, and climbs to it.
    """
    result = np.zeros(len(successes))
    some = successes > 0
    k = successes[some].astype(np.float64)
    quantile = NormalDist().inv_cdf(confidence)
    # Wilson's interval, which is near: four to six steps follow.
    spread = quantile * np.sqrt(k * (trials - k) / trials + quantile**2 / 4)
    log_chance = np.log(np.maximum(k + quantile**2 / 2 - spread, k / 100) / (trials + quantile**2))
    for _ in range(_NEWTON_STEPS):
        log_tail, slope = _log_tail(k, trials, np.exp(log_chance))
        step = (math.log(1 - confidence) - log_tail) / slope
        log_chance = np.minimum(log_chance + step, -_PRECISION)
        if bool((np.abs(step) < _LAST_STEP).all()):
            break
    result[some] = np.exp(log_chance) * (1 - _ROUNDING)
    return result


def _log_tail(k: Floats, trials: int, chance: Floats) -> tuple[Floats, Floats]:
    """Logarithm of P(Binomial(trials, chance) >= k), and its derivative by log(chance).

    For 0 < k <= trials and 0 < chance < 1, elementwise.

    The tail is the regularised incomplete beta function I_chance(k, trials - k + 1), by its
    continued fraction (NIST DLMF 8.17.22) on the side of the mean where that converges fast.
    """
    a, b, x = k, trials - k + 1, chance
    logs = _log_factorials(trials)
    # 1 / B(a, b) = (a + b - 1)! / ((a - 1)! (b - 1)!)
    scale = logs[trials] - logs[(a - 1).astype(int)] - logs[(b - 1).astype(int)]
    front = scale + a * np.log(x) + b * np.log1p(-x)
    swapped = x > (a + 1) / (a + b + 2)
    near, far = np.where(swapped, b, a), np.where(swapped, a, b)
    part = front + np.log(_beta_fraction(near, far, np.where(swapped, 1 - x, x)) / near)
    tail = np.where(swapped, np.log1p(-np.minimum(np.exp(part), 1.0 - _PRECISION)), part)
    return tail, np.exp(front - np.log1p(-x) - tail)


def _beta_fraction(a: Floats, b: Floats, x: Floats) -> Floats:
    """The continued fraction of the incomplete beta function, by Lentz's method."""
    c = np.ones_like(x)
    d = 1 / _away_from_zero(1 - (a + b) * x / (a + 1))
    value = d.copy()
    # It converges in O(sqrt(max(a, b))) steps on this side of the mean.
    for m in range(1, 200 + 10 * math.isqrt(int(max(a.max(), b.max())) if len(a) else 0)):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / _away_from_zero(1 + even * d)
        c = _away_from_zero(1 + even / c)
        value *= c * d
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 / _away_from_zero(1 + odd * d)
        c = _away_from_zero(1 + odd / c)
        factor = c * d
        value *= factor
        if bool((np.abs(factor - 1) < _CONVERGED).all()):
            break
    return value


def _away_from_zero(value: Floats) -> Floats:
    return np.where(np.abs(value) < _TINY, _TINY, value)


@functools.lru_cache(maxsize=4)
def _log_factorials(largest: int) -> Floats:
    logs = np.array([math.lgamma(k + 1) for k in range(largest + 1)])
    logs.flags.writeable = False
    return logs
