"""The tails against SciPy's, down to where doubles end."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fedcore.privacy.audit.tails import (
    binomial_probabilities,
    chi_square_tail,
    clopper_pearson_lower,
    clopper_pearson_upper,
    normal_tail,
)

stats = pytest.importorskip("scipy.stats")


@given(st.floats(-8, 37))
def test_the_normal_tail_is_scipys(x: float) -> None:
    assert normal_tail(x) == pytest.approx(stats.norm.sf(x), rel=1e-12)


@given(st.integers(1, 20_000), st.floats(1e-3, 1 - 1e-3))
def test_binomial_probabilities_are_scipys_and_add_up(trials: int, chance: float) -> None:
    found = binomial_probabilities(trials, chance)
    expected = stats.binom.pmf(np.arange(trials + 1), trials, chance)
    # SciPy's own are good to 1e-9 at 20,000 trials; ours add up to 1e-9.
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-290)
    assert found.sum() == pytest.approx(1, abs=1e-9)


@given(st.floats(1e-3, 3000), st.integers(1, 2000))
def test_the_chi_square_tail_is_scipys(statistic: float, degrees: int) -> None:
    expected = stats.chi2.sf(statistic, degrees)
    assert chi_square_tail(statistic, degrees) == pytest.approx(expected, rel=1e-8, abs=1e-14)


def test_a_chi_square_far_out_keeps_its_digits() -> None:
    assert chi_square_tail(900, 20) == pytest.approx(stats.chi2.sf(900, 20), rel=1e-10)
    assert chi_square_tail(0, 3) == 1


@pytest.mark.parametrize("trials", [1, 2, 7, 100, 3000])
@pytest.mark.parametrize("confidence", [0.6, 0.95, 0.99, 1 - 1e-7])
def test_clopper_pearson_is_the_quantile_of_a_beta_rounded_outward(
    trials: int, confidence: float
) -> None:
    counts = np.arange(trials + 1)
    lower = clopper_pearson_lower(counts, trials, confidence=confidence)
    upper = clopper_pearson_upper(counts, trials, confidence=confidence)
    inner = counts[1:]
    expected = stats.beta.ppf(1 - confidence, inner, trials - inner + 1)
    np.testing.assert_allclose(lower[1:], expected, rtol=1e-9)
    assert (lower[1:] <= expected).all()
    # By symmetry, from the other end.
    np.testing.assert_allclose((1 - upper)[:-1], expected[::-1], rtol=1e-9, atol=1e-15)
    assert lower[0] == 0 and upper[-1] == 1


def test_clopper_pearson_keeps_the_order_in_which_it_was_asked() -> None:
    counts = np.array([5, 0, 5, 9])
    lower = clopper_pearson_lower(counts, 10, confidence=0.9)
    upper = clopper_pearson_upper(counts, 10, confidence=0.9)
    assert lower[0] == lower[2] and upper[0] == upper[2]
    assert lower[1] < lower[0] < lower[3]
