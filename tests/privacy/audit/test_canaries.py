"""Canaries recover the epsilon of a mechanism that is known, with an error they know themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, strategies as st

from fedcore.errors import ArgumentError, ShapeError
from fedcore.privacy.audit import Canaries, CanaryFit, Outcome, canary_fit
from fedcore.privacy.audit.canaries import _mills, gaussian_delta, gaussian_epsilon

DELTA = 1e-5
# Analytic noise multipliers of the Gaussian mechanism at delta 1e-5; checked below.
NOISE = {1.0: 3.7306316, 2.0: 1.9938125, 4.0: 1.0811620, 8.0: 0.6002291}


def simulated(noise: float, seed: int, *, epsilon: float, count: int = 1000) -> CanaryFit:
    """Scores as orthogonal canaries have them: their own length, and noise."""
    random = np.random.default_rng(seed)
    inside, outside = noise * random.normal(size=(2, count))
    return canary_fit(1 + inside, outside, epsilon=epsilon, delta=DELTA)


def released(canaries: Canaries, noise: float, seed: int) -> np.ndarray:
    total = noise * np.random.default_rng(seed).normal(size=canaries.dimension)
    for index in range(canaries.count):
        total += canaries.update(index)
    return total


@pytest.mark.parametrize(("epsilon", "noise"), NOISE.items())
def test_epsilon_of_mu_is_the_analytic_gaussians(epsilon: float, noise: float) -> None:
    assert gaussian_epsilon(1 / noise, DELTA) == pytest.approx(epsilon, rel=1e-5)


@given(st.floats(1e-3, 60), st.floats(1e-12, 0.1))
def test_epsilon_of_mu_is_dp_accountings(mu: float, delta: float) -> None:
    accounting = pytest.importorskip("dp_accounting")
    expected = accounting.get_epsilon_gaussian(1 / mu, delta)
    assert gaussian_epsilon(mu, delta) == pytest.approx(expected, rel=1e-5, abs=1e-9)


@given(st.floats(0, 50), st.floats(1e-3, 20))
def test_delta_of_mu_falls_with_epsilon_and_rises_with_mu(epsilon: float, mu: float) -> None:
    delta = gaussian_delta(epsilon, mu)
    assert 0 <= delta <= 1
    assert gaussian_delta(epsilon + 0.1, mu) <= delta <= gaussian_delta(epsilon, mu * 1.1) + 1e-15


# The second figure is the spread that the design found in its own trials.
@pytest.mark.parametrize(
    ("epsilon", "tolerance"), [(1.0, 0.28), (2.0, 0.27), (4.0, 0.26), (8.0, 0.51)]
)
def test_a_thousand_canaries_find_the_true_epsilon(epsilon: float, tolerance: float) -> None:
    found = [simulated(NOISE[epsilon], seed, epsilon=epsilon) for seed in range(100)]
    estimates = np.array([f.epsilon_estimate for f in found])
    assert estimates.mean() == pytest.approx(epsilon, abs=tolerance / 4)
    assert estimates.std() < tolerance
    # The error that a finding states is the one that estimates have: 100 of them tell to 7 %.
    stated = np.mean([f.epsilon_error for f in found])
    assert stated == pytest.approx(estimates.std(), rel=0.25)
    assert sum(f.verdict.failed for f in found) <= 5


@pytest.mark.parametrize("epsilon", NOISE)
def test_half_of_the_noise_is_noticed(epsilon: float) -> None:
    found = [simulated(NOISE[epsilon] / 2, seed, epsilon=epsilon) for seed in range(20)]
    assert all(f.verdict.failed for f in found)


@pytest.mark.slow
def test_real_vectors_in_one_release_show_the_noise_they_got() -> None:
    # 200 canaries in 20,000 coordinates: each hides the others by a deviation of 0.1 only.
    canaries = Canaries(count=200, dimension=20_000, clipping_norm=3.0, seed=1)
    others = Canaries(count=2000, dimension=20_000, clipping_norm=3.0, seed=2)
    total = released(canaries, 3.0 * NOISE[8.0], seed=3)
    found = canary_fit(canaries.scores(total), others.scores(total), epsilon=8, delta=DELTA)
    assert found.verdict.passed
    assert abs(found.epsilon_estimate - 8) < 3 * found.epsilon_error
    bare = released(canaries, 0.0, seed=3)
    found = canary_fit(canaries.scores(bare), others.scores(bare), epsilon=8, delta=DELTA)
    assert found.verdict.failed and found.epsilon_lower > 50


def test_a_canary_is_made_again_and_has_the_length_of_a_clipped_update() -> None:
    canaries = Canaries(count=2, dimension=1000, clipping_norm=0.3, seed=4)
    first, second = canaries.update(0), canaries.update(1)
    assert np.array_equal(first, canaries.update(0))
    assert np.linalg.norm(first) == pytest.approx(0.3, rel=1e-12)
    assert abs(first @ second) < 0.3**2 * 0.2


@given(st.integers(2, 60), st.integers(2, 60), st.floats(0.1, 10), st.integers(0, 2**32))
def test_mu_is_the_shift_over_the_deviation_of_both_together(
    m: int, k: int, wider: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    inside, outside = 1 + wider * random.normal(size=m), random.normal(size=k)
    squares = sum(((scores - scores.mean()) ** 2).sum() for scores in (inside, outside))
    mu = (inside.mean() - outside.mean()) / math.sqrt(squares / (m + k - 2))
    assert canary_fit(inside, outside, epsilon=1, delta=DELTA).mu == pytest.approx(mu, rel=1e-9)


@given(st.floats(0.01, 1e6))
@example(29.99)
@example(30.0)
def test_mills_ratio_is_the_scaled_complementary_error_function(x: float) -> None:
    special = pytest.importorskip("scipy.special")
    expected = math.sqrt(math.pi / 2) * special.erfcx(x / math.sqrt(2))
    assert _mills(x) == pytest.approx(expected, rel=1e-9)


def test_too_few_canaries_say_so() -> None:
    found = simulated(NOISE[1.0], 0, epsilon=1.0, count=20)
    assert found.verdict.outcome is Outcome.INCONCLUSIVE
    assert "take more canaries" in found.verdict.reason


def test_canaries_of_another_spread_than_others_are_not_summed_up_in_one_shift() -> None:
    random = np.random.default_rng(5)
    found = canary_fit(
        1 + 8 * random.normal(size=1000), 4 * random.normal(size=1000), epsilon=1, delta=DELTA
    )
    assert found.verdict.outcome is Outcome.INCONCLUSIVE and "spread" in found.verdict.reason


@pytest.mark.parametrize("scale", [2.0**-1000, 2.0**1020])
def test_the_unit_of_the_scores_does_not_matter(scale: float) -> None:
    random = np.random.default_rng(6)
    inside, outside = random.normal(size=(2, 300))
    found = canary_fit(1 + inside, outside, epsilon=5, delta=DELTA)
    again = canary_fit((1 + inside) * scale, outside * scale, epsilon=5, delta=DELTA)
    assert again == found


def test_a_release_without_noise_fails_whatever_is_claimed() -> None:
    found = canary_fit(np.full(1000, 1.0), np.zeros(1000), epsilon=100, delta=DELTA)
    assert found.verdict.failed and found.epsilon_estimate == np.inf
    assert found.as_dict()["epsilon_estimate"] == "inf"


def test_what_makes_no_canaries_is_refused() -> None:
    with pytest.raises(ArgumentError):
        Canaries(count=0, dimension=5, clipping_norm=1, seed=0)
    with pytest.raises(ArgumentError):
        Canaries(count=1, dimension=5, clipping_norm=float("nan"), seed=0)
    with pytest.raises(ShapeError):
        Canaries(count=1, dimension=5, clipping_norm=1, seed=0).scores(np.zeros(6))
    with pytest.raises(ArgumentError):
        canary_fit(np.array([1.0, np.nan]), np.zeros(2), epsilon=1, delta=DELTA)
    with pytest.raises(ArgumentError):
        canary_fit(np.ones(2), np.zeros(2), epsilon=1, delta=0)
