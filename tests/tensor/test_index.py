"""Indexing means what NumPy's means, has its derivatives, and keeps lanes apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, strategies as st
from hypothesis.extra import numpy as arrays

import fedcore as fc
from fedcore.autograd.program import Recording
from fedcore.errors import AxisError, DtypeError, MutationError, ShapeError, TraceError
from fedcore.tensor.cotangent import Rows
from fedcore.tensor.ops.index import (
    embedding,
    one_hot,
    scatter_add,
    scatter_rows,
    take,
    take_along_axis,
)
from fedcore.tensor.ops.selection import add_at, set as set_
from fedcore.tensor.tensor import Tensor, interpreter, tensor

Array = np.ndarray[Any, Any]
SHAPES = arrays.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4)
BASIC = SHAPES.flatmap(
    lambda shape: st.tuples(st.just(shape), arrays.basic_indices(shape, allow_newaxis=True))
)


@st.composite
def advanced(draw: Any) -> tuple[tuple[int, ...], tuple[Any, ...]]:
    """A shape and a key that mixes arrays, masks, integers, slices, None and an ellipsis."""
    shape = draw(SHAPES)
    broadcast = draw(arrays.array_shapes(min_dims=0, max_dims=2, min_side=1, max_side=3))
    key: list[Any] = []
    for n in shape[: draw(st.integers(1, len(shape)))]:
        kind = draw(st.sampled_from(["array"] * 4 + ["slice"] * 4 + ["int", "int", "mask", "None"]))
        if kind == "None":
            key.append(None)
            kind = "array"
        if kind == "array":
            sides = tuple(draw(st.sampled_from([1, m])) for m in broadcast)
            key.append(draw(arrays.arrays(np.int64, sides, elements=st.integers(-n, n - 1))))
        elif kind == "slice":
            key.append(draw(st.slices(n)))
        elif kind == "int":
            key.append(draw(st.integers(-n, n - 1)))
        else:
            key.append(draw(arrays.arrays(np.bool_, (n,))))
    if draw(st.booleans()):
        key.insert(draw(st.integers(0, len(key))), ...)
    return shape, tuple(key)


def numbered(shape: tuple[int, ...]) -> Array:
    return np.arange(np.prod(shape), dtype=np.float64).reshape(shape)


def numpy_index(x: Array, key: Any) -> Array:
    try:
        return np.asarray(x[key])
    except IndexError:  # lengths of masks and arrays that do not broadcast
        assume(False)
        raise


@given(BASIC)
def test_basic_keys_select_what_numpy_selects(case: Any) -> None:
    shape, key = case
    x = numbered(shape)
    np.testing.assert_array_equal(tensor(x)[key].numpy(), x[key])


@given(BASIC)
def test_basic_keys_are_views(case: Any) -> None:
    shape, key = case
    x = numbered(shape)
    found = tensor(x)[key].data
    assert found.size == 0 or np.shares_memory(found, x)


@given(advanced())
def test_arrays_and_masks_select_what_numpy_selects(case: Any) -> None:
    shape, key = case
    x = numbered(shape)
    expected = numpy_index(x, key)
    np.testing.assert_array_equal(tensor(x)[key].numpy(), expected)


@pytest.mark.parametrize("key", [(0, slice(None), [0, 1]), (slice(None), [0, 1], ..., [0, 1])])
def test_indices_that_stand_apart_put_their_axes_first(key: Any) -> None:
    x = numbered((2, 3, 4))
    np.testing.assert_array_equal(tensor(x)[key].numpy(), x[key])


@given(st.one_of(BASIC, advanced()))
def test_the_derivative_counts_how_often_an_element_is_selected(case: Any) -> None:
    shape, key = case
    x = numbered(shape)
    g = numbered(numpy_index(x, key).shape) + 1.0
    expected = np.zeros(shape)
    np.add.at(expected, key, g)
    gradient = fc.grad(lambda t: (t[key] * g).sum())(tensor(x))
    np.testing.assert_array_equal(gradient.numpy(), expected)


@given(st.one_of(BASIC, advanced()))
def test_set_and_add_at_do_what_numpy_does_in_place(case: Any) -> None:
    shape, key = case
    x = numbered(shape)
    v = -numbered(numpy_index(x, key).shape)
    written, added = x.copy(), x.copy()
    written[key] = v
    np.add.at(added, key, v)
    np.testing.assert_array_equal(set_(tensor(x), key, v).numpy(), written)
    np.testing.assert_array_equal(add_at(tensor(x), key, v).numpy(), added)


def test_set_has_the_derivatives_of_what_it_keeps_and_of_the_last_value() -> None:
    x, v = tensor(np.zeros(4)), tensor(np.array([1.0, 2.0, 3.0]))
    weights = np.array([1.0, 10.0, 100.0, 1000.0])
    loss = lambda pair: (set_(pair[0], [2, 0, 2], pair[1]) * weights).sum()  # noqa: E731
    dx, dv = fc.grad(loss)((x, v))
    assert dx.tolist() == [0.0, 10.0, 0.0, 1000.0]
    assert dv.tolist() == [0.0, 1.0, 100.0]


# ---- lanes


@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0)])
def test_each_lane_may_have_its_own_indices(axes: tuple[int | None, int | None]) -> None:
    rng = np.random.default_rng(0)
    x, i = rng.standard_normal((3, 4, 3)), rng.integers(-3, 3, (3, 5))
    x = x if axes[0] == 0 else x[0]
    i = i if axes[1] == 0 else i[0]
    keys = [
        lambda i: i,
        lambda i: (slice(1, 3), i),
        lambda i: (i, slice(None), None),
        lambda i: (0, slice(None), i) if len(x.shape) == 4 else (slice(None), i),
        lambda i: (i[:2], i[2:4]),
        lambda i: i[0],
    ]
    for key in keys:
        both = fc.vmap(lambda x, i, key=key: (x[key(i)], x[key(i)].sum()), axes)
        found, _ = both(tensor(x), tensor(i))
        slope = fc.vmap(fc.grad(lambda x, i, key=key: (x[key(i)] ** 2).sum()), axes)
        gradient = slope(tensor(x), tensor(i))
        for lane in range(3):
            one, at = (x[lane] if axes[0] == 0 else x), (i[lane] if axes[1] == 0 else i)
            expected = np.zeros_like(one)
            np.add.at(expected, key(at), 2 * one[key(at)])
            np.testing.assert_array_equal(found.numpy()[lane], one[key(at)])
            np.testing.assert_allclose(gradient.numpy()[lane], expected, rtol=1e-14)


def test_a_batch_may_be_gathered_in_nested_lanes() -> None:
    data = tensor(np.random.default_rng(0).standard_normal((6, 2)))
    order = np.random.default_rng(1).permutation(6).reshape(3, 2)
    found = fc.vmap(fc.vmap(lambda i: data[i]))(tensor(order))
    np.testing.assert_array_equal(found.numpy(), data.numpy()[order])


# ---- errors


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (5, "index 5 is out of range for axis 0 of length 3"),
        ((0, -5), "index -5 is out of range for axis 1 of length 4"),
        ([0, 3], "index 3 is out of range for axis 0 of length 3"),
        ((slice(None), np.array([[-5]])), "index -5 is out of range for axis 1 of length 4"),
        ((0, 0, 0), "3 indices for a tensor of shape (3, 4)"),
        ((..., ...), "more than one ellipsis"),
    ],
)
def test_an_index_out_of_range_is_named_with_its_axis(key: Any, message: str) -> None:
    with pytest.raises(AxisError) as error:
        tensor(np.zeros((3, 4)))[key]
    assert message in str(error.value)
    assert "test_index.py" in str(error.value)


def test_an_index_out_of_range_in_one_lane_is_named() -> None:
    with pytest.raises(AxisError, match="index 7 is out of range for axis 0 of length 3"):
        fc.vmap(lambda x, i: x[i])(tensor(np.zeros((2, 3))), tensor(np.array([0, 7])))


@pytest.mark.parametrize("key", [[0.5], True, tensor(1.5), "a"])
def test_what_is_no_index_is_refused(key: Any) -> None:
    with pytest.raises(DtypeError):
        tensor(np.zeros(3))[key]


def test_a_mask_of_another_length_is_refused() -> None:
    with pytest.raises(ShapeError, match="mask"):
        tensor(np.zeros(3))[np.array([True, False])]


def test_a_mask_that_varies_is_refused_with_the_way_out() -> None:
    x = tensor(np.arange(6.0).reshape(2, 3))
    with pytest.raises(TraceError, match="where"):
        fc.vmap(lambda row: row[row > 0])(x)
    interpreter.recorder = Recording()
    try:
        with pytest.raises(TraceError, match="where"):
            x[x > 0]
    finally:
        interpreter.recorder = None


def test_values_of_another_dtype_are_refused() -> None:
    with pytest.raises(DtypeError, match="float32"):
        set_(tensor(np.zeros(3)), 0, tensor([1.0])[0])


def test_a_tensor_is_not_assigned_to() -> None:
    with pytest.raises(MutationError, match="set"):
        tensor([1.0])[0] = 2.0


# ---- the named functions


def test_take_follows_numpy() -> None:
    x, i = numbered((2, 3, 4)), np.array([[2, 0], [-1, 1]])
    for axis in (None, 1, -2):
        np.testing.assert_array_equal(
            take(tensor(x), i, axis=axis).numpy(), np.take(x, i, axis=axis)
        )


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_take_along_axis_follows_numpy(axis: int) -> None:
    x = np.random.default_rng(0).standard_normal((3, 4, 2))
    i = np.argsort(x, axis=axis)
    found = take_along_axis(tensor(x), i, axis=axis)
    np.testing.assert_array_equal(found.numpy(), np.take_along_axis(x, i, axis=axis))


def test_scatter_add_adds_repeated_indices() -> None:
    found = scatter_add(tensor(np.ones((2, 3))), [2, 0, 2], tensor(np.ones((2, 3))), axis=1)
    assert found.tolist() == [[2.0, 1.0, 3.0]] * 2


def test_repeated_indices_add_up_in_the_order_in_which_they_stand() -> None:
    rng = np.random.default_rng(0)
    i, g = rng.integers(0, 50, 4000), rng.standard_normal((4000, 3)).astype(np.float32)
    expected = np.zeros((50, 3), np.float32)
    for place, row in zip(i, g, strict=True):
        expected[place] += row
    np.testing.assert_array_equal(scatter_rows(i, tensor(g), count=50).numpy(), expected)


def test_one_hot_has_a_one_at_each_index() -> None:
    assert one_hot([[1, 0]], 3).tolist() == [[[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]]
    assert one_hot([1], 2).dtype == np.float32
    with pytest.raises(AxisError, match=r"3 classes, .* lie in \[3, 3\]"):
        one_hot([3], 3)


def test_the_cotangent_of_an_embedding_stays_factored() -> None:
    words = np.array([[0, 2, 2], [1, 0, 0]])

    def loss(theta: Tensor) -> Tensor:
        return (embedding(theta.reshape(5, 4), words) ** 2).sum()

    theta = tensor(np.random.default_rng(0).standard_normal(20))
    expected = np.zeros((5, 4))
    np.add.at(expected, words, 2 * theta.numpy().reshape(5, 4)[words])
    np.testing.assert_allclose(fc.grad(loss)(theta).numpy(), expected.ravel(), rtol=1e-14)

    vector, rebuild = fc.ravel({"words": theta.reshape(5, 4)})
    pieces = fc.factored_grad(lambda v: (embedding(rebuild(v)["words"], words) ** 2).sum())(vector)
    (part,) = pieces.parts.values()
    assert isinstance(part, Rows)
    np.testing.assert_allclose(part.norm2().item(), (expected**2).sum(), rtol=1e-12)


def test_an_embedding_needs_a_matrix() -> None:
    with pytest.raises(ShapeError, match="embedding"):
        embedding(tensor(np.zeros(3)), [0])


def test_an_embedding_of_per_lane_words_gives_per_lane_gradients() -> None:
    rng = np.random.default_rng(0)
    weight, words = rng.standard_normal((4, 3)), rng.integers(0, 4, (5, 2))
    slope = fc.vmap(fc.grad(lambda w, i: (embedding(w, i) ** 2).sum()), (None, 0))
    found = slope(tensor(weight), tensor(words)).numpy()
    for lane, i in enumerate(words):
        expected = np.zeros((4, 3))
        np.add.at(expected, i, 2 * weight[i])
        np.testing.assert_allclose(found[lane], expected, rtol=1e-14)
