"""Banded strategies against the matrices that they stand for, and against published errors."""

from __future__ import annotations

import sys
from fractions import Fraction
from math import comb, sqrt

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fedcore.errors import InstallError, PlanError
from fedcore.privacy.toeplitz import (
    log_squared_error,
    optimised_coefficients,
    prefix_error,
    square_root_coefficients,
)

# Rounds, bands, participations; root mean squared errors of prefix sums by two strategies and by
# none, at noise multiplier 1 and sensitivity 1. Known beforehand to the digits of `PUBLISHED`.
GOLDEN = [
    ((200, 20, 10), 31.7017, 10.3561, 9.9815),
    ((1000, 10, 100), 223.7186, 86.1119, 75.9066),
    ((1000, 100, 10), 70.7460, 12.1032, 11.5727),
    ((2000, 20, 100), 316.3068, 91.0344, 77.8209),
    ((2052, 342, 6), 78.4793, 8.9782, 8.8041),
]
PUBLISHED = [
    ("31.7", "10.36", "9.98"),
    ("223.7", "86.1", "75.9"),
    ("70.8", "12.10", "11.57"),
    ("316", "91.0", "77.8"),
    ("78.5", "8.98", "8.80"),
]


def dense(coefficients: np.ndarray, rounds: int) -> np.ndarray:
    """The lower-triangular matrix with `coefficients` down its diagonals."""
    matrix = np.zeros((rounds, rounds))
    for offset, value in enumerate(coefficients[:rounds]):
        matrix += value * np.eye(rounds, k=-offset)
    return matrix


@st.composite
def strategies(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    """Positive, non-increasing coefficients from 1, and a number of rounds."""
    ratios = draw(st.lists(st.floats(0.05, 1), max_size=7))
    return np.cumprod([1.0, *ratios]), draw(st.integers(1, 20))


@given(strategies())
def test_the_error_is_that_of_the_dense_factorisation(strategy: tuple[np.ndarray, int]) -> None:
    """Noise on C x, decoded by A C^-1, A the prefix sums: the root mean squared norm of a row."""
    coefficients, rounds = strategy
    decoder = np.tril(np.ones((rounds, rounds))) @ np.linalg.inv(dense(coefficients, rounds))
    expected = sqrt((decoder**2).sum() / rounds) * np.linalg.norm(coefficients)
    assert prefix_error(coefficients, rounds) == pytest.approx(expected, rel=1e-9)


@given(strategies())
def test_the_logarithm_of_the_squared_error_is_what_is_minimised(
    strategy: tuple[np.ndarray, int],
) -> None:
    coefficients, rounds = strategy
    value, _ = log_squared_error(coefficients, rounds)
    assert value == pytest.approx(2 * np.log(prefix_error(coefficients, rounds)), abs=1e-9)


@given(strategies())
def test_the_gradient_is_that_of_finite_differences(strategy: tuple[np.ndarray, int]) -> None:
    coefficients, rounds = strategy
    _, gradient = log_squared_error(coefficients, rounds)
    step = 1e-6
    for place in range(len(coefficients)):
        ahead, behind = coefficients.copy(), coefficients.copy()
        ahead[place] += step
        behind[place] -= step
        slope = (log_squared_error(ahead, rounds)[0] - log_squared_error(behind, rounds)[0]) / (
            2 * step
        )
        assert gradient[place] == pytest.approx(slope, rel=1e-5, abs=1e-6)


@given(strategies())
def test_scaling_a_strategy_changes_no_error(strategy: tuple[np.ndarray, int]) -> None:
    coefficients, rounds = strategy
    assert prefix_error(7 * coefficients, rounds) == pytest.approx(
        prefix_error(coefficients, rounds)
    )
    _, gradient = log_squared_error(coefficients, rounds)
    assert gradient @ coefficients == pytest.approx(0, abs=1e-8)


def test_square_root_coefficients_are_central_binomials() -> None:
    exact = [Fraction(comb(2 * j, j), 4**j) for j in range(50)]
    assert exact[:4] == [1, Fraction(1, 2), Fraction(3, 8), Fraction(5, 16)]
    np.testing.assert_allclose(square_root_coefficients(50), [float(x) for x in exact], rtol=1e-14)


def test_the_square_of_the_full_square_root_is_the_prefix_sum() -> None:
    full = dense(square_root_coefficients(40), 40)
    np.testing.assert_allclose(full @ full, np.tril(np.ones((40, 40))), atol=1e-13)


@pytest.mark.parametrize(("setting", "identity", "closed", "optimised"), GOLDEN)
def test_errors_are_the_published_ones(
    setting: tuple[int, int, int], identity: float, closed: float, optimised: float
) -> None:
    rounds, bands, participations = setting
    scale = sqrt(participations)
    assert scale * prefix_error(np.ones(1), rounds) == pytest.approx(identity, rel=1e-5)
    found = scale * prefix_error(square_root_coefficients(bands), rounds)
    assert found == pytest.approx(closed, rel=1e-5)
    # As far as the optimum is flat, each version of SciPy may stop elsewhere.
    found = scale * prefix_error(optimised_coefficients(rounds, bands), rounds)
    assert found == pytest.approx(optimised, rel=1e-4)


def test_the_frozen_errors_round_to_those_known_before() -> None:
    for (_, *errors), texts in zip(GOLDEN, PUBLISHED, strict=True):
        for error, text in zip(errors, texts, strict=True):
            unit = 10.0 ** -len(text.partition(".")[2])
            assert abs(error - float(text)) <= 0.6 * unit, (error, text)


@given(st.integers(1, 60), st.integers(1, 60))
def test_an_optimised_strategy_is_ordered_and_no_worse_than_the_closed_form(
    rounds: int, bands: int
) -> None:
    rounds, bands = max(rounds, bands), min(rounds, bands)
    found = optimised_coefficients(rounds, bands)
    assert found.shape == (bands,)
    assert found[0] == 1
    assert (found >= 0).all()
    assert (np.diff(found) <= 0).all()
    closed = prefix_error(square_root_coefficients(bands), rounds)
    assert prefix_error(found, rounds) <= closed


def test_more_bands_never_hurt() -> None:
    errors = [prefix_error(optimised_coefficients(64, bands), 64) for bands in (1, 2, 4, 16, 64)]
    assert errors == sorted(errors, reverse=True)


def test_without_scipy_the_closed_form_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(InstallError, match="SciPy is not installed") as caught:
        optimised_coefficients(20, 4)
    assert ".[dp]" in caught.value.fix
    assert len(square_root_coefficients(4)) == 4


@pytest.mark.parametrize("bands", [0, -1, 2**16 + 1])
def test_a_number_of_bands_has_a_range(bands: int) -> None:
    with pytest.raises(PlanError, match="bands"):
        square_root_coefficients(bands)


def test_bands_beyond_the_rounds_are_refused() -> None:
    with pytest.raises(PlanError, match="5 bands"):
        optimised_coefficients(4, 5)
