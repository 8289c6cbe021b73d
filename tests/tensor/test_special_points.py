"""Derivatives at special points: at the origin, at infinities and of equal values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import fedcore as fc
from fedcore.tensor.ops.contract import norm
from fedcore.tensor.tensor import tensor

INF = math.inf


def slopes(function: Any, a: float, b: float) -> list[float]:
    return [float(slope) for slope in fc.grad(lambda ab: function(*ab))((tensor(a), tensor(b)))]


@pytest.mark.parametrize("size", [1.0, 1e-25, 1e-44, 1e25, 3e38])
def test_the_norm_and_its_derivative_are_those_of_any_size(size: float) -> None:
    x = np.array([1.0, -1.0, 0.0, 1.0], np.float32) * np.float32(size) / 2
    value, slope = fc.value_and_grad(norm)(tensor(x))
    np.testing.assert_allclose(value.item(), np.linalg.norm(x.astype(float)), rtol=1e-6, atol=1e-45)
    np.testing.assert_allclose(slope.numpy(), np.sign(x) / np.sqrt(3), rtol=1e-6)


def test_the_norm_has_derivative_0_at_0_and_a_second_one_too() -> None:
    rows = tensor(np.array([[0.0, 0.0], [3.0, 4.0]]))
    slope = fc.grad(lambda x: norm(x, axis=1).sum())
    np.testing.assert_allclose(slope(rows).numpy(), [[0.0, 0.0], [0.6, 0.8]], rtol=1e-12)
    again = fc.grad(lambda x: (slope(x) ** 2).sum() + slope(x).sum())(rows).numpy()
    assert np.isfinite(again).all()


@pytest.mark.parametrize("x", [np.zeros(0), np.zeros((2, 0)), np.array([3, 4]), np.array([np.inf])])
def test_norms_of_nothing_of_integers_and_of_infinity_are_numpys(x: Any) -> None:
    np.testing.assert_allclose(norm(tensor(x), axis=-1).numpy(), np.linalg.norm(x, axis=-1))


def test_the_deviation_of_equal_values_has_derivative_0() -> None:
    rows = tensor(np.array([[2.0, 2.0], [1.0, 3.0]]))
    slope = fc.grad(lambda x: x.std(axis=1).sum())(rows).numpy()
    np.testing.assert_allclose(slope, [[0.0, 0.0], [-0.5, 0.5]], rtol=1e-12)


def test_angle_and_distance_have_derivative_0_at_the_origin() -> None:
    assert slopes(fc.arctan2, 0.0, 0.0) == [0.0, 0.0]
    assert slopes(fc.hypot, 0.0, 0.0) == [0.0, 0.0]


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_the_slope_of_an_angle_neither_overflows_nor_vanishes(size: float) -> None:
    np.testing.assert_allclose(slopes(fc.arctan2, size, size), [0.5 / size, -0.5 / size], rtol=1e-6)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (0.0, INF, [0.0, 1.0]),
        (0.0, -INF, [1.0, 0.0]),
        (INF, -INF, [1.0, 0.0]),
        (INF, INF, [0.5, 0.5]),
        (-INF, -INF, [0.5, 0.5]),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of infinity - infinity
def test_shares_of_a_sum_of_exponentials_are_whole_also_at_infinities(
    a: float, b: float, expected: list[float]
) -> None:
    assert slopes(fc.logaddexp, a, b) == expected
    assert slopes(fc.logaddexp, b, a) == expected[::-1]
