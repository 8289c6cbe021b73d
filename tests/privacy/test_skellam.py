"""Skellam shares against Bessel functions of another library, and against their own law."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from itertools import pairwise

import mpmath
import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy import stats

from fedcore.entropy import SeededEntropy
from fedcore.errors import ArgumentError
from fedcore.privacy.csprng import Stream
from fedcore.privacy.skellam import (
    LARGEST_VARIANCE,
    SMALLEST_VARIANCE,
    _table,
    skellam,
    skellam_cells,
)
from tests.variants import mostly_slow

VARIANCES = [
    Fraction(1, 4),
    Fraction(1),
    Fraction(22, 7),
    Fraction(144),
    Fraction(10_001, 3),
    Fraction(10**6),
]


def stream(seed: bytes = b"") -> Stream:
    return Stream(SeededEntropy(seed))


@cache
def masses(variance: Fraction) -> tuple[int, np.ndarray]:
    """The first integer, and the probability of each from there on."""
    first, sums = skellam_cells(variance)
    return first, np.array([(b - a) / 2**192 for a, b in pairwise((0, *sums))])


def goodness(drawn: np.ndarray, first: int, probabilities: np.ndarray) -> float:
    """The p-value of a chi-square test, cells of fewer than 20 expected draws put together."""
    counts = np.bincount(drawn - first, minlength=probabilities.size)
    group = np.minimum(np.cumsum(probabilities) * drawn.size // 20, drawn.size // 20 - 1)
    expected = np.bincount(group.astype(int), weights=probabilities) * drawn.size
    observed = np.bincount(group.astype(int), weights=counts)
    used = expected > 5
    rest = expected[~used].sum(), observed[~used].sum()
    expected, observed = expected[used], observed[used]
    expected[-1] += rest[0]
    observed[-1] += rest[1]
    statistic = ((observed - expected) ** 2 / expected).sum()
    return float(stats.chi2.sf(statistic, expected.size - 1))


def probability(k: int, variance: Fraction, points: int) -> mpmath.mpf:
    """The k-th Fourier coefficient of exp(mu (cos t - 1)), by the trapezoidal rule.

    Of a periodic analytic function it is exact but for the coefficients beyond `points` - k.
    """
    mu = mpmath.mpf(variance.numerator) / variance.denominator
    total, j, height = mpmath.mpf(0), 0, mpmath.mpf(1)
    while j <= points // 2 and height > mpmath.mpf(2) ** -300:
        angle = 2 * mpmath.pi * j / points
        height = mpmath.exp(mu * (mpmath.cos(angle) - 1))
        total += height * mpmath.cos(k * angle) * (1 if j in (0, points // 2) else 2)
        j += 1
    return total / points


def test_the_trapezoidal_rule_agrees_with_the_bessel_function() -> None:
    with mpmath.workprec(400):
        exact = mpmath.besseli(5, 144) * mpmath.exp(-144)
        assert abs(probability(5, Fraction(144), 2048) - exact) < mpmath.mpf(2) ** -280


@pytest.mark.parametrize("variance", mostly_slow(VARIANCES, quick=3))
def test_masses_are_exact_to_the_last_bit(variance: Fraction) -> None:
    first, sums = skellam_cells(variance)
    middle, reach = -first, -first
    assert len(sums) == 2 * reach + 1
    assert sums[-1] == 2**192
    with mpmath.workprec(400):
        for k in sorted({0, 1, reach // 40, reach // 9, reach // 2, reach}):
            exact = probability(k, variance, 4 * reach) * 2**192
            for place in {middle + k, middle - k}:
                mass = sums[place] - (sums[place - 1] if place else 0)
                assert abs(mass - exact) < 1.001  # both ends are rounded down


@pytest.mark.parametrize("variance", VARIANCES[:5])
def test_the_law_is_that_of_a_difference_of_poisson_variables(variance: Fraction) -> None:
    first, probabilities = masses(variance)
    k = np.arange(-first, -first + 60)
    mean = float(variance) / 2
    counts = np.arange(0, int(mean + 40 * np.sqrt(mean) + 100))
    poisson = stats.poisson.pmf(counts, mean)
    difference = np.convolve(poisson, poisson[::-1])[counts.size - 1 :]
    np.testing.assert_allclose(probabilities[k], difference[:60], rtol=1e-9, atol=1e-15)


@given(st.fractions(Fraction(1, 4), 300, max_denominator=50), st.integers(1, 9))
def test_shares_add_up_to_the_law_of_the_summed_variance(share: Fraction, count: int) -> None:
    first, one = masses(share)
    total, start = one, first
    for _ in range(count - 1):
        total, start = np.convolve(total, one), start + first
    whole_first, whole = masses(share * count)
    inside = total[whole_first - start :][: whole.size] if whole_first >= start else None
    assert inside is not None
    np.testing.assert_allclose(inside, whole, atol=1e-13)


@given(st.fractions(Fraction(1, 4), 2000, max_denominator=99))
def test_the_variance_is_the_declared_one(variance: Fraction) -> None:
    first, sums = skellam_cells(variance)
    weights = [b - a for a, b in pairwise((0, *sums))]
    moment = sum(weight * (first + i) ** 2 for i, weight in enumerate(weights))
    assert abs(Fraction(moment, 2**192) - variance) < Fraction(1, 2**150)


@given(st.fractions(Fraction(1, 4), 2000, max_denominator=99))
def test_masses_mirror_fall_outwards_and_end_in_nothing(variance: Fraction) -> None:
    _, sums = skellam_cells(variance)
    weights = [b - a for a, b in pairwise((0, *sums))]
    side = weights[len(weights) // 2 :]
    # Boundaries are rounded down, so that two equal masses may differ by one unit.
    assert all(abs(a - b) <= 1 for a, b in zip(weights, weights[::-1], strict=True))
    assert all(b <= a + 1 for a, b in pairwise(side))
    assert side[-1] <= 1


@pytest.mark.parametrize("variance", VARIANCES)
def test_draws_fit_the_law(variance: Fraction) -> None:
    drawn = skellam(variance, 300_000, stream=stream(str(variance).encode()))
    assert goodness(drawn, *masses(variance)) > 1e-6
    assert abs(drawn.mean()) < 5 * (float(variance) / drawn.size) ** 0.5
    assert (drawn % 2 == 0).mean() == pytest.approx(even(variance), abs=5e-3)


def even(variance: Fraction) -> float:
    first, probabilities = masses(variance)
    return float(probabilities[first % 2 :: 2].sum())


@pytest.mark.parametrize("guide_bits", [4, 8])
@pytest.mark.parametrize("variance", VARIANCES[1:5])
def test_draws_fit_the_law_where_slow_paths_are_forced(variance: Fraction, guide_bits: int) -> None:
    drawn = np.zeros(100_000, np.int64)
    table = _table(variance, guide_bits)
    table.add(drawn, stream=stream(bytes([guide_bits])))
    assert goodness(drawn, *masses(variance)) > 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("deviation", [1, 12, 500, 8192])
def test_fresh_draws_fit_the_law(deviation: int) -> None:
    variance = Fraction(deviation**2)
    drawn = skellam(variance, 10**7, stream=Stream())
    assert goodness(drawn, *masses(variance)) > 1e-6


def test_sums_of_shares_fit_the_law_of_the_sum() -> None:
    share, clients = Fraction(700, 9), 30
    source = stream()
    total = sum(skellam(share, 100_000, stream=source) for _ in range(clients))
    assert isinstance(total, np.ndarray)
    assert goodness(total, *masses(share * clients)) > 1e-6


def test_the_test_itself_sees_a_wrong_variance_and_a_gaussian() -> None:
    drawn = skellam(Fraction(9), 300_000, stream=stream())
    assert goodness(drawn, *masses(Fraction(9) * Fraction(102, 100))) < 1e-6
    rounded = np.rint(np.random.default_rng(1).normal(0, 3, 300_000)).astype(np.int64)
    assert goodness(rounded, *masses(Fraction(9))) < 1e-6


def test_the_same_seed_gives_the_same_draws_and_another_call_others() -> None:
    source = stream(b"a")
    one, two = (skellam(Fraction(50), 100, stream=source) for _ in range(2))
    assert (skellam(Fraction(50), 100, stream=stream(b"a")) == one).all()
    assert (one != two).any()


@pytest.mark.parametrize("variance", [SMALLEST_VARIANCE, LARGEST_VARIANCE])
def test_the_ends_of_the_range_are_drawn(variance: Fraction) -> None:
    drawn = skellam(variance, 20_000, stream=stream())
    assert drawn.var() == pytest.approx(float(variance), rel=0.1)


@pytest.mark.parametrize(
    ("variance", "size"),
    [
        (Fraction(1, 5), 1),
        (LARGEST_VARIANCE + 1, 1),
        (Fraction(-1), 1),
        (1.5, 1),
        (True, 1),
        (Fraction(10**400), 1),
        (Fraction(1), -1),
        (Fraction(1), 1.0),
    ],
)
def test_what_cannot_be_drawn_is_refused(variance: object, size: object) -> None:
    with pytest.raises(ArgumentError):
        skellam(variance, size, stream=stream())  # type: ignore[arg-type]


def test_no_draws_are_an_empty_vector() -> None:
    assert skellam(Fraction(1), 0, stream=stream()).shape == (0,)
