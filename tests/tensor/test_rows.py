"""Row norms are right at every scale of float32, and a row's bits do not depend on the others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedcore.tensor.ops.rows import row_norms2, scale_rows
from fedcore.tensor.tensor import tensor

UNIT = 2.0**-24  # one rounding of float32
SCALES = (0.0, 1e-44, 1e-30, 1e-12, 1.0, 1e12, 1e30, 3e38)


def rows_of_all_scales(width: int) -> np.ndarray[Any, Any]:
    rows = np.random.default_rng(width).uniform(-1, 1, (len(SCALES), width))
    return (rows * np.array(SCALES)[:, None]).astype(np.float32)


@pytest.mark.parametrize("width", [1, 63, 2048, 2049, 5000])
def test_row_norms_are_exact_to_64_roundings_at_every_scale(width: int) -> None:
    x = rows_of_all_scales(width)
    found = row_norms2(x)
    assert found.dtype == np.float64
    exact = (x.astype(np.float64) ** 2).sum(axis=1)
    np.testing.assert_allclose(found.numpy(), exact, rtol=64 * UNIT, atol=0)
    given = np.full(len(x), np.nan)
    row_norms2.kernel(np, x, out=given)  # as a replay calls it
    np.testing.assert_array_equal(given, found.numpy())


@pytest.mark.parametrize("width", [63, 5000])
def test_the_norm_of_a_row_has_the_same_bits_beside_any_others(width: int) -> None:
    x = rows_of_all_scales(width)
    together = row_norms2(x).numpy()
    for row, norm2 in zip(x, together, strict=True):
        assert row_norms2(row).item() == norm2 == row_norms2(row[None]).numpy()[0]


@pytest.mark.parametrize("width", [63, 5000])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_norm_of_a_row_that_is_not_finite_is_not_finite(width: int, bad: float) -> None:
    x = np.ones((3, width), np.float32)
    x[1, -1] = bad
    np.testing.assert_array_equal(row_norms2(x).numpy(), [width, bad, width])


def test_a_row_times_zero_is_zero_whatever_it_holds() -> None:
    x = np.array([[1.0, np.nan], [np.inf, 2.0], [3.0, 4.0]], np.float32)
    found = scale_rows(tensor(x), tensor([0.0, 0.0, 0.5], dtype="float64"))
    assert found.dtype == np.float32
    assert found.tolist() == [[0.0, 0.0], [0.0, 0.0], [1.5, 2.0]]


def test_a_coefficient_beyond_float32_is_applied_before_rounding() -> None:
    x = tensor(np.array([[3e38], [1e-40]], np.float32))
    found = scale_rows(x, tensor([1e-60, 1e60], dtype="float64")).numpy()
    np.testing.assert_allclose(found, [[3e-22], [1e20]], rtol=1e-5)  # 1e-40 has 16 bits
