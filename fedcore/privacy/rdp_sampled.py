"""What sampling saves: Rényi curves of a sampled event from the curve of the unsampled one.

All curves are (255,) arrays over the orders 2 … 256. Every sum below is of non-negative terms and
leaves out the leading 1, hence keeps its relative precision however little is leaked.
"""

from __future__ import annotations

import decimal
import functools
import itertools
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

__all__ = ["fixed_size", "poisson", "truncated_poisson"]

_LARGEST = 256
_DIGITS = 300


def poisson(rate: float, curve: NDArray[np.float64]) -> NDArray[np.float64]:
    """The curve of an additive mechanism on a Poisson sample, from its curve unsampled.

    With q the rate and eps(k) the curve, order a has 1/(a-1) log A(a),
    A(a) = sum_k C(a,k) (1-q)^(a-k) q^k exp((k-1) eps(k)), the last factor being 1 for k < 2.

    It holds for every noise P that is symmetric, P(-x) = P(x), and has full support: Gaussians
    (where it is exact: Mironov, Talwar and Zhang 2019, 1908.10530), sums of discrete Gaussians,
    Skellam noise. Neighbours differ by a vector v that is added, removed or zeroed. Given the
    sample of the others, which is the same for both, the outputs are shifts of P and of
    Q = (1-q) P + q P_v, P_v(x) = P(x-v); averaging over that sample raises no divergence (joint
    quasi-convexity). Let r = P_v/P.

    D_a(Q || P): exp((a-1) D_a) = E_P (1-q+qr)^a, at an integer a by the binomial theorem the sum
    above with E_P r^k = exp((k-1) D_k(P_v || P)) <= exp((k-1) eps(k)).

    D_a(P || Q) is no larger. Since P is symmetric, x -> v-x swaps P and P_v, hence turns r into
    1/r. Write A = 1-q+qr, B = 1-q+q/r and g(t) = A^t + r B^t. The pair {x, v-x} adds P(x) g(a) to
    E_P (Q/P)^a and P(x) g(1-a) to E_P (Q/P)^(1-a), which is exp((a-1) D_a(P || Q)). So it is
    enough that g(a) >= g(1-a) for a >= 1. Let r >= 1 without loss, and alpha = ln A,
    beta = -ln B. Both are >= 0, and alpha >= beta as AB = (1-q)² + q² + q(1-q)(r + 1/r) >= 1.
    With s = a - 1/2,
        g(a) - g(1-a) = 2 sqrt(A) sinh(s alpha) - 2 r sqrt(B) sinh(s beta),
    and it is g(1) - g(0) = (1+r) - (1+r) = 0 at s = 1/2. So sqrt(A) sinh(alpha/2) =
    r sqrt(B) sinh(beta/2), and what remains is that sinh(s y)/sinh(y/2) grows with y for s >= 1/2:
    y times its logarithmic derivative is s y coth(s y) - (y/2) coth(y/2) >= 0, as y coth(y) grows.
    """
    if rate == 1:
        return curve
    return _from_excess(_log_poisson(rate, curve))


def fixed_size(
    share: float, whole: NDArray[np.float64], *, noise_multiplier: Fraction
) -> NDArray[np.float64]:
    """The curve of the Gaussian mechanism on a uniform sample of fixed size, one unit replaced.

    `share`: size / population. `whole`: the curve on everything, which no sample exceeds.
    `noise_multiplier`: in clipping norms, of which two lie between neighbours.

    Source: Wang, Balle and Kasiviswanathan 2018 (1808.00087), Theorem 27.
    """
    found = _from_excess(_log_ternary(share, noise_multiplier))
    return np.minimum(found, whole)


def truncated_poisson(
    rate: float,
    limit: int,
    population: int,
    *,
    near: NDArray[np.float64],
    noise_multiplier: Fraction,
) -> NDArray[np.float64]:
    """The curve of the Gaussian mechanism on a Poisson sample cut to `limit` units, one zeroed.

    `near`: the curve of the mechanism unsampled.

    Condition on R, the Poisson sample of the other units; exp((a-1) D_a) is jointly convex, so the
    average of its bounds over R bounds it. If |R| < limit, nothing is cut with the unit or without
    it, and A(a) of `poisson` holds. Else the unit, zeroed or not, is in the cut sample with
    probability g = q limit/(|R|+1) <= q limit/(limit+1), and two bounds hold, of which the smaller
    counts:

    * The choice of the sample is the same for both neighbours, and they differ only where it
      holds the unit: 1 - g + g exp((a-1) eps(a)) by joint convexity. Averaged over R, g weighs
      (limit/N) P[Bin(N, q) > limit], as P[Bin(N-1, q) = r] q/(r+1) = P[Bin(N, q) = r+1]/N.
    * A sample with the unit is one without it but for one exchanged element. So the outputs are
      averages of (1-g) m0 + g m1 and (1-g) m0 + g m1' over triples of Gaussians that lie at most
      two clipping norms apart. |m1-m1'|^j / y^(j-1) is jointly convex, so the proof of
      Theorem 27 in `fixed_size` goes through, with g for the share; its bound grows with g.
    """
    if rate == 1:
        return near
    orders = np.arange(2, _LARGEST + 1)
    among = _log_tail(population, rate, limit + 1) + math.log(limit / population)
    coarse = among + _log_expm1((orders - 1) * near)
    cut = _log_tail(population - 1, rate, limit)
    fine = cut + _log_ternary(rate * (limit / (limit + 1)) * (1 + 2.0**-50), noise_multiplier)
    excess = np.logaddexp(_log_poisson(rate, near), np.minimum(coarse, fine))
    return np.minimum(_from_excess(excess), near)


def _from_excess(log_excess: NDArray[np.float64]) -> NDArray[np.float64]:
    """The curve whose exp((a-1) D_a) is 1 + exp(log_excess)."""
    found: NDArray[np.float64] = np.logaddexp(0, log_excess) / np.arange(1, _LARGEST)
    return found


def _log_poisson(rate: float, curve: NDArray[np.float64]) -> NDArray[np.float64]:
    # A(a) - 1, as the binomial weights sum to 1.
    excess = np.full(_LARGEST + 1, -np.inf)
    excess[2:] = _log_expm1(np.arange(1, _LARGEST) * curve)
    return _log_binomial_sum(math.log(rate), math.log1p(-rate), excess)


def _log_binomial_sum(
    log_in: float, log_out: float, log_terms: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Logarithm of sum_k C(a,k) in^k out^(a-k) terms_k for every order a."""
    orders, k = np.arange(2, _LARGEST + 1)[:, None], np.arange(_LARGEST + 1)
    logs = _log_binomials() + (orders - k) * log_out + (k * log_in + log_terms)
    top = logs.max(axis=1)
    found: NDArray[np.float64] = top + np.log(np.exp(logs - top[:, None]).sum(axis=1))
    return found


@functools.cache
def _log_binomials() -> NDArray[np.float64]:
    """Logarithm of C(a, k) for a = 2 … 256 (rows) and k = 0 … 256, minus infinity where k > a."""
    factorials = np.array([math.log(math.factorial(n)) for n in range(_LARGEST + 1)])
    orders, k = np.arange(2, _LARGEST + 1)[:, None], np.arange(_LARGEST + 1)
    # A negative index counts from the end; what it gives is not used.
    found = factorials[orders] - factorials[k] - factorials[orders - k]
    return np.where(k <= orders, found, -np.inf)


def _log_expm1(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithm of exp(x) - 1 for x > 0, without overflow."""
    found: NDArray[np.float64] = x + np.log(-np.expm1(-x))
    return found


def _log_ternary(share: float, noise_multiplier: Fraction) -> NDArray[np.float64]:
    """Log of sum_{j>=2} C(a,j) share^j min(4 sqrt(d(2⌊j/2⌋) d(2⌈j/2⌉)), 2 exp(j(j-1)/(2 s²))).

    s is half the noise multiplier, as neighbours lie two clipping norms apart, and d(j) the j-th
    central moment of the ratio of two such neighbours.
    """
    moments = _log_central_moments(noise_multiplier / 2)
    j = np.arange(2, _LARGEST + 1)
    low, high = moments[j // 2], moments[(j + 1) // 2]
    cap = j * (j - 1) * float(2 / noise_multiplier**2)
    terms = np.full(_LARGEST + 1, -np.inf)
    terms[2:] = np.minimum(math.log(4) + (low + high) / 2, math.log(2) + cap)
    return _log_binomial_sum(math.log(share), 0, terms)


def _log_central_moments(spread: Fraction) -> NDArray[np.float64]:
    """Logarithm of E_Q (P/Q - 1)^j for j = 0, 2, …, 256; P, Q Gaussians so spread, 1 apart.

    They are the forward differences at 0 of exp(l(l-1)/(2 spread²)). These cancel almost wholly,
    hence 300 digits, and a bound on what is lost is added: doubles give noise from about j = 10 on.
    """
    with decimal.localcontext() as context:
        context.prec, context.Emax, context.Emin = _DIGITS, decimal.MAX_EMAX, decimal.MIN_EMIN
        inverse = 1 / spread**2
        step = Decimal(inverse.numerator) / inverse.denominator
        if step > 10**9:  # The other bound is the smaller by far, and this one beyond any exponent.
            return np.full(_LARGEST // 2 + 1, np.inf)
        ratio, power, row = step.exp(), Decimal(1), [Decimal(1)]
        for _ in range(_LARGEST):
            row.append(row[-1] * power)
            power *= ratio
        lost = [value.scaleb(_LARGEST // 3 + 10 - _DIGITS) for value in row]
        found = []
        for j in range(_LARGEST + 1):
            if j % 2 == 0:
                found.append(_log(abs(row[0]) + lost[j]))
            row = [after - before for before, after in itertools.pairwise(row)]
    return np.array(found)


def _log(value: Decimal) -> float:
    # Decimal.ln() takes 0.4 ms at 300 digits.
    exponent = value.adjusted()
    return math.log(value.scaleb(-exponent)) + exponent * math.log(10)


def _log_tail(trials: int, rate: float, least: int) -> float:
    """A bound from above on log P[Bin(trials, rate) >= least]."""
    if least > trials:
        return -math.inf
    if least <= trials * rate:
        return 0.0
    factorials = math.lgamma(trials + 1)
    first = (factorials - math.lgamma(least + 1) - math.lgamma(trials - least + 1)) + (
        least * math.log(rate) + (trials - least) * math.log1p(-rate)
    )
    # Terms fall by a ratio that itself falls, from one below 1: a geometric series bounds the rest.
    counts = np.arange(least, min(trials, least + 10_000), dtype=np.float64)
    ratios = (trials - counts) / (counts + 1) * (rate / (1 - rate))
    terms = np.cumprod(np.concatenate([[1.0], ratios]))
    rest = 0.0
    if least + len(ratios) < trials:
        rest = float(terms[-1] * ratios[-1] / (1 - ratios[-1]))
    lost = 2.0**-48 * (factorials + 1) + 1e-11
    return min(0.0, first + math.log(float(terms.sum()) + rest) + lost)
