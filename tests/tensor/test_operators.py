"""The operators mean what NumPy's mean, on every mixture of tensors, arrays and plain numbers."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, strategies as st
from hypothesis.extra import numpy as arrays

import fedcore as fc
from fedcore.errors import DtypeError, FedcoreError, MutationError
from fedcore.tensor.tensor import Tensor, tensor

Array = np.ndarray[Any, Any]
F32, F64, I64, B = (np.dtype(d) for d in ("float32", "float64", "int64", "bool"))

ARITHMETIC: list[Callable[[Any, Any], Any]] = [
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    operator.floordiv,
    operator.mod,
]
ORDER = [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge]
BITS = [operator.and_, operator.or_, operator.xor]
SHAPES = arrays.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, min_side=0, max_side=3)
WHOLE = st.integers(-3, 3)
HALVES = st.sampled_from([-2.5, -1.0, 0.0, 0.5, 1.5, 3.0])  # exact in any precision


def array_of(dtype: np.dtype[Any], shape: tuple[int, ...]) -> st.SearchStrategy[Array]:
    elements = {"f": HALVES, "i": WHOLE, "b": st.booleans()}[dtype.kind]
    return arrays.arrays(dtype, shape, elements=elements)


@st.composite
def operands(draw: Any, dtypes: tuple[np.dtype[Any], ...]) -> tuple[Any, Any]:
    """A tensor and, on either side, another, an array, or a Python or NumPy number."""
    first, second = draw(SHAPES).input_shapes
    dtype = draw(st.sampled_from(dtypes))
    x = tensor(draw(array_of(dtype, first)))
    kind = draw(st.sampled_from(["tensor", "array", "python", "numpy"]))
    if kind in ("tensor", "array"):
        other = draw(st.sampled_from([d for d in dtypes if {d, dtype} != {F32, F64}]))
        array = draw(array_of(other, second))
        y: Any = tensor(array) if kind == "tensor" else array
    else:
        numbers = [st.booleans()] if B in dtypes else []
        numbers += [WHOLE] if I64 in dtypes else []
        numbers += [HALVES] if F32 in dtypes else []
        y = draw(st.one_of(numbers))
        y = np.asarray(y)[()] if kind == "numpy" else y
    return (x, y) if draw(st.booleans()) else (y, x)


def common(*values: Any) -> np.dtype[Any]:
    """The dtype in which operands meet: that of the floating tensor; a plain number is weak."""
    # NumPy hands its numbers on as 0-d arrays where they stand on the left, so both are weak.
    weak = [not isinstance(v, Tensor) and np.ndim(v) == 0 for v in values]
    held = [np.asarray(v).dtype for v, is_weak in zip(values, weak, strict=True) if not is_weak]
    loose = [np.asarray(v).dtype for v, is_weak in zip(values, weak, strict=True) if is_weak]
    floating = [d for d in held if d.kind == "f"]
    if floating:
        return floating[0]
    if any(d.kind == "f" for d in loose):
        return F32
    return I64 if any(d.kind == "i" for d in held + loose) else B


def reference(function: Callable[..., Any], *values: Any) -> Array:
    """NumPy's result after conversion to the common dtype; quotients of integers in float32."""
    dtype = common(*values)
    with np.errstate(all="ignore"):
        found = np.asarray(function(*[np.asarray(v, dtype=dtype) for v in values]))
    return found.astype(F32) if found.dtype == F64 != dtype else found


def assert_same(found: Tensor, expected: Array) -> None:
    assert isinstance(found, Tensor)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found.numpy(), expected, strict=True)


@given(st.sampled_from(ARITHMETIC + ORDER), operands((F32, F64, I64, B)))
@example(operator.eq, (np.float64(-2.5), tensor(np.array(-2.5, np.float32))))
@example(operator.add, (np.array(-2.5), tensor(np.array([1, 2]))))
@example(operator.add, (tensor(np.array([1, 2])), np.array(-2.5)))
def test_arithmetic_and_order_give_numpys_bits(
    function: Callable[[Any, Any], Any], pair: tuple[Any, Any]
) -> None:
    try:
        expected = reference(function, *pair)
    except TypeError:  # the difference of two booleans
        with pytest.raises(DtypeError, match=r"subtract: .*bool"):
            function(*pair)
        return
    with np.errstate(all="ignore"):
        assert_same(function(*pair), expected)


@given(st.sampled_from(BITS), operands((I64, B)))
def test_bits_are_combined_as_numpy_does(
    function: Callable[[Any, Any], Any], pair: tuple[Any, Any]
) -> None:
    assert_same(function(*pair), reference(function, *pair))


@given(operands((F32, F64, I64)))
def test_divmod_is_the_pair_of_quotient_and_remainder(pair: tuple[Any, Any]) -> None:
    with np.errstate(all="ignore"):
        quotient, rest = divmod(*pair)
        assert_same(quotient, reference(operator.floordiv, *pair))
        assert_same(rest, reference(operator.mod, *pair))


@pytest.mark.parametrize("dtype", [F32, F64, I64, B])
def test_signs_follow_numpy(dtype: np.dtype[Any]) -> None:
    x = np.array([[-2, 0, 3]]).astype(dtype)
    assert_same(+tensor(x), x)
    assert_same(abs(tensor(x)), abs(x))
    if dtype.kind != "b":
        assert_same(-tensor(x), -x)
    if dtype.kind != "f":
        assert_same(~tensor(x), ~x)


@pytest.mark.parametrize("call", [lambda x: ~x, lambda x: x & 1, lambda x: True | x])
def test_floating_numbers_have_no_bits(call: Callable[[Tensor], Any]) -> None:
    with pytest.raises(DtypeError, match="no bits"):
        call(tensor([1.0]))


# ---- powers


@given(
    st.sampled_from([F32, F64]),
    st.one_of(st.integers(-9, 9), st.sampled_from([0.5, -0.5, 1.5, 2.0, np.int64(3)])),
)
def test_powers_follow_numpy(dtype: np.dtype[Any], exponent: Any) -> None:
    x = np.array([0.5, 1.0, 1.75, 3.0], dtype)
    found = tensor(x) ** exponent
    assert found.dtype == dtype
    rtol = 8 * np.finfo(dtype).eps  # three squares, a product and a reciprocal
    np.testing.assert_allclose(found.numpy(), x.astype(F64) ** float(exponent), rtol=rtol)


@pytest.mark.parametrize("exponent", range(-3, 10))
def test_the_derivative_of_a_power_is_known_everywhere(exponent: int) -> None:
    x = np.array([-1.5, 0.0, 2.0]) if exponent >= 0 else np.array([-1.5, 2.0])
    slope = fc.grad(lambda x: (x**exponent).sum())(tensor(x))
    expected = exponent * x ** float(exponent - 1) if exponent else np.zeros(3)
    np.testing.assert_allclose(slope.numpy(), expected, rtol=1e-14)


def test_a_power_of_two_tensors_has_derivative_0_at_exponent_0() -> None:
    slope = fc.grad(lambda x: (x ** tensor(np.array([0.0, 2.0]))).sum())(tensor(np.zeros(2)))
    assert slope.tolist() == [0.0, 0.0]


def test_powers_of_integers_stay_integers_unless_they_cannot() -> None:
    x = tensor([1, 2, 3])
    assert_same(x**3, np.array([1, 8, 27]))
    assert_same(2**x, np.array([2, 4, 8]))
    assert_same(x**0, np.array([1, 1, 1]))
    for exponent, expected in ((-1, [1, 0.5, 1 / 3]), (2.0, [1, 4, 9]), (0.5, [1, 2**0.5, 3**0.5])):
        found = x**exponent
        assert found.dtype == F32
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    with pytest.raises(FedcoreError, match="power"):
        x ** tensor([-1, -2, -3])


# ---- numbers beside tensors


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int64"])
@pytest.mark.parametrize("value", [2**70, -(2**70), np.uint64(2**63)])
def test_a_number_that_does_not_fit_is_refused(dtype: str, value: Any) -> None:
    with pytest.raises(DtypeError, match=f"add: the number .* does not fit into {dtype}"):
        tensor(np.ones(2, dtype)) + value


def test_a_numpy_integer_does_not_wrap_around() -> None:
    with pytest.raises(DtypeError, match="300 does not fit into uint8"):
        tensor(np.ones(2, np.uint8)) * np.int64(300)


def test_signed_and_unsigned_integers_of_64_bits_do_not_become_floating() -> None:
    with pytest.raises(DtypeError, match="int64 and uint64"):
        tensor(np.ones(2, np.uint64)) + tensor(np.ones(2, np.int64))


@pytest.mark.parametrize("value", [2.0, np.float64(2.0), 2, True, np.float32(2.0), np.int32(2)])
def test_plain_numbers_never_widen_a_float32_tensor(value: Any) -> None:
    x = tensor([1.0, 4.0])
    for function in (*ARITHMETIC, operator.pow):
        assert function(x, value).dtype == F32
        assert function(value, x).dtype == F32


def test_an_augmented_assignment_binds_the_name_anew_and_leaves_others_alone() -> None:
    x = other = tensor([1.0, 2.0])
    array = np.ones(2, np.float32)
    shared = tensor(array)
    x += 1.0
    x *= shared
    shared -= 5.0
    assert x.tolist() == [2.0, 3.0]
    assert other.tolist() == [1.0, 2.0]
    assert array.tolist() == [1.0, 1.0]


def test_an_array_is_not_changed_in_place_by_a_tensor() -> None:
    array = np.ones(2)
    with pytest.raises(MutationError, match="no out="):
        array += tensor(np.ones(2))
    with pytest.raises(MutationError, match="no out="):
        np.exp(tensor(np.ones(2)), out=array)
    assert array.tolist() == [1.0, 1.0]


def test_a_comparison_with_none_or_a_text_is_an_ordinary_false() -> None:
    x = tensor([1.0, 2.0])
    assert (x == None) is False  # noqa: E711
    assert (x != "word") is True
    assert x not in (None, "word")


@pytest.mark.parametrize("function", [fc.exp, fc.log, fc.sqrt, fc.tanh, fc.sin, fc.reciprocal])
def test_functions_of_integers_give_float32(function: Callable[[Any], Tensor]) -> None:
    x = np.array([1, 4])
    found = function(tensor(x))
    assert found.dtype == F32
    expected = function(tensor(x.astype(F64)))
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-6)
    compiled = fc.compile(function)
    for values in (x, x + 1):  # and so does a replay
        assert compiled(tensor(values)).tolist() == function(tensor(values)).tolist()
