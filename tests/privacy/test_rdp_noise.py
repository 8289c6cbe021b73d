"""Curves of noise against brute force: its probabilities, added up, never find more."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, example, given, strategies as st
from numpy.typing import NDArray

from fedcore.privacy.events import (
    RATE_UNIT,
    GaussianEvent,
    PoissonEvent,
    SharesEvent,
    SkellamEvent,
)
from fedcore.privacy.rdp import _tau, epsilon, rdp
from tests.privacy.curves import ADD, log_sum, parts

# Noise in one dimension, as logarithms of probabilities on -reach … reach.


def convolved(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    reach = len(first) // 2
    wide = np.full(3 * reach + reach + 1, -np.inf)
    wide[reach : 3 * reach + 1] = second
    return np.array(
        [log_sum(first + wide[i : i + 2 * reach + 1][::-1]) for i in range(2 * reach + 1)]
    )


def gaussian_shares(shares: int, variance: Fraction, reach: int) -> NDArray[np.float64]:
    x = np.arange(-reach, reach + 1)
    one = -(x**2) / (2 * float(variance))
    one -= log_sum(one)
    total = one
    for _ in range(shares - 1):
        total = convolved(total, one)
    return total


def skellam(variance: Fraction, reach: int) -> NDArray[np.float64]:
    half, j = float(variance) / 2, np.arange(400)
    factorials = np.array([math.lgamma(n + 1) for n in range(400 + reach)])
    logs = [
        log_sum((2 * j + k) * math.log(half) - factorials[j] - factorials[j + k])
        for k in range(reach + 1)
    ]
    tail = np.array(logs) - 2 * half
    return np.concatenate([tail[:0:-1], tail])


def divergences(
    noise: NDArray[np.float64], apart: int, rate: float, order: int
) -> tuple[float, float]:
    """Both Rényi divergences between the noise and its mixture with itself, moved by `apart`."""
    moved = np.concatenate([np.full(apart, -np.inf), noise])
    still = np.concatenate([noise, np.full(apart, -np.inf)])
    # Where one of the two was cut off, leave the point out: this only lessens the sums.
    keep = np.isfinite(moved) & np.isfinite(still)
    moved, still = moved[keep], still[keep]
    mixed = moved if rate == 1 else np.logaddexp(math.log1p(-rate) + still, math.log(rate) + moved)
    there = log_sum(order * mixed + (1 - order) * still)
    back = log_sum(order * still + (1 - order) * mixed)
    return there / (order - 1), back / (order - 1)


@given(
    st.integers(1, 4),
    st.fractions(Fraction(1, 4), 4, max_denominator=20),
    st.integers(1, 3),
    st.sampled_from([1e-3, 0.01, 0.1, 0.3, 0.7, 0.95, 1.0]),
    st.sampled_from([2, 3, 4, 7, 12]),
)
@example(3, Fraction(9), 3, 0.01, 7)
def test_shares_never_leak_more_than_their_curve(
    shares: int, variance: Fraction, apart: int, rate: float, order: int
) -> None:
    spread = math.sqrt(shares * variance)
    noise = gaussian_shares(shares, variance, reach=math.ceil(order * apart + 14 * spread))
    event = SharesEvent(shares, variance, Fraction(apart**2), dimension=1)
    curve = rdp(PoissonEvent(parts(rate), event), ADD)
    there, back = divergences(noise, apart, parts(rate) / RATE_UNIT, order)
    bound = curve[order - 2]
    assert back <= there * (1 + 1e-9) + 1e-12
    assert there <= bound * (1 + 1e-9) + 1e-12
    if shares == 1 or variance >= 4:
        assert there >= bound * 0.98 - 1e-12


@given(
    st.fractions(Fraction(1, 2), 12, max_denominator=20),
    st.integers(1, 3),
    st.sampled_from([1e-3, 0.01, 0.1, 0.3, 0.7, 0.95, 1.0]),
    st.sampled_from([2, 3, 4, 7, 12]),
)
@example(Fraction(60), 2, 0.05, 4)
def test_skellam_noise_never_leaks_more_than_its_curve(
    variance: Fraction, apart: int, rate: float, order: int
) -> None:
    noise = skellam(variance, reach=math.ceil(order * apart + 14 * math.sqrt(variance)) + 20)
    event = SkellamEvent(variance, squared_sensitivity=Fraction(apart**2), dimension=1)
    there, back = divergences(noise, apart, parts(rate) / RATE_UNIT, order)
    bound = rdp(PoissonEvent(parts(rate), event), ADD)[order - 2]
    assert back <= there * (1 + 1e-9) + 1e-12
    assert there <= bound * (1 + 1e-9) + 1e-12
    if variance >= 50:
        assert there >= bound * 0.9


@given(st.fractions(1, 10**9), st.integers(1, 10**6), st.integers(1, 10**4), st.integers(2, 256))
def test_the_curve_of_skellam_noise_is_the_papers(
    variance: Fraction, squared: int, dimension: int, order: int
) -> None:
    """Agarwal et al. 2021, theorem 3.5, at the largest L1 norm that this L2 norm allows."""
    assume(1000 * variance >= squared)
    event = SkellamEvent(variance, Fraction(squared), dimension)
    manhattan = min(math.sqrt(dimension * squared), squared)
    fine = ((2 * order - 1) * squared + 6 * manhattan) / (4 * variance**2)
    coarse = 3 * manhattan / (2 * variance)
    expected = order * squared / (2 * variance) + min(fine, coarse)
    found = rdp(event, ADD)[order - 2]
    assert float(expected) * (1 - 1e-13) <= found <= float(expected) * (1 + 1e-10)


def test_the_widest_gap_of_shares_is_counted() -> None:
    event = SharesEvent(2**40, Fraction(1, 4), Fraction(1), 2**40)
    assert math.isfinite(rdp(event, ADD)[0])
    assert epsilon(rdp(event, ADD), 1e-5)[0] > 1e20


def test_shares_with_fine_steps_cost_what_a_gaussian_does() -> None:
    steps, shares, dimension = 2**20, 60, 10**6
    event = SharesEvent(shares, Fraction(steps**2, shares), Fraction(steps**2), dimension)
    np.testing.assert_allclose(rdp(event, ADD), rdp(GaussianEvent(Fraction(1)), ADD), rtol=1e-9)


@pytest.mark.parametrize(
    ("deviation", "expected"), [(0.5, 75), (1, 5.7e-4), (1.5, 2.3e-9), (2, 7e-17), (3, 2.7e-38)]
)
def test_the_gap_of_summed_shares_is_the_published_one(deviation: float, expected: float) -> None:
    assert _tau(1000, Fraction(deviation) ** 2) == pytest.approx(expected, rel=0.05)


def test_the_gap_covers_more_shares_than_are_added_up_one_by_one() -> None:
    k = np.arange(1, 2**20)
    exact = 10 * float(np.exp(-2 * math.pi**2 * k / (k + 1)).sum())
    assert exact <= _tau(2**20, Fraction(1)) <= 1.001 * exact
