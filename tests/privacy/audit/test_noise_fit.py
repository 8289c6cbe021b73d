"""The fit lets sound noise pass, and names each way in which noise is known to be unsound."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, strategies as st

from fedcore.entropy import SeededEntropy
from fedcore.errors import ArgumentError, DtypeError, ShapeError
from fedcore.privacy import Stream
from fedcore.privacy.audit import NoiseFit, Outcome, noise_fit
from fedcore.privacy.audit.noise_fit import Kind, _moments, _table, _tail
from fedcore.privacy.audit.windows import repeated_windows
from fedcore.privacy.sampler import discrete_gaussian, rounded_gaussian
from tests.variants import mostly_slow

Integers = npt.NDArray[np.int64]
SIGMAS = [0.5, 1.0, 3.0, 20.0, 64.0, 65.0, 1000.0, 2.0**20, 1e9]


def rounded(sigma: float, size: int | tuple[int, int], seed: int) -> Integers:
    """Doubles serve here: their error is far below what any sample shows."""
    return np.rint(np.random.default_rng(seed).normal(scale=sigma, size=size)).astype(np.int64)


def discrete(sigma: float, size: int, seed: int) -> Integers:
    reach = math.ceil(10 * sigma)
    k = np.arange(-reach, reach + 1)
    p = np.exp(-(k**2) / (2 * sigma**2))
    return np.random.default_rng(seed).choice(k, size=size, p=p / p.sum())


def fitted(samples: Integers, sigma: float, kind: Kind = "rounded") -> NoiseFit:
    return noise_fit(samples, Fraction(sigma) ** 2, kind=kind)


@pytest.mark.parametrize("sigma", mostly_slow(SIGMAS, quick=4))
def test_sound_rounded_noise_passes(sigma: float) -> None:
    found = fitted(rounded(sigma, (3, 100_000), seed=1), sigma)
    assert found.verdict.passed, found
    assert found.samples == 300_000 and found.rounds == 3
    json.dumps(found.as_dict(), allow_nan=False)


@pytest.mark.parametrize("sigma", [0.5, 0.8, 2.0, 20.0, 70.0, 300.0])
def test_sound_discrete_noise_passes(sigma: float) -> None:
    assert fitted(discrete(sigma, 300_000, seed=2), sigma, "discrete").verdict.passed


@pytest.mark.parametrize("sigma2", [Fraction(1, 4), Fraction(7, 3), 10**4, 2**40, 10**18])
def test_the_noise_of_this_package_passes(sigma2: Fraction | int) -> None:
    stream = Stream(SeededEntropy(b"fit"))
    for draw, kind in ((rounded_gaussian, "rounded"), (discrete_gaussian, "discrete")):
        rounds = np.stack([draw(Fraction(sigma2), 100_000, stream=stream) for _ in range(2)])
        found = noise_fit(rounds, Fraction(sigma2), kind=kind)
        assert found.verdict.passed, found


@pytest.mark.parametrize("kind", ["rounded", "discrete"])
@pytest.mark.parametrize("sigma", [0.5, 3.0, 20.0, 64.0])
def test_the_law_that_is_fitted_has_all_the_mass(kind: Kind, sigma: float) -> None:
    assert _table(sigma, kind)[1].sum() == pytest.approx(1, abs=1e-14)


@given(
    st.sampled_from(["rounded", "discrete"]),
    st.sampled_from([0.5, 3.0, 64.0, 64.5, 300.0]),
    st.floats(-5, 5),
)
@example("rounded", 64.5, 1.0)
@example("discrete", 64.5, 1.0)
def test_what_lies_above_an_edge_is_what_the_law_says(
    kind: Kind, sigma: float, deviations: float
) -> None:
    edge = round(deviations * sigma)
    if kind == "rounded":
        exact = 0.5 * math.erfc((edge - 0.5) / sigma / math.sqrt(2))
    else:
        k = np.arange(-math.ceil(12 * sigma), math.ceil(12 * sigma) + 1)
        p = np.exp(-(k**2) / (2 * sigma**2))
        exact = float(p[k >= edge].sum() / p.sum())
    a_cell = 0 if kind == "rounded" else 1e-8 / 256  # of which there are so many
    assert _tail(edge, sigma, kind) == pytest.approx(exact, rel=1e-12, abs=a_cell)


@pytest.mark.parametrize("kind", ["rounded", "discrete"])
@pytest.mark.parametrize("sigma", [3.0, 64.0, 64.5, 90.0])
def test_moments_are_those_of_the_law_on_both_sides_of_the_largest_table(
    kind: Kind, sigma: float
) -> None:
    integers, chances = _table(sigma, kind)
    summed = (chances * integers**2).sum(), (chances * integers**4).sum()
    assert _moments(sigma, kind) == pytest.approx(summed, rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rounded", "discrete"])
@pytest.mark.parametrize("sigma", [0.5, 3.0, 20.0])
def test_the_law_that_is_fitted_has_that_variance(kind: Kind, sigma: float) -> None:
    integers, chances = _table(sigma, kind)
    drawn = {"rounded": rounded, "discrete": discrete}[kind](sigma, 400_000, 5)
    assert (chances * integers**2).sum() == pytest.approx(drawn.var(), rel=0.02)


def test_the_p_values_of_sound_noise_are_uniform() -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    found = [fitted(rounded(6.0, 20_000, seed), 6.0) for seed in range(200)]
    for values in ([f.cells_p_value for f in found], [f.low_bits_p_value for f in found]):
        assert scipy_stats.kstest(values, "uniform").pvalue > 1e-3


@pytest.mark.slow
def test_the_deviations_of_sound_noise_have_unit_variance() -> None:
    found = [fitted(rounded(0.5, 20_000, seed), 0.5) for seed in range(200)]
    ratios = [4 * (f.variance_ratio - 1) / f.variance_tolerance for f in found]
    means = [f.mean_deviations for f in found]
    # The standard error of a deviation from 200 values is 0.05.
    assert np.std(ratios) == pytest.approx(1, abs=0.2)
    assert np.std(means) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("sigma", SIGMAS[:2])
def test_the_two_laws_are_told_apart_where_they_differ(sigma: float) -> None:
    assert fitted(rounded(sigma, 200_000, seed=3), sigma, "discrete").verdict.failed
    assert fitted(discrete(sigma, 200_000, seed=3), sigma, "rounded").verdict.failed


@pytest.mark.parametrize("sigma", mostly_slow(SIGMAS, quick=4))
@pytest.mark.parametrize("factor", [0.98, 1.02])
def test_a_deviation_two_percent_off_fails_and_the_reason_says_so(
    sigma: float, factor: float
) -> None:
    found = fitted(rounded(sigma * factor, 300_000, seed=4), sigma)
    assert found.verdict.failed
    assert "variance" in found.verdict.reason


def test_the_tolerance_of_the_variance_is_four_standard_errors() -> None:
    found = fitted(rounded(100.0, 10**6, seed=5), 100.0)
    assert found.variance_tolerance == pytest.approx(4 * math.sqrt(2 / 10**6), rel=1e-3)


def test_noise_without_zero_mean_fails() -> None:
    found = fitted(rounded(100.0, 100_000, seed=6) + 2, 100.0)
    assert found.verdict.failed and "mean" in found.verdict.reason


def test_another_law_of_the_same_variance_fails() -> None:
    uniform = np.random.default_rng(7).uniform(-math.sqrt(3), math.sqrt(3), 100_000)
    found = fitted(np.rint(1000 * uniform).astype(np.int64), 1000.0)
    assert found.verdict.failed and "cell counts" in found.verdict.reason
    assert abs(found.variance_ratio - 1) < found.variance_tolerance


def test_noise_on_a_coarser_grid_fails_by_its_low_bits() -> None:
    found = fitted(2 * rounded(500.0, 100_000, seed=8), 1000.0)
    assert found.verdict.failed and "low 9 bits" in found.verdict.reason


def test_noise_that_remembers_fails() -> None:
    fresh = np.random.default_rng(9).normal(size=100_001)
    moving = (fresh[1:] + 0.05 * fresh[:-1]) / math.sqrt(1 + 0.05**2)
    found = fitted(np.rint(100 * moving).astype(np.int64), 100.0)
    assert found.verdict.failed and "neighbours" in found.verdict.reason


@pytest.mark.parametrize("sigma", [0.5, 1.0, 64.0, 2.0**20])
@pytest.mark.parametrize("offset", [0, 1, 1234])
def test_a_stream_that_comes_back_is_found_at_any_offset(sigma: float, offset: int) -> None:
    stream = rounded(sigma, 60_000, seed=10)
    found = fitted(np.stack([stream[:50_000], stream[offset : 50_000 + offset]]), sigma)
    assert found.verdict.failed and "twice" in found.verdict.reason


def test_a_seed_that_comes_back_with_another_scale_is_found_by_correlation() -> None:
    normal = np.random.default_rng(11).normal(size=50_000)
    rounds = np.stack([np.rint(100 * normal), np.rint(-100 * normal)]).astype(np.int64)
    found = fitted(rounds, 100.0)
    assert found.verdict.failed and "rounds are correlated" in found.verdict.reason
    assert found.repeated_windows == 0


def test_no_noise_at_all_fails() -> None:
    found = fitted(np.zeros((2, 20_000), np.int64), 10.0)
    assert found.verdict.failed and found.variance_ratio == 0


def test_few_samples_pass_no_judgement() -> None:
    # Of few samples sound noise has a variance far off too often: no verdict is given on it.
    assert fitted(rounded(30.0, 500, seed=12), 10.0).verdict.outcome is Outcome.INCONCLUSIVE
    assert fitted(rounded(10.0, 500, seed=12), 10.0).verdict.outcome is Outcome.INCONCLUSIVE


def test_one_round_says_nothing_of_other_rounds() -> None:
    found = fitted(rounded(10.0, 5000, seed=13), 10.0)
    assert found.cross_correlation is None
    assert "says nothing of a seed reused" in found.verdict.reason


@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_repeats_are_those_that_a_dictionary_finds(rows: int, window: int, seed: int) -> None:
    rounds = np.random.default_rng(seed).integers(-1, 2, size=(rows, 40))
    every = [tuple(row[i : i + window]) for row in rounds for i in range(41 - window)]
    assert repeated_windows(rounds, window) == len(every) - len(set(every))


def test_a_round_shorter_than_a_window_repeats_nothing() -> None:
    assert repeated_windows(np.zeros((3, 4), np.int64), 5) == 0


def test_a_variance_that_no_integers_have_is_refused() -> None:
    for sigma2 in (Fraction(2**126 + 1), Fraction(10**5000)):
        with pytest.raises(ArgumentError):
            noise_fit(np.zeros(100, np.int64), sigma2)


def test_unsigned_samples_are_not_read_as_negative_ones() -> None:
    with pytest.raises(ArgumentError):
        noise_fit(np.full(100, 2**64 - 1, np.uint64), Fraction(9))
    noise_fit(np.full(100, 2**63 - 1, np.uint64), Fraction(9))


def test_what_cannot_be_fitted_is_refused() -> None:
    good = rounded(1.0, 100, seed=14)
    with pytest.raises(DtypeError):
        noise_fit(good.astype(float), Fraction(1))  # type: ignore[arg-type]
    with pytest.raises(ShapeError):
        noise_fit(good.reshape(10, 5, 2), Fraction(1))
    with pytest.raises(ArgumentError):
        noise_fit(good, 1.0)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError):
        noise_fit(good, Fraction(1, 5))
    with pytest.raises(ArgumentError):
        noise_fit(good, Fraction(1), kind="skellam")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError):
        noise_fit(good, Fraction(1), significance=0)


@pytest.mark.slow
def test_sound_noise_hardly_ever_fails() -> None:
    failed = sum(fitted(rounded(9.0, (3, 3000), seed), 9.0).verdict.failed for seed in range(2000))
    # One in 8,000 is expected.
    assert failed <= 2
