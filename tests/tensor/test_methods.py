"""The methods of a tensor mean what an array's mean: reductions, shapes, and Python's protocols."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as arrays

import fedcore as fc
from fedcore.errors import AxisError, DtypeError, ShapeError, TraceError
from fedcore.tensor.tensor import Tensor, tensor
from tests.tensor.test_operators import F32, F64, I64, B, array_of

Array = np.ndarray[Any, Any]
SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)
DTYPES = st.sampled_from([F32, F64, I64, B])
VALUES = st.tuples(DTYPES, SHAPES).flatmap(lambda case: array_of(*case))


@st.composite
def reduced(draw: Any) -> tuple[Array, Any]:
    """An array and the axes to reduce: None, one, or several, counted from either end."""
    x = draw(VALUES)
    choices = [st.none()]
    if x.ndim:
        axis = st.integers(-x.ndim, x.ndim - 1)
        several = st.lists(axis, unique_by=lambda a: a % x.ndim).map(tuple)
        choices += [axis, several]
    return x, draw(st.one_of(choices))


def assert_close(found: Tensor, expected: Any, dtype: Any) -> None:
    assert found.dtype == dtype
    assert found.shape == np.shape(expected)
    rtol = 32 * (np.finfo(dtype).eps if found.dtype.kind == "f" else 0)  # of some 81 additions
    np.testing.assert_allclose(found.numpy(), expected, rtol=rtol, atol=rtol)


def of_nothing(x: Array, axis: Any) -> bool:
    axes = range(x.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    return any(x.shape[a] == 0 for a in axes)


# ---- reductions


@given(reduced(), st.booleans(), st.sampled_from(["sum", "prod", "any", "all"]))
def test_reductions_of_anything_follow_numpy(
    case: tuple[Array, Any], keepdims: bool, name: str
) -> None:
    x, axis = case
    expected = getattr(np, name)(x, axis=axis, keepdims=keepdims)
    assert_close(getattr(tensor(x), name)(axis, keepdims), expected, expected.dtype)


@given(reduced(), st.booleans(), st.sampled_from(["mean", "var", "std"]))
def test_moments_follow_numpy_in_the_precision_of_the_operand(
    case: tuple[Array, Any], keepdims: bool, name: str
) -> None:
    x, axis = case
    dtype = x.dtype if x.dtype.kind == "f" else F32
    if not of_nothing(x, axis):
        expected = getattr(np, name)(x.astype(F64), axis=axis, keepdims=keepdims)
        found = getattr(tensor(x), name)(axis, keepdims)
        assert_close(found, expected, dtype)


@given(reduced(), st.booleans(), st.sampled_from(["max", "min"]))
def test_extrema_follow_numpy_and_need_an_element(
    case: tuple[Array, Any], keepdims: bool, name: str
) -> None:
    x, axis = case
    try:
        expected = getattr(np, name)(x, axis=axis, keepdims=keepdims)
    except ValueError:
        with pytest.raises(ShapeError, match=f"{name} of no elements"):
            getattr(tensor(x), name)(axis, keepdims)
        return
    found = getattr(tensor(x), name)(axis, keepdims)
    np.testing.assert_array_equal(found.numpy(), expected)
    assert found.dtype == expected.dtype


@given(VALUES, st.sampled_from(["argmax", "argmin", "cumsum"]), st.data())
def test_what_works_along_one_axis_or_the_flattened_array_follows_numpy(
    x: Array, name: str, data: st.DataObject
) -> None:
    axis = data.draw(
        st.one_of(st.none(), st.integers(-x.ndim, x.ndim - 1)) if x.ndim else st.none()
    )
    try:
        expected = getattr(np, name)(x, axis=axis)
    except ValueError:
        with pytest.raises(ShapeError, match="no elements"):
            getattr(tensor(x), name)(axis)
        return
    np.testing.assert_array_equal(getattr(tensor(x), name)(axis).numpy(), expected)


def test_the_mean_of_nothing_is_an_error_not_nan() -> None:
    for name in ("mean", "var", "std"):
        with pytest.raises(ShapeError, match="no elements"):
            getattr(tensor(np.ones((0, 3))), name)(0)


def test_a_count_of_booleans_is_a_whole_number_also_of_one() -> None:
    assert tensor(True).sum().dtype == np.int64
    assert tensor(True).prod().dtype == np.int64
    assert fc.tensor([True, True]).sum().item() == 2


@given(reduced())
def test_logsumexp_is_the_logarithm_of_the_sum_of_exponentials(case: tuple[Array, Any]) -> None:
    x, axis = case
    dtype = x.dtype if x.dtype.kind == "f" else F32
    if not of_nothing(x, axis):
        expected = np.log(np.sum(np.exp(x.astype(F64)), axis=axis))
        assert_close(fc.logsumexp(tensor(x), axis=axis), expected, dtype)


@pytest.mark.parametrize("shift", [-1e30, 0.0, 1e30])
def test_logsumexp_of_extreme_and_masked_rows_stays_finite(shift: float) -> None:
    x = np.array([[0.0, 0.0], [0.0, -np.inf], [-np.inf, -np.inf]]) + shift
    values = fc.logsumexp(tensor(x), axis=1).numpy()
    np.testing.assert_allclose(values, [np.log(2.0) + shift, shift, -np.inf])
    slope = fc.grad(lambda x: fc.logsumexp(x, axis=1)[:2].sum())(tensor(x))
    np.testing.assert_allclose(slope.numpy(), [[0.5, 0.5], [1.0, 0.0], [0.0, 0.0]], atol=1e-12)
    masked = fc.grad(lambda x: fc.logsumexp(x, axis=1).sum())(tensor(x[2:]))
    assert masked.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("axis", [2, -3, (0, 0), (0, -2), 0.0, "a", True, (None,)])
def test_an_axis_that_is_none_is_refused(axis: Any) -> None:
    for name in ("sum", "max", "mean", "any"):
        with pytest.raises(AxisError, match="axis"):
            getattr(tensor(np.ones((2, 3))), name)(axis)


def test_an_axis_may_be_a_numpy_integer() -> None:
    assert tensor(np.ones((2, 3))).sum(np.int64(1)).shape == (2,)


# ---- shapes


@given(VALUES)
def test_views_of_the_shape_follow_numpy(x: Array) -> None:
    t = tensor(x)
    assert (t.shape, t.ndim, t.size, t.dtype) == (x.shape, x.ndim, x.size, x.dtype)
    for found, expected in (
        (t.T, x.T),
        (t.flatten(), x.ravel()),
        (t.ravel(), x.ravel()),
        (t.squeeze(), x.squeeze()),
        (t.transpose(), x.transpose()),
        (t.reshape(-1), x.reshape(-1)),
        (t.reshape(x.shape), x),
        (t.reshape((*x.shape, 1)), x[..., None]),
        (fc.expand_dims(t, 0), x[None]),
    ):
        np.testing.assert_array_equal(found.numpy(), expected, strict=True)


@given(VALUES.filter(lambda x: x.ndim >= 2), st.data())
def test_axes_are_permuted_as_numpy_does(x: Array, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(x.ndim)))
    i, j = order[0] - x.ndim, order[1]
    for found, expected in (
        (tensor(x).transpose(*order), x.transpose(order)),
        (tensor(x).transpose(order), x.transpose(order)),
        (tensor(x).swapaxes(i, j), x.swapaxes(i, j)),
        (tensor(x).mT, x.mT),
        (fc.transpose(x, order), np.transpose(x, order)),
        (fc.moveaxis(x, i, j), np.moveaxis(x, i, j)),
        (fc.moveaxis(x, order[:2], (j, i)), np.moveaxis(x, order[:2], (j, i))),
    ):
        np.testing.assert_array_equal(found.numpy(), expected, strict=True)


def test_an_axis_moves_to_one_place() -> None:
    for source, destination in ((0, (0, 1)), ((0, 0), (0, 1)), (2, 0), (0, None)):
        with pytest.raises(AxisError, match="moveaxis"):
            fc.moveaxis(np.ones((2, 3)), source, destination)  # type: ignore[arg-type]


def test_sorted_elements_and_norms_are_methods_too() -> None:
    x = np.array([[3.0, 1.0, 2.0], [-1.0, 5.0, 0.5]])
    for axis in (0, 1, -1):
        np.testing.assert_array_equal(tensor(x).sort(axis).numpy(), np.sort(x, axis))
        expected = np.linalg.norm(x, axis=axis, keepdims=True)
        np.testing.assert_allclose(tensor(x).norm(axis, keepdims=True).numpy(), expected)
    np.testing.assert_allclose(tensor(x).norm().item(), np.linalg.norm(x))


@given(VALUES.filter(lambda x: x.size), st.data())
def test_elements_are_picked_and_repeated_as_numpy_does(x: Array, data: st.DataObject) -> None:
    axis = data.draw(
        st.one_of(st.none(), st.integers(-x.ndim, x.ndim - 1)) if x.ndim else st.none()
    )
    length = x.size if axis is None else x.shape[axis]
    places = data.draw(arrays.arrays(np.int64, (2,), elements=st.integers(-length, length - 1)))
    np.testing.assert_array_equal(tensor(x).take(places, axis).numpy(), np.take(x, places, axis))
    np.testing.assert_array_equal(tensor(x).repeat(2, axis).numpy(), np.repeat(x, 2, axis))
    shift = int(places[0])
    np.testing.assert_array_equal(
        fc.roll(tensor(x), shift, axis=axis).numpy(), np.roll(x, shift, axis)
    )


@given(VALUES, DTYPES)
def test_conversion_and_limits_follow_numpy(x: Array, dtype: np.dtype[Any]) -> None:
    np.testing.assert_array_equal(tensor(x).astype(dtype).numpy(), x.astype(dtype), strict=True)
    if x.dtype.kind != "b":
        np.testing.assert_array_equal(tensor(x).clip(-1, 2).numpy(), x.clip(-1, 2), strict=True)
        np.testing.assert_array_equal(tensor(x).clip(high=1).numpy(), x.clip(max=1), strict=True)
        np.testing.assert_array_equal(tensor(x).round().numpy(), x.round(), strict=True)


def test_conversion_to_the_same_dtype_is_the_tensor_itself() -> None:
    x = tensor([1.0])
    assert x.astype("float32") is x


def test_numbers_are_put_in_place_of_nan_and_the_infinities() -> None:
    x = np.array([np.nan, np.inf, -np.inf, 1.5])
    np.testing.assert_array_equal(fc.nan_to_num(tensor(x)).numpy(), np.nan_to_num(x))
    found = fc.nan_to_num(tensor(x), nan=1.0, posinf=2.0, neginf=3.0)
    assert found.tolist() == [1.0, 2.0, 3.0, 1.5]
    slope = fc.grad(lambda x: fc.nan_to_num(x, posinf=2.0, neginf=3.0).sum())(tensor(x))
    assert slope.tolist() == [0.0, 0.0, 0.0, 1.0]


# ---- Python's protocols


def test_a_tensor_counts_iterates_and_finds_as_an_array() -> None:
    x = np.arange(6).reshape(3, 2)
    assert len(tensor(x)) == 3
    assert [row.tolist() for row in tensor(x)] == x.tolist()
    assert 5 in tensor(x)
    assert 6 not in tensor(x)
    assert tensor(np.int64(1)) in tensor(x)
    first, *rest = tensor(x)
    assert first.tolist() == [0, 1] and len(rest) == 2
    with pytest.raises(ShapeError, match="len"):
        len(tensor(1.0))


def test_one_number_becomes_pythons() -> None:
    x = tensor([[2.5]])
    assert (float(x), int(x), bool(x), x.item()) == (2.5, 2, True, 2.5)
    assert f"{x:.3f} {tensor(3):d}" == "2.500 3"
    assert [10, 11, 12][tensor(2)] == 12
    assert list(range(tensor(2))) == [0, 1]
    for convert in (float, int, bool, lambda t: t.item(), lambda t: f"{t:.2f}"):
        with pytest.raises(ShapeError, match=r"of a tensor of shape \(2,\)"):
            convert(tensor([1.0, 2.0]))
    for other in (tensor(2.0), tensor([2]), tensor(True)):
        with pytest.raises(DtypeError, match="no index"):
            [10, 11, 12][other]


def test_the_text_of_a_tensor_shows_values_and_dtype_and_stays_short() -> None:
    assert repr(tensor([1.0, 2.5])) == "tensor([1. , 2.5], dtype=float32)"
    assert str(tensor(3)) == f"{tensor(3)}" == "tensor(3, dtype=int64)"
    assert len(repr(tensor(np.zeros((1000, 1000))))) < 1000
    shown: list[str] = []
    fc.vmap(lambda row: shown.append(repr(row)) or row)(tensor(np.zeros((5, 2))))
    assert shown == ["Tensor(shape=(2,), dtype=float64, lanes=(5,))"]


def test_tensors_are_told_apart_by_identity_in_sets_and_dicts() -> None:
    x, y = tensor([1.0]), tensor([1.0])
    assert hash(x) != hash(y)
    assert len({x, y, x}) == 2
    assert {x: "x"}[x] == "x"


def test_numpys_view_of_a_tensor_cannot_be_written_to() -> None:
    array = np.ones(3)
    x = tensor(array)
    for view in (x.numpy(), np.asarray(x)):
        assert np.shares_memory(view, array)
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 2.0
    array[0] = 2.0  # the owner may
    assert x.tolist() == [2.0, 1.0, 1.0]
    own = np.array(x)
    own[0] = 5.0
    assert x.tolist() == [2.0, 1.0, 1.0]
    assert np.asarray(x, dtype=np.float32).dtype == np.float32


def test_a_copy_is_the_tensor_and_a_deep_copy_has_memory_of_its_own() -> None:
    array = np.ones(2)
    x = tensor(array)
    assert copy.copy(x) is x
    deep = copy.deepcopy({"w": x})["w"]
    array[:] = 7.0
    assert x.tolist() == [7.0, 7.0]
    assert deep.tolist() == [1.0, 1.0]


def test_a_deep_copy_keeps_its_derivative_lane_and_place_in_a_program() -> None:
    slope = fc.grad(lambda x: (copy.deepcopy(x * 2.0) ** 2).sum())
    assert slope(tensor([3.0])).tolist() == [24.0]
    assert fc.vmap(slope)(tensor([[3.0], [1.0]])).tolist() == [[24.0], [8.0]]
    step = fc.compile(lambda x: copy.deepcopy(x + 1.0))
    assert [step(tensor([v])).item() for v in (1.0, 2.0)] == [2.0, 3.0]


def test_a_tensor_survives_pickling_but_not_its_derivative() -> None:
    for x in (np.arange(3.0), np.array(True), np.zeros((0, 2), np.float32)):
        found = pickle.loads(pickle.dumps(tensor(x)))
        np.testing.assert_array_equal(found.numpy(), x, strict=True)
    with pytest.raises(TraceError, match="pickled"):
        fc.grad(lambda x: pickle.dumps(x) and x.sum())(tensor([1.0]))
    with pytest.raises(TraceError, match="lanes"):
        fc.vmap(lambda x: pickle.dumps(x) and x)(tensor([1.0]))


# ---- what a tensor is made of


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (1, I64),
        (1.5, F32),
        (True, B),
        ([1, 2.5], F32),
        ([[True]], B),
        ((), F32),
        (np.float64(1.0), F64),
        (np.ones(2, ">f4"), F32),
        (np.ones(2, np.float64), F64),
        (range(3), I64),
    ],
)
def test_numbers_become_tensors_of_their_kind(values: Any, dtype: np.dtype[Any]) -> None:
    found = tensor(values)
    assert found.dtype == dtype and found.dtype.isnative
    assert found.tolist() == np.asarray(values).tolist()


def test_a_requested_dtype_is_reached_without_a_detour() -> None:
    assert tensor(0.1, dtype="float64").item() == 0.1
    assert fc.full((2,), 0.1, dtype="float64").tolist() == [0.1, 0.1]
    assert tensor([0.1, 0.2], dtype=np.float64).tolist() == [0.1, 0.2]


def test_tensors_in_lists_keep_their_derivatives() -> None:
    slope = fc.grad(lambda x: (tensor([x, x * 2.0, 1.0]) ** 2).sum())
    assert slope(tensor(3.0)).item() == 30.0


class Named(np.ndarray[Any, Any]):
    """A subclass that means nothing to the core."""


@pytest.mark.parametrize("kind", [np.memmap, np.recarray, Named])
def test_a_subclass_of_arrays_computes_as_an_array(kind: type[Any], tmp_path: Path) -> None:
    plain = np.array([1.0, 2.0], np.float32)
    plain.tofile(tmp_path / "values")
    mapped = kind is np.memmap
    given: Any = np.memmap(tmp_path / "values", np.float32, "r") if mapped else plain.view(kind)
    assert type(given) is kind and type(tensor(given).data) is np.ndarray
    square = lambda x: given * x + tensor(plain) * given - x * plain  # noqa: E731
    assert square(tensor(given)).tolist() == fc.compile(square)(given).tolist() == [1.0, 4.0]
    assert fc.vmap(lambda x: x * given)(given.reshape(1, 2)).tolist() == [[1.0, 4.0]]
    assert fc.grad(lambda x: (x * given).sum())(given).tolist() == [1.0, 2.0]
    assert fc.add(given, plain).tolist() == fc.add(plain, given).tolist() == [2.0, 4.0]
