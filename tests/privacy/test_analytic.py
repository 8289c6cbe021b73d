"""One Gaussian mechanism against its definition, and against dp-accounting."""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath
import pytest
from hypothesis import example, given, strategies as st

from fedcore.errors import ArgumentError
from fedcore.privacy.analytic import (
    _mills,
    analytic_gaussian_epsilon,
    analytic_noise_multiplier,
)

DELTAS = st.floats(-30, -0.5).map(lambda exponent: 10**exponent)


def exact_delta(noise_multiplier: float, epsilon: float) -> mpmath.mpf:
    """Balle and Wang 2018, equation 6."""
    with mpmath.workdps(60):
        z, e = mpmath.mpf(noise_multiplier), mpmath.mpf(epsilon)
        half = 1 / (2 * z)
        return mpmath.ncdf(half - e * z) - mpmath.exp(e) * mpmath.ncdf(-half - e * z)


@given(st.floats(-2, 3).map(lambda exponent: 10**exponent), DELTAS)
@example(1.0, 1e-5)
@example(0.01, 1e-300)
@example(1e6, 1e-9)
def test_epsilon_covers_delta_and_no_less_would(noise_multiplier: float, delta: float) -> None:
    found = analytic_gaussian_epsilon(noise_multiplier, delta)
    assert exact_delta(noise_multiplier, found) <= delta
    if found:
        assert exact_delta(noise_multiplier, found * (1 - 1e-6)) > delta


@given(st.floats(0.001, 100), DELTAS)
def test_noise_covers_epsilon_and_no_less_would(epsilon: float, delta: float) -> None:
    found = analytic_noise_multiplier(epsilon, delta)
    assert exact_delta(found, epsilon) <= delta
    assert exact_delta(found * (1 - 1e-6), epsilon) > delta


@given(st.floats(0, 1e6))
@example(24.99)
@example(25.0)
@example(26.0)
def test_mills_ratio_is_the_tail_over_the_density(x: float) -> None:
    with mpmath.workdps(60):
        exact = mpmath.ncdf(-mpmath.mpf(x)) / mpmath.npdf(mpmath.mpf(x)) if x < 1e3 else None
    if exact is None:  # Of the asymptotic series so far out no term but the first two is seen.
        assert _mills(x) == pytest.approx((1 - 1 / x**2) / x, rel=1e-11)
    else:
        assert abs(_mills(x) / exact - 1) < 1e-13


@pytest.mark.parametrize(
    ("noise_multiplier", "expected"), [(1, 4.3771781), (Fraction(1, 2), 9.997256)]
)
def test_golden_epsilons(noise_multiplier: float, expected: float) -> None:
    found = analytic_gaussian_epsilon(noise_multiplier, 1e-5)
    assert found == pytest.approx(expected, rel=1e-7)


def test_golden_noise() -> None:
    assert analytic_noise_multiplier(1, 1e-5) == pytest.approx(3.7306316, rel=1e-8)


def test_it_agrees_with_dp_accounting() -> None:
    reference = pytest.importorskip("dp_accounting", reason="the extra 'dp' is not installed")
    for epsilon, delta in [(0.1, 1e-6), (1, 1e-5), (8, 1e-10), (30, 1e-3)]:
        noise = reference.get_sigma_gaussian(epsilon, delta)
        assert analytic_noise_multiplier(epsilon, delta) == pytest.approx(noise, rel=1e-8)
        assert analytic_gaussian_epsilon(noise, delta) == pytest.approx(epsilon, rel=1e-8)


def test_the_classic_formula_errs_on_both_sides() -> None:
    """Asked for 10 it gives 10.39; asked for 1 it takes 4.845 where 3.731 are enough."""
    classic = math.sqrt(2 * math.log(1.25 / 1e-5))
    assert analytic_gaussian_epsilon(classic / 10, 1e-5) == pytest.approx(10.39, abs=0.01)
    assert classic == pytest.approx(4.845, abs=0.001)


def test_the_ends_of_the_range() -> None:
    assert analytic_gaussian_epsilon(Fraction(1, 10**200), 1e-5) == math.inf
    assert analytic_gaussian_epsilon(Fraction(10**400), 1e-5) == 0
    assert analytic_gaussian_epsilon(1e-50, 1e-5) > 1e98
    for noise in (0, -1, math.nan):
        with pytest.raises(ArgumentError):
            analytic_gaussian_epsilon(noise, 1e-5)
    for epsilon in (-1, math.inf, math.nan):
        with pytest.raises(ArgumentError):
            analytic_noise_multiplier(epsilon, 1e-5)
    with pytest.raises(ArgumentError):
        analytic_gaussian_epsilon(1, 0)
