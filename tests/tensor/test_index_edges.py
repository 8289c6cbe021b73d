"""Indexing at its edges: empty axes, masks of several axes, and repeated indices in any shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as arrays

import fedcore as fc
from fedcore.errors import AxisError, DtypeError, FedcoreError, ShapeError
from fedcore.tensor.ops.index import embedding
from fedcore.tensor.tensor import tensor

Array = np.ndarray[Any, Any]
SHAPES = arrays.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=3)


def numbered(shape: tuple[int, ...]) -> Array:
    return np.arange(np.prod(shape), dtype=np.float64).reshape(shape)


@given(SHAPES.flatmap(lambda s: st.tuples(st.just(s), arrays.basic_indices(s, allow_newaxis=True))))
def test_basic_keys_of_empty_arrays_select_and_write_what_numpy_does(case: Any) -> None:
    shape, key = case
    x = numbered(shape)
    np.testing.assert_array_equal(tensor(x)[key].numpy(), x[key])
    written = x.copy()
    written[key] = 7.0
    np.testing.assert_array_equal(fc.set(x, key, 7.0).numpy(), written)
    gradient = fc.grad(lambda t: t[key].sum())(tensor(x)).numpy()
    selected = np.zeros(shape)
    selected[key] = 1.0
    np.testing.assert_array_equal(gradient, selected)


@given(SHAPES.flatmap(lambda s: st.tuples(arrays.arrays(bool, s), st.integers(1, 2))))
def test_a_mask_may_have_any_number_of_axes_and_further_axes_after_it(case: Any) -> None:
    mask, extra = case
    x = numbered((*mask.shape, extra))
    np.testing.assert_array_equal(tensor(x)[mask].numpy(), x[mask])
    np.testing.assert_array_equal(tensor(x)[..., mask, :].numpy(), x[..., mask, :])
    np.testing.assert_array_equal(tensor(x[..., 0])[mask].numpy(), x[..., 0][mask])
    zeroed = x.copy()
    zeroed[mask] = 0.0
    np.testing.assert_array_equal(fc.set(x, mask, 0.0).numpy(), zeroed)
    gradient = fc.grad(lambda t: (t[mask] * 2.0).sum())(tensor(x)).numpy()
    np.testing.assert_array_equal(gradient, np.broadcast_to(2.0 * mask[..., None], x.shape))


@given(st.data())
def test_elements_along_an_axis_follow_numpy_with_the_derivative_of_repeats(
    data: st.DataObject,
) -> None:
    shape = data.draw(arrays.array_shapes(min_dims=1, max_dims=3, max_side=3))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    length = shape[axis]
    wanted = list(shape)
    wanted[axis] = data.draw(st.integers(0, 4))
    element = st.integers(-length, length - 1)
    places = data.draw(arrays.arrays(np.int64, tuple(wanted), elements=element))
    x, g = numbered(shape), numbered(tuple(wanted)) + 1.0
    found, back = fc.vjp(lambda t: fc.take_along_axis(t, places, axis=axis), tensor(x))
    np.testing.assert_array_equal(found.numpy(), np.take_along_axis(x, places, axis))
    expected = np.zeros(shape)
    where = list(np.ix_(*[range(n) for n in wanted]))
    where[axis] = places
    np.add.at(expected, tuple(where), g)
    np.testing.assert_array_equal(back(tensor(g))[0].numpy(), expected)


@given(st.data())
def test_scattered_rows_add_up_along_any_axis(data: st.DataObject) -> None:
    shape = data.draw(arrays.array_shapes(min_dims=1, max_dims=3, max_side=3))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    at = axis % len(shape)
    places = data.draw(
        arrays.arrays(
            np.int64,
            arrays.array_shapes(min_dims=0, max_dims=2, max_side=3),
            elements=st.integers(-shape[axis], shape[axis] - 1),
        )
    )
    x = numbered(shape)
    v = numbered((*shape[:at], *places.shape, *shape[at + 1 :])) + 1.0
    expected = x.copy()
    np.add.at(expected, (*[slice(None)] * at, places), v)
    found, back = fc.vjp(lambda x, v: fc.scatter_add(x, places, v, axis=axis), tensor(x), tensor(v))
    np.testing.assert_array_equal(found.numpy(), expected)
    by_x, by_v = back(tensor(x))
    np.testing.assert_array_equal(by_x.numpy(), x)
    np.testing.assert_array_equal(by_v.numpy(), np.take(x, places, axis=at))


def test_an_index_may_be_of_any_integer_kind() -> None:
    x = tensor(numbered((4, 3)))
    for key in (np.int8(1), np.uint64(1), tensor(1), np.array(1, np.uint8), [1], (np.int32(1),)):
        np.testing.assert_array_equal(x[key].numpy().ravel(), [3.0, 4.0, 5.0])


@pytest.mark.parametrize(
    "call",
    [
        lambda x, i: x[i],
        lambda x, i: fc.take(x, i, axis=0),
        lambda x, i: fc.take_along_axis(x, fc.expand_dims(i, 1), axis=0),
        lambda x, i: fc.set(x, i, 0.0),
        lambda x, i: fc.one_hot(i, 3),
        lambda x, i: embedding(x, i),
    ],
)
@pytest.mark.parametrize("place", [2**63 - 1, 2**63, 2**64 - 1])
def test_an_unsigned_index_never_becomes_a_negative_one(call: Any, place: int) -> None:
    x, index = tensor(numbered((3, 2))), tensor(np.array([place], np.uint64))
    with pytest.raises(AxisError):
        call(x, index)
    replay = fc.compile(lambda i: call(x, i))
    replay(tensor(np.array([1], np.uint64)))
    with pytest.raises(AxisError):
        replay(index)


def test_values_spread_to_what_is_selected() -> None:
    x = numbered((3, 4))
    for key, value in (
        (slice(None), 1.0),
        ((slice(None), [0, 2]), np.array([5.0, 6.0])),
        (..., np.array([[1.0], [2.0], [3.0]])),
        (x > 5.0, 0.0),
    ):
        written, added = x.copy(), x.copy()
        written[key] = value
        added[key] += value
        np.testing.assert_array_equal(fc.set(x, key, value).numpy(), written)
        np.testing.assert_array_equal(fc.add_at(x, key, value).numpy(), added)
    np.testing.assert_array_equal(fc.set(x, 0, [[1.0, 2.0, 3.0, 4.0]])[0].numpy(), [1, 2, 3, 4])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: embedding(x, [0, 3]), AxisError, r"lie in \[0, 3\], and there are 3 rows"),
        (lambda x: embedding(x, [[-1]]), AxisError, r"lie in \[-1, -1\]"),
        (lambda x: embedding(x, [0.5]), DtypeError, "index: .*float32"),
        (lambda x: fc.take(x, 9), AxisError, "index 9 is out of range for axis 0 of length 6"),
        (
            lambda x: fc.take_along_axis(x, [0]),
            ShapeError,
            r"take_along_axis: indices of shape \(1,\)",
        ),
        (lambda x: fc.take_along_axis(x, [[2], [0], [0]]), AxisError, "index 2"),
        (
            lambda x: fc.take_along_axis(x, [[0], [0]]),
            ShapeError,
            r"indices \(2, 1\) for .*\(3, 2\)",
        ),
        (lambda x: fc.scatter_add(x, [3], np.ones((1, 2))), AxisError, "index 3"),
        (lambda x: fc.scatter_add(x, [0], np.ones((2, 2))), ShapeError, r"add_at: values \(2, 2\)"),
        (lambda x: fc.set(x, 0, [1.0, 2.0, 3.0]), ShapeError, r"set: values \(3,\) .* \(2,\)"),
        (lambda x: fc.set(tensor([1, 2]), 0, 0.5), DtypeError, "set: values of float32"),
        (lambda x: fc.one_hot([0, 2], 2), AxisError, r"lie in \[0, 2\]"),
        (lambda x: fc.one_hot([-1], 2), AxisError, r"2 classes, .* lie in \[-1, -1\]"),
        (lambda x: x[0, 1, 2], AxisError, "3 indices for a tensor of shape"),
        (lambda x: x[[0, 1], [0, 1, 0]], ShapeError, "do not broadcast"),
        (lambda x: x[np.ones((2, 2), bool)], ShapeError, "a mask of shape"),
        (lambda x: x["name"], FedcoreError, "index"),
        (lambda x: x[0.0], FedcoreError, "index"),
        (lambda x: x[::1.5], FedcoreError, "index"),
        (lambda x: x[::0], FedcoreError, "index"),
    ],
)
def test_a_key_that_selects_nothing_sensible_is_refused_with_the_shapes(
    call: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        call(tensor(numbered((3, 2))))
    assert "test_index_edges.py" in str(caught.value)
