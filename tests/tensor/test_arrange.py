"""Rearrangements follow NumPy, also in lanes, and pass derivatives to where elements came from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as arrays

import fedcore as fc
from fedcore.errors import ArgumentError, ShapeError
from fedcore.tensor.ops.arrange import (
    argsort,
    diagonal,
    repeat,
    roll,
    sort,
    split,
    tile,
    topk,
    trace,
    tril,
    triu,
)
from fedcore.tensor.tensor import Tensor, tensor

Array = np.ndarray[Any, Any]
MATRICES = arrays.arrays(
    np.float64, arrays.array_shapes(min_dims=2, max_dims=3, max_side=4), elements=st.integers(0, 3)
)
OFFSETS = st.integers(-3, 3)


@given(MATRICES, st.sampled_from([0, 1, -1]))
def test_sorting_follows_numpy_and_keeps_the_order_of_equals(x: Array, axis: int) -> None:
    order = np.argsort(x, axis=axis, kind="stable")
    np.testing.assert_array_equal(argsort(tensor(x), axis=axis).numpy(), order)
    np.testing.assert_array_equal(sort(tensor(x), axis=axis).numpy(), np.sort(x, axis=axis))
    downwards = np.argsort(-x, axis=axis, kind="stable")
    found = argsort(tensor(x), axis=axis, descending=True)
    np.testing.assert_array_equal(found.numpy(), downwards)


@given(MATRICES, st.integers(0, 4))
def test_topk_gives_the_largest_with_their_places(x: Array, k: int) -> None:
    k = min(k, x.shape[-1])
    values, places = topk(tensor(x), k)
    order = np.argsort(-x, axis=-1, kind="stable")[..., :k]
    np.testing.assert_array_equal(places.numpy(), order)
    np.testing.assert_array_equal(values.numpy(), np.take_along_axis(x, order, axis=-1))


def test_topk_of_more_than_there_are_is_refused() -> None:
    with pytest.raises(ArgumentError, match="topk: 4 of 3"):
        topk(tensor([1.0, 2.0, 3.0]), 4)


@given(MATRICES, OFFSETS, st.sampled_from([0, -1]))
def test_rolling_follows_numpy(x: Array, shift: int, axis: int) -> None:
    found = roll(tensor(x), shift, axis=axis)
    np.testing.assert_array_equal(found.numpy(), np.roll(x, shift, axis=axis))


@given(MATRICES, st.lists(st.integers(0, 3), min_size=1, max_size=4))
def test_tiling_follows_numpy(x: Array, times: list[int]) -> None:
    np.testing.assert_array_equal(tile(tensor(x), times).numpy(), np.tile(x, times))


@given(MATRICES, st.integers(0, 3), st.sampled_from([0, 1, -1]))
def test_repeating_follows_numpy(x: Array, times: int, axis: int) -> None:
    found = repeat(tensor(x), times, axis=axis)
    np.testing.assert_array_equal(found.numpy(), np.repeat(x, times, axis=axis))
    counts = list(range(x.shape[axis]))
    found = repeat(tensor(x), counts, axis=axis)
    np.testing.assert_array_equal(found.numpy(), np.repeat(x, counts, axis=axis))


@given(MATRICES, OFFSETS)
def test_diagonals_and_triangles_follow_numpy(x: Array, offset: int) -> None:
    expected = np.diagonal(x, offset, -2, -1)
    np.testing.assert_array_equal(diagonal(tensor(x), offset=offset).numpy(), expected)
    np.testing.assert_array_equal(tril(tensor(x), offset=offset).numpy(), np.tril(x, offset))
    np.testing.assert_array_equal(triu(tensor(x), offset=offset).numpy(), np.triu(x, offset))
    found = trace(tensor(x)).numpy()
    np.testing.assert_array_equal(found, np.trace(x, axis1=-2, axis2=-1))


def test_splitting_gives_views_of_equal_or_given_lengths() -> None:
    x = np.arange(12.0).reshape(2, 6)
    for parts, cuts in ((3, 3), ((1, 2, 3), [1, 3])):
        found = split(tensor(x), parts, axis=1)
        for part, expected in zip(found, np.split(x, cuts, axis=1), strict=True):
            np.testing.assert_array_equal(part.numpy(), expected)
            assert np.shares_memory(part.data, x)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: split(x, 4),
        lambda x: split(x, (1, 1)),
        lambda x: repeat(x, (1, 2)),
        lambda x: diagonal(x),
        lambda x: tril(x),
    ],
)
def test_what_does_not_fit_is_refused_by_name(call: Callable[[Tensor], Any]) -> None:
    with pytest.raises(ShapeError, match=r"split|repeat|diagonal|tril"):
        call(tensor([1.0, 2.0, 3.0]))


@pytest.mark.parametrize(
    "function",
    [
        sort,
        lambda x: topk(x, 2)[0],
        lambda x: roll(x, 1),
        lambda x: tile(x, (2, 1)),
        lambda x: repeat(x, 2),
        lambda x: repeat(x, (2, 0, 1), axis=-1),
        lambda x: split(x, 3)[1],
        lambda x: diagonal(x, offset=1),
        tril,
        trace,
    ],
)
def test_each_lane_and_its_derivative_equal_the_loop(function: Callable[[Tensor], Tensor]) -> None:
    x = np.random.default_rng(0).permutation(27).reshape(3, 3, 3) / 7.0

    def loss(x: Tensor) -> Tensor:
        return (function(x) ** 3).sum()

    values, slopes = fc.vmap(fc.value_and_grad(loss))(tensor(x))
    for lane in range(3):
        value, slope = fc.value_and_grad(loss)(tensor(x[lane]))
        np.testing.assert_allclose(values.numpy()[lane], value.numpy(), rtol=1e-14)
        np.testing.assert_allclose(slopes.numpy()[lane], slope.numpy(), rtol=1e-14)
        along = np.random.default_rng(1).standard_normal((3, 3))
        ahead, behind = (loss(tensor(x[lane] + s * along)).item() for s in (1e-6, -1e-6))
        slope_along = float((slope.numpy() * along).sum())
        np.testing.assert_allclose(slope_along, (ahead - behind) / 2e-6, rtol=1e-6, atol=1e-6)
