"""Reductions: sums that are products with ones keep what sums promise."""

from __future__ import annotations

import numpy as np
import pytest

import fedcore as fc
from fedcore.tensor.tensor import Tensor

SHAPES = [((3, 20, 7), 1), ((3, 20, 7), 2), ((2, 3, 4, 5), (1, 2)), ((5, 1), 0), ((1, 6), 1)]


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize("keepdims", [False, True])
def test_a_replayed_sum_has_the_bits_of_the_eager_one(
    shape: tuple[int, ...], axis: int | tuple[int, ...], keepdims: bool
) -> None:
    def total(x: Tensor) -> Tensor:
        return (x * 2.0).sum(axis, keepdims)

    compiled = fc.compile(total)
    rng = np.random.default_rng(0)
    for _ in range(3):
        x = fc.tensor(rng.standard_normal(shape).astype(np.float32))
        found = compiled(x)
        assert found.numpy().tobytes() == total(x).numpy().tobytes()
        expected = (x.numpy().astype(np.float64) * 2.0).sum(axis, keepdims=keepdims)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1])
def test_the_bits_of_a_sum_do_not_depend_on_the_number_of_lanes(axis: int) -> None:
    x = np.random.default_rng(1).standard_normal((9, 20, 33)).astype(np.float32)
    together = fc.vmap(lambda row: row.sum(axis))(fc.tensor(x)).numpy()
    for lane in range(9):
        alone = fc.vmap(lambda row: row.sum(axis))(fc.tensor(x[lane : lane + 1])).numpy()
        assert together[lane].tobytes() == alone[0].tobytes()


@pytest.mark.parametrize("axis", [0, 1])
def test_a_long_float32_sum_is_no_less_accurate_than_that_of_numpy(axis: int) -> None:
    x = np.full((3, 1_000_000) if axis else (1_000_000, 3), 0.1, dtype=np.float32)
    exact = float(np.float32(0.1)) * 1e6
    error = np.abs(fc.tensor(x).sum(axis).numpy() - exact)
    assert (error <= np.abs(x.sum(axis) - exact)).all()
