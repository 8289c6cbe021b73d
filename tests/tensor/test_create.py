"""Tensors made from a shape have NumPy's values, the default dtype, and a place in recordings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, strategies as st

import fedcore as fc
from fedcore.errors import DtypeError, ShapeError
from fedcore.tensor.ops.create import (
    arange,
    eye,
    full,
    full_like,
    ones,
    ones_like,
    zeros,
    zeros_like,
)
from fedcore.tensor.tensor import tensor


@given(
    st.floats(-1e3, 1e3), st.floats(-1e3, 1e3), st.integers(0, 40), st.sampled_from(["f4", "f8"])
)
@example(0.0, 5e-324, 4, "f8")  # a step of which is no number
@example(-1e-323, 5e-324, 7, "f8")
def test_equal_steps_are_numpys_and_reach_both_ends(
    start: float, stop: float, num: int, dtype: str
) -> None:
    found = fc.linspace(start, stop, num, dtype=dtype)
    np.testing.assert_array_equal(
        found.numpy(), np.linspace(start, stop, num).astype(dtype), strict=True
    )
    with pytest.raises(DtypeError, match="linspace"):
        fc.linspace(start, stop, num, dtype="int64")


@pytest.mark.parametrize("shape", [(), 3, (2, 3), (0, 2)])
def test_constants_fill_the_shape_in_float32(shape: Any) -> None:
    for made, expected in ((zeros(shape), np.zeros(shape)), (ones(shape), np.ones(shape))):
        np.testing.assert_array_equal(made.numpy(), expected)
        assert made.dtype == np.float32
    assert full(shape, 7, dtype="int64").dtype == np.int64


def test_likeness_takes_shape_and_dtype() -> None:
    x = tensor(np.ones((2, 3)))
    for made, value in ((zeros_like(x), 0), (ones_like(x), 1), (full_like(x, 0.1), 0.1)):
        np.testing.assert_array_equal(made.numpy(), np.full((2, 3), value))
        assert made.dtype == np.float64
    assert zeros_like(x, dtype="int32").dtype == np.int32


@given(st.integers(-5, 5), st.integers(-5, 5), st.integers(-3, 3).filter(bool))
def test_ranges_follow_numpy(start: int, stop: int, step: int) -> None:
    assert arange(start, stop, step).tolist() == np.arange(start, stop, step).tolist()


def test_the_identity_may_be_rectangular() -> None:
    assert eye(2, 3).tolist() == np.eye(2, 3).tolist()
    assert eye(2).dtype == np.float32


def test_the_fill_is_differentiable() -> None:
    assert fc.grad(lambda x: full((2, 3), x * x).sum())(tensor(2.0)).item() == 24.0


@pytest.mark.parametrize(("shape", "value"), [((-1,), 0.0), ((2,), [1.0, 2.0])])
def test_what_cannot_fill_a_shape_is_refused(shape: Any, value: Any) -> None:
    with pytest.raises(ShapeError, match="full"):
        full(shape, tensor(value))


def test_a_large_constant_is_made_anew_by_a_compiled_program() -> None:
    step = fc.compile(lambda x: x + zeros_like(x) + full((300, 300), 1.0))
    for value in (1.0, 2.0):
        x = np.full((300, 300), value, np.float32)
        np.testing.assert_array_equal(step(tensor(x)).numpy(), x + 1)
