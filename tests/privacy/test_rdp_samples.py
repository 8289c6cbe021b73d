"""Curves of samples against brute force: all samples, added up, never find more."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import assume, example, given, settings, strategies as st
from numpy.typing import NDArray

from fedcore.privacy.events import (
    RATE_UNIT,
    FixedSizeEvent,
    GaussianEvent,
    PoissonEvent,
    SharesEvent,
    SkellamEvent,
    TruncatedPoissonEvent,
)
from fedcore.privacy.rdp import rdp
from fedcore.privacy.rdp_sampled import _log_central_moments, _log_tail, fixed_size, poisson
from tests.privacy.curves import ADD, NOISE, QUIET, RATES, REPLACE, ZERO, log_sum, parts, sampled


@given(RATES, QUIET, st.sampled_from(["gaussian", "shares", "skellam"]))
def test_the_curve_of_a_sample_is_below_what_holds_for_any_mechanism(
    rate: int, noise_multiplier: Fraction, kind: str
) -> None:
    """Zhu and Wang 2019, Theorem 5, asks nothing of the mechanism."""
    steps = 100
    event = {
        "gaussian": GaussianEvent(noise_multiplier),
        "shares": SharesEvent(10, (steps * noise_multiplier) ** 2 / 10, Fraction(steps**2), 1000),
        "skellam": SkellamEvent(
            (steps * noise_multiplier) ** 2, Fraction(steps**2), dimension=1000
        ),
    }[kind]
    curve, q = rdp(event, ADD), rate / RATE_UNIT
    assume(rate < RATE_UNIT)
    found = rdp(PoissonEvent(rate, event), ADD)
    for order in (2, 3, 5, 16, 40, 256):
        terms = [
            (order - 1) * math.log1p(-q) + math.log1p(q * (order - 1)),
            math.log(math.comb(order, 2)) + 2 * math.log(q) + (order - 2) * math.log1p(-q)
            + curve[0],
        ]  # fmt: skip
        for k in range(3, order + 1):
            likely = k * math.log(q) + (order - k) * math.log1p(-q)
            terms.append(math.log(3 * math.comb(order, k)) + likely + (k - 1) * curve[k - 2])
        general = log_sum(np.array(terms)) / (order - 1)
        assert found[order - 2] <= general * (1 + 1e-9) + 1e-12


@given(RATES, NOISE)
@example(1, Fraction(1, 100))
@example(1, Fraction(10**6))
@example(RATE_UNIT - 1, Fraction(1))
@example(parts(0.01), Fraction(1))
@settings(max_examples=5)
def test_a_poisson_curve_is_the_exact_one_and_never_below_it(
    rate: int, noise_multiplier: Fraction
) -> None:
    found = rdp(PoissonEvent(rate, GaussianEvent(noise_multiplier)), ADD)
    with mpmath.workdps(50):
        q, z = mpmath.mpf(rate) / RATE_UNIT, mpmath.mpf(noise_multiplier.numerator)
        z /= noise_multiplier.denominator
        for order in (2, 3, 17, 256):
            total = mpmath.fsum(
                mpmath.binomial(order, k)
                * q**k
                * (1 - q) ** (order - k)
                * mpmath.expm1(k * (k - 1) / (2 * z**2))
                for k in range(2, order + 1)
            )
            exact = mpmath.log1p(total) / (order - 1)
            assert exact <= mpmath.mpf(float(found[order - 2])) <= exact * (1 + 1e-6)


# Samples of three units in one dimension, by adding up all samples and integrating over the noise.


def outputs(
    values: tuple[float, ...], samples: dict[tuple[int, ...], float], spread: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    grid = np.linspace(-8 - 14 * spread, 8 + 14 * spread, 4001)
    density = np.zeros_like(grid)
    for chosen, likely in samples.items():
        centre = sum(values[unit] for unit in chosen)
        density += likely * np.exp(-((grid - centre) ** 2) / (2 * spread**2))
    return grid, density / (spread * math.sqrt(2 * math.pi))


def divergence(first: Any, second: Any, order: int) -> float:
    (grid, upper), (_, lower) = first, second
    keep = (upper > 1e-290) & (lower > 1e-290)
    with np.errstate(over="ignore"):
        logs = order * np.log(upper[keep]) + (1 - order) * np.log(lower[keep])
    return (log_sum(logs) + math.log(grid[1] - grid[0])) / (order - 1)


def truncated(population: int, rate: float, limit: int) -> dict[tuple[int, ...], float]:
    found: dict[tuple[int, ...], float] = {}
    for size in range(population + 1):
        for joined in itertools.combinations(range(population), size):
            likely = rate**size * (1 - rate) ** (population - size)
            kept = list(itertools.combinations(joined, min(size, limit)))
            for chosen in kept:
                found[chosen] = found.get(chosen, 0) + likely / len(kept)
    return found


VALUES = st.tuples(*[st.sampled_from([-1.0, -0.4, 0.0, 1.0])] * 3)


@given(
    VALUES,
    st.sampled_from([-1.0, 1.0]),
    st.sampled_from([0.01, 0.1, 0.4, 0.9, 1.0]),
    st.integers(1, 4),
    QUIET,
    st.sampled_from([2, 3, 5, 9]),
)
@example((-1.0, -1.0, -1.0), 1.0, 0.4, 1, Fraction(5), 9)
def test_a_truncated_sample_never_leaks_more_than_its_curve(
    others: tuple[float, ...],
    value: float,
    rate: float,
    limit: int,
    noise_multiplier: Fraction,
    order: int,
) -> None:
    event = TruncatedPoissonEvent(parts(rate), limit, 4, GaussianEvent(noise_multiplier))
    samples = truncated(4, parts(rate) / RATE_UNIT, limit)
    spread = float(noise_multiplier)
    there = outputs((value, *others), samples, spread)
    zeroed = outputs((0.0, *others), samples, spread)
    bound = rdp(event, ZERO)[order - 2] * (1 + 1e-6) + 1e-9
    assert divergence(there, zeroed, order) <= bound
    assert divergence(zeroed, there, order) <= bound


def at_least(least: int, trials: int, rate: float) -> float:
    """Of what is more likely than not no more is claimed than that it may be certain."""
    if least <= trials * rate:
        return 1.0
    return math.fsum(
        math.comb(trials, k) * rate**k * (1 - rate) ** (trials - k)
        for k in range(least, trials + 1)
    )


@given(st.integers(1, 99), st.integers(1, 40), st.integers(1, 40), QUIET)
@example(40, 1, 3, Fraction(5))
@example(1, 1, 5, Fraction(2))
def test_a_truncated_sample_costs_a_whole_one_and_the_less_of_two_bounds_for_the_cut(
    percent: int, limit: int, more: int, noise_multiplier: Fraction
) -> None:
    """Neither bound may be left out or grow: a plan would ask for noise that nothing needs."""
    population, rate = limit + more, parts(percent / 100) / RATE_UNIT
    gaussian = GaussianEvent(noise_multiplier)
    near, above_one = rdp(gaussian, ZERO)[:10], np.arange(1, 11)
    whole = np.expm1(above_one * poisson(rate, rdp(gaussian, ZERO))[:10])
    joint = np.expm1(above_one * near) * limit / population * at_least(limit + 1, population, rate)
    share = rate * limit / (limit + 1)
    unbounded = np.full(255, np.inf)
    exchanged = fixed_size(share, unbounded, noise_multiplier=noise_multiplier)[:10]
    with np.errstate(over="ignore"):
        among_others = at_least(limit, population - 1, rate) * np.expm1(above_one * exchanged)
    expected = np.minimum(np.log1p(whole + np.minimum(joint, among_others)) / above_one, near)
    found = rdp(TruncatedPoissonEvent(parts(percent / 100), limit, population, gaussian), ZERO)
    assert found[:10] == pytest.approx(expected, rel=1e-6, abs=1e-12)


@given(VALUES, st.integers(1, 4), QUIET, st.sampled_from([2, 3, 5, 9]))
def test_a_sample_of_fixed_size_never_leaks_more_than_its_curve(
    others: tuple[float, ...], size: int, noise_multiplier: Fraction, order: int
) -> None:
    chosen = list(itertools.combinations(range(4), size))
    samples = dict.fromkeys(chosen, 1 / len(chosen))
    spread = float(noise_multiplier)
    one, other = (outputs((value, *others), samples, spread) for value in (1.0, -1.0))
    bound = rdp(FixedSizeEvent(size, 4, GaussianEvent(noise_multiplier)), REPLACE)[order - 2]
    assert divergence(one, other, order) <= bound * (1 + 1e-6) + 1e-9
    assert divergence(other, one, order) <= bound * (1 + 1e-6) + 1e-9
    if size == 4 and order <= 3:  # Beyond, the grid does not reach where the integral lies.
        assert divergence(one, other, order) >= bound * (1 - 1e-6)


def test_a_sample_that_is_never_cut_costs_what_a_poisson_sample_does() -> None:
    uncut = TruncatedPoissonEvent(parts(0.01), 500, 1000, GaussianEvent(Fraction(1)))
    difference = rdp(uncut, ZERO) - rdp(sampled(0.01, 1), ZERO)
    assert (np.abs(difference[:10]) < 1e-12).all()


@given(st.integers(1, 60), st.integers(1, RATE_UNIT - 1), st.integers(0, 61))
@example(5, RATE_UNIT // 10, 5)
@example(5, RATE_UNIT // 10, 6)
@example(5, RATE_UNIT // 2, 1)
@example(60, RATE_UNIT // 10, 7)
def test_a_tail_is_bounded_from_above_and_tightly(trials: int, rate: int, least: int) -> None:
    q = Fraction(rate, RATE_UNIT)
    exact = sum(
        math.comb(trials, k) * q**k * (1 - q) ** (trials - k) for k in range(least, trials + 1)
    )
    bound = _log_tail(trials, rate / RATE_UNIT, least)
    if least > trials:
        assert bound == -math.inf
    else:
        with mpmath.workdps(30):
            log = mpmath.log(exact.numerator) - mpmath.log(exact.denominator)
        assert log <= bound <= 0
        assert least <= trials * q or bound <= log + 1e-9


def test_a_tail_among_a_thousand_million_is_bounded_too() -> None:
    deviations = 10**6 / math.sqrt(10**9 / 4)
    normal = -(deviations**2) / 2 - math.log(deviations * math.sqrt(2 * math.pi))
    assert _log_tail(10**9, 0.5, 10**9 // 2 + 10**6) == pytest.approx(normal, abs=0.01)


@pytest.mark.parametrize("spread", [Fraction(1, 2), Fraction(7, 3), Fraction(100), Fraction(10**9)])
def test_central_moments_survive_their_cancellation(spread: Fraction) -> None:
    found = _log_central_moments(spread)
    with mpmath.workdps(1500):
        step = mpmath.mpf(spread.denominator**2) / spread.numerator**2
        for j in (2, 4, 10, 64):
            exact = mpmath.fsum(
                (-1) ** (j - k) * mpmath.binomial(j, k) * mpmath.exp(k * (k - 1) / 2 * step)
                for k in range(j + 1)
            )
            exact_log = float(mpmath.log(exact))
            assert found[j // 2] >= exact_log - 1e-12 * abs(exact_log)
            # What 300 digits cannot tell is rounded up to their last ones.
            assert found[j // 2] <= max(exact_log * (1 - 1e-12) + 1e-9, -200 * math.log(10)) or (
                found[j // 2] <= exact_log + 1e-9
            )
