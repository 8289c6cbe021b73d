"""Clients that nobody is: random directions, so far from all else that their noise can be measured.

In many dimensions a random unit vector is almost orthogonal to every update and to every other one.
So a canary's product with what was released shows one client's weight against the noise, and a
thousand canaries show it a thousand times in a single run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from fedcore.errors import ArgumentError, ShapeError
from fedcore.privacy.audit.arguments import require_claim, require_finite, require_share
from fedcore.privacy.audit.tails import normal_tail
from fedcore.privacy.audit.verdict import Finding, Outcome, Verdict

__all__ = ["Canaries", "CanaryFit", "canary_fit", "gaussian_delta", "gaussian_epsilon"]

Floats = npt.NDArray[np.float64]

_BISECTIONS = 80
_LARGEST_MU = 1e4


@dataclass(frozen=True)
class Canaries:
    """`count` random vectors of length `clipping_norm` in `dimension` coordinates.

    Each is made anew from `seed` whenever it is needed, so that a thousand of a million coordinates
    take no 8 GB; one takes 10 ns a coordinate. Another seed gives directions that were not put in,
    which `canary_fit` compares with. Raises: ArgumentError.

    >>> canaries = Canaries(count=3, dimension=10_000, clipping_norm=2.0, seed=7)
    >>> total = sum(canaries.update(index) for index in range(3))
    >>> canaries.scores(total).round(1)
    array([2., 2., 2.])
    """

    count: int
    dimension: int
    clipping_norm: float
    seed: int

    def __post_init__(self) -> None:
        whole = all(
            isinstance(value, int) and value >= least
            for value, least in ((self.count, 1), (self.dimension, 1), (self.seed, 0))
        )
        if not whole or not 0 < self.clipping_norm < math.inf:
            raise ArgumentError(
                f"no such canaries: {self}",
                why="they are vectors of a length above 0, made from a seed",
                fix="pass a count and a dimension from 1 up, and a seed from 0 up",
            )

    def update(self, index: int) -> Floats:
        """Canary `index`, shape (dimension,): what a client that is one sends as its update."""
        return self.clipping_norm * self._direction(index)

    def scores(self, released: npt.ArrayLike) -> Floats:
        """The product of each canary's direction and `released`: (dimension,) -> (count,).

        `released`: the sum over the rounds of what was released, in the units of an update.
        Raises: ShapeError, ArgumentError.
        """
        total = require_finite("released", released, dimensions=1)
        if len(total) != self.dimension:
            raise ShapeError(
                f"canaries: {len(total)} coordinates were released, the canaries have "
                f"{self.dimension}",
                why="a score is a product of the two",
                fix="make the canaries of the dimension of an update",
            )
        return np.array([_dot(self._direction(index), total) for index in range(self.count)])

    def _direction(self, index: int) -> Floats:
        vector = np.random.default_rng([self.seed, index]).standard_normal(self.dimension)
        vector /= math.sqrt(_dot(vector, vector))
        return vector


@dataclass(frozen=True, kw_only=True)
class CanaryFit(Finding):
    """What the canaries say; see `canary_fit`.

    `mu`: the shift in units of the noise, with its standard error. `epsilon_estimate`: that of
    mu-GDP at `delta`, with its standard error. `epsilon_lower`: at least this, with `confidence`.
    `deviation_ratio`: the spread of the canaries that were in over that of those that were not.
    """

    title: ClassVar[str] = "Canary clients"

    inside: int
    outside: int
    mu: float
    mu_error: float
    deviation_ratio: float
    epsilon_estimate: float
    epsilon_error: float
    epsilon_lower: float
    epsilon: float
    delta: float
    confidence: float


def canary_fit(
    inside: npt.ArrayLike,
    outside: npt.ArrayLike,
    *,
    epsilon: float,
    delta: float,
    confidence: float = 0.99,
) -> CanaryFit:
    """The epsilon that the scores of canaries show, against the claimed one.

    `inside`: shape (m,), the scores of those that took part; `outside`: shape (k,), of directions
    that did not. Two Gaussians of one deviation, mu deviations apart, are fitted: mu-GDP. It is an
    estimate and no bound: it holds for noise that is Gaussian, for canaries as exposed as anybody.
    Many canaries in few dimensions hide each other, and the estimate falls.

    Raises: ArgumentError, DtypeError, ShapeError.
    Source: Andrew et al., arXiv 2302.03098, algorithm 2; Dong, Roth and Su, arXiv 1905.02383,
    corollary 2.13, for epsilon of mu.
    """
    require_claim(epsilon, delta)
    require_share("delta", delta)
    require_share("confidence", confidence)
    scores_in = require_finite("inside", inside, dimensions=1, least=2)
    scores_out = require_finite("outside", outside, dimensions=1, least=2)
    m, k = len(scores_in), len(scores_out)
    # In a unit of their own, so that no square leaves the floats.
    unit = max(float(np.abs(scores).max()) for scores in (scores_in, scores_out)) or 1.0
    scores_in, scores_out = scores_in / unit, scores_out / unit
    variances = float(scores_in.var(ddof=1)), float(scores_out.var(ddof=1))
    pooled = ((m - 1) * variances[0] + (k - 1) * variances[1]) / (m + k - 2)
    shift = float(scores_in.mean() - scores_out.mean())
    if pooled == 0:
        return _without_noise(shift, m, k, epsilon, delta, confidence)
    mu = shift / math.sqrt(pooled)
    # The delta method: the two means, and the deviation by which they are divided.
    error = math.sqrt(1 / m + 1 / k + mu * mu / (2 * (m + k - 2)))
    estimate = gaussian_epsilon(mu, delta)
    quantile = NormalDist().inv_cdf(confidence)
    ratio = math.sqrt(variances[0] / variances[1]) if variances[1] else math.inf
    claimed_mu = _gaussian_mu(epsilon, delta)
    if mu - quantile * error > claimed_mu:
        outcome, reason = (
            Outcome.FAILED,
            f"the canaries show an epsilon of {estimate:.3g}, above {_claim(epsilon, delta)} by "
            f"more than chance allows, at confidence {confidence:g}",
        )
    elif abs(ratio - 1) > 5 * math.sqrt(1 / (2 * m) + 1 / (2 * k)):
        outcome, reason = (
            Outcome.INCONCLUSIVE,
            f"canaries that were in spread {ratio:.3g} times as far as others, so that no single "
            "shift describes what they show",
        )
    elif quantile * math.sqrt(1 / m + 1 / k) > claimed_mu:
        outcome, reason = (
            Outcome.INCONCLUSIVE,
            f"with {m} canaries in and {k} out, half of the noise needed for "
            f"{_claim(epsilon, delta)} would go unnoticed; take more canaries",
        )
    else:
        outcome, reason = (
            Outcome.PASSED,
            f"the canaries show an epsilon of {estimate:.3g}, which chance allows at "
            f"{_claim(epsilon, delta)}",
        )
    return CanaryFit(
        verdict=Verdict(outcome, reason),
        inside=m,
        outside=k,
        mu=mu,
        mu_error=error,
        deviation_ratio=ratio,
        epsilon_estimate=estimate,
        epsilon_error=_slope(mu, delta) * error,
        epsilon_lower=gaussian_epsilon(mu - quantile * error, delta),
        epsilon=float(epsilon),
        delta=float(delta),
        confidence=confidence,
    )


def gaussian_delta(epsilon: float, mu: float) -> float:
    """The least delta at which mu-GDP is (epsilon, delta)-DP.

    Phi(-epsilon/mu + mu/2) - e^epsilon Phi(-epsilon/mu - mu/2), without overflow. Source: Balle and
    Wang, arXiv 1805.06530, theorem 8, with mu the sensitivity over the deviation.
    """
    if mu <= 0:
        return 0.0
    near, far = epsilon / mu - mu / 2, epsilon / mu + mu / 2
    # e^epsilon phi(far) = phi(near), hence both terms are phi(near) times a ratio of Mills.
    second = math.exp(-near * near / 2) * _mills(far) / math.sqrt(2 * math.pi)
    return max(0.0, normal_tail(near) - second)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The least epsilon at which mu-GDP is (epsilon, delta)-DP; 0 for mu <= 0.

    >>> round(gaussian_epsilon(1.0, 1e-5), 4)
    4.3772
    """
    if gaussian_delta(0.0, mu) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while gaussian_delta(high, mu) > delta:
        low, high = high, 2 * high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_delta(middle, mu) > delta else (low, middle)
    return high


def _dot(left: Floats, right: Floats) -> float:
    # Not by BLAS, which wakes all cores for each of many short products.
    return float(np.einsum("i,i->", left, right))


def _gaussian_mu(epsilon: float, delta: float) -> float:
    """The largest mu at which mu-GDP is (epsilon, delta)-DP."""
    low, high = 0.0, _LARGEST_MU
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_delta(epsilon, middle) <= delta else (low, middle)
    return low


def _slope(mu: float, delta: float) -> float:
    """The derivative of epsilon by mu, where epsilon is above 0; else the slope from there on."""
    step = 1e-4
    base = max(mu, 2 * step)
    ahead, behind = gaussian_epsilon(base + step, delta), gaussian_epsilon(base - step, delta)
    return (ahead - behind) / (2 * step)


def _mills(x: float) -> float:
    """P(N(0, 1) > x) over its density at x > 0."""
    if x < 30:
        return normal_tail(x) * math.exp(x * x / 2) * math.sqrt(2 * math.pi)
    # The asymptotic series; its first omitted term is 105 / x^8, below 2e-10 of the whole.
    return (1 - 1 / x**2 + 3 / x**4 - 15 / x**6) / x


def _claim(epsilon: float, delta: float) -> str:
    return f"the claimed {epsilon:g} at delta {delta:g}"


def _without_noise(
    shift: float, m: int, k: int, epsilon: float, delta: float, confidence: float
) -> CanaryFit:
    """The scores do not vary at all: noise in the release would have moved each of them."""
    return CanaryFit(
        verdict=Verdict(
            Outcome.FAILED, "the scores of the canaries do not vary: there is no noise"
        ),
        inside=m,
        outside=k,
        mu=math.inf if shift else 0.0,
        mu_error=0.0,
        deviation_ratio=math.nan,
        epsilon_estimate=math.inf if shift else 0.0,
        epsilon_error=0.0,
        epsilon_lower=math.inf if shift else 0.0,
        epsilon=float(epsilon),
        delta=float(delta),
        confidence=confidence,
    )
