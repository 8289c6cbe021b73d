"""Activations equal PyTorch's everywhere, and so do their derivatives but at one kink."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from tests.golden.case import Array, normal, our_results, torch_results
from tests.golden.make_activations import ACTIVATIONS, activation

pytest.importorskip("torch", reason="PyTorch is not installed (make test-oracle)")
pytestmark = pytest.mark.oracle

ELEMENTWISE = [name for name in ACTIVATIONS if "softmax" not in name]
GRID = np.linspace(-60.0, 60.0, 4801) + 1e-3  # between the kinks
HUGE = np.array([-3e38, -1e30, -1e15, -1e6, 1e6, 1e15, 1e30, 3e38])


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_a_sweep_in_double_precision(name: str) -> None:
    found, expected = our_results(activation(name, GRID)), torch_results(activation(name, GRID))
    for key, value in found.items():
        # 64 roundings of 1: some of a logistic function, times arguments up to 8 where it is not 0
        np.testing.assert_allclose(value, expected[key], rtol=1.4e-14, atol=1.4e-14, err_msg=key)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_zero(name: str) -> None:
    case = activation(name, np.zeros(1))
    found, expected = our_results(case), torch_results(case)
    for key, value in found.items():
        np.testing.assert_allclose(value, expected[key], rtol=1e-15, atol=0, err_msg=key)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_value_at_huge_arguments(name: str) -> None:
    case = activation(name, HUGE.reshape(2, 4))
    with np.errstate(over="ignore"):
        found, expected = our_results(case)["y0"], torch_results(case)["y0"]
    np.testing.assert_allclose(found, expected, rtol=1e-15)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize(
    "rows, classes", [(1, 1), (3, 7), (200, 10), (300, 47), (30, 49), (2, 900)]
)
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_softmax_of_any_size(name: str, rows: int, classes: int, scale: float) -> None:
    x = np.random.default_rng(rows).standard_normal((rows, classes)) * scale
    found, expected = our_results(activation(name, x)), torch_results(activation(name, x))
    for key, value in found.items():
        # an exponential of scores near -scale is off by as many roundings
        tolerance = 1e-14 if scale == 1.0 else 1e-11
        np.testing.assert_allclose(value, expected[key], rtol=tolerance, atol=1e-13, err_msg=key)


def test_a_masked_score_gets_probability_and_derivative_zero() -> None:
    x = np.array([[1.0, -np.inf, 2.0], [-np.inf, 0.5, -np.inf]])
    found, expected = our_results(activation("softmax", x)), torch_results(activation("softmax", x))
    for key, value in found.items():
        np.testing.assert_allclose(value, expected[key], rtol=1e-14, atol=1e-16, err_msg=key)


def test_a_row_of_masked_scores_is_zero_where_pytorch_has_nan() -> None:
    row: Any = np.full((1, 3), -np.inf)
    assert (our_results(activation("softmax", row))["y0"] == 0).all()
    assert np.isnan(torch_results(activation("softmax", row))["y0"]).all()


def test_at_the_upper_kink_hardswish_has_the_slope_from_the_left_and_pytorch_from_the_right() -> (
    None
):
    def slopes(results: Mapping[str, Array]) -> list[float]:
        ratio: list[float] = (results["d x"] / normal("cotangent 0", 2)).round(12).tolist()
        return ratio

    case = activation("hardswish", np.array([-3.0, 3.0]))
    assert slopes(our_results(case)) == [0.0, 1.5]
    assert slopes(torch_results(case)) == [0.0, 1.0]
