"""NumPy's functions of tensors are operations, or read the values, or say why they cannot."""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fedcore as fc
from fedcore.errors import DerivativeError, TraceError
from fedcore.tensor.interop import Interop
from fedcore.tensor.primitive import primitives
from fedcore.tensor.tensor import Tensor, tensor

A = np.array([[0.25, 0.5], [0.75, 0.125]], np.float32)
B = np.array([[0.5, 0.25], [0.25, 0.75]], np.float32)
UFUNCS = [name for name, f in vars(np).items() if isinstance(f, np.ufunc) and name == f.__name__]
OPERATIONS = sorted({p.ufunc for p in primitives.values() if p.ufunc} | {"divide", "matmul"})

READERS: list[Callable[[Any], Any]] = [
    np.sum,
    np.mean,
    np.max,
    np.argmax,
    np.median,
    np.sort,
    np.unique,
    np.linalg.norm,
    np.add.reduce,
    np.cbrt,
    lambda x: np.sum(x, axis=0, keepdims=True),
    lambda x: np.where(x > 0.3, x, 0.0),
    lambda x: np.clip(x, 0.2, 0.4),
    lambda x: np.concatenate([x, x], axis=1),
    lambda x: np.stack((x, A)),
    lambda x: np.block([[x, A], [B, x]]),
    lambda x: np.einsum("ij,kj->ik", x, A),
    lambda x: np.dot(A, x),
    lambda x: A.dot(x),
    lambda x: np.allclose(x, A),
    lambda x: np.array_equal(a1=x, a2=A),
    lambda x: np.asarray(x),
    lambda x: np.array([x, x]),
    lambda x: np.maximum.accumulate(x),
    lambda x: np.exp(x, dtype=np.float64),
]


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_elementwise_function_of_numpy_is_the_operation_of_its_name(name: str) -> None:
    function: Any = getattr(np, name)
    given = (A > 0.3, B > 0.3) if name.startswith(("bitwise", "invert")) else (A, B)
    arrays = [x + 1.0 if name == "arccosh" else x for x in given][: function.nin]
    found = function(*[tensor(x) for x in arrays])
    assert isinstance(found, Tensor)
    np.testing.assert_allclose(found.numpy(), function(*arrays), rtol=1e-6)  # one rounding


@pytest.mark.parametrize("name", UFUNCS)
def test_no_function_of_numpy_drops_a_derivative(name: str) -> None:
    function: Any = getattr(np, name)
    at = A + np.float64(0.01)  # away from the steps of rint

    def loss(x: Any) -> Any:
        value = function(*[x] * function.nin)
        first = value[0] if isinstance(value, tuple) else value
        assert isinstance(first, Tensor)
        return (first * 1.0).sum()

    step = 1e-6  # its square is the error of the difference
    with np.errstate(all="ignore"):
        try:
            slope = fc.grad(loss)(tensor(at)).numpy()
        except (DerivativeError, TypeError):  # it is no operation, or not of floating numbers
            return
        above, below = (loss(tensor(at + shift)).item() for shift in (step, -step))
    np.testing.assert_allclose(slope.sum(), (above - below) / (2 * step), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("read", READERS)
def test_other_functions_read_the_values_and_give_what_numpy_gives(read: Any) -> None:
    found, expected = read(tensor(A)), read(A)
    assert type(found) is type(expected)
    np.testing.assert_array_equal(found, expected, strict=True)


@pytest.mark.parametrize("read", READERS)
def test_other_functions_are_refused_where_something_would_be_lost(read: Any) -> None:
    with pytest.raises(DerivativeError, match="is being differentiated"):
        fc.grad(lambda x: fc.sum(read(x)))(tensor(A))
    with pytest.raises(TraceError, match="recorded"):
        fc.compile(lambda x: fc.sum(read(x)))(tensor(A))
    with pytest.raises(TraceError, match="lanes"):
        fc.vmap(read)(tensor(A[None]))


def test_the_function_and_the_line_are_named() -> None:
    with pytest.raises(DerivativeError, match=r"^FED-1107 numpy\.linalg\.norm: ") as caught:
        fc.grad(lambda x: np.linalg.norm(x))(tensor(A))
    assert "test_interop.py" in caught.value.where


def test_the_shape_is_known_in_a_gradient_a_lane_and_a_recording() -> None:
    def shaped(x: Any) -> Any:
        return x.sum() * np.ndim(x) * np.size(x) * np.shape(x)[0]

    expected = A.sum() * 16
    assert fc.grad(shaped)(tensor(A)).tolist() == [[16.0, 16.0], [16.0, 16.0]]
    assert fc.compile(shaped)(tensor(A)).item() == expected
    assert fc.vmap(shaped)(tensor(A[None])).tolist() == [expected]


def test_numpys_own_assertions_take_tensors() -> None:
    np.testing.assert_allclose(tensor(A), A)
    np.testing.assert_array_equal(tensor(A), tensor(A))
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(tensor(A), B)


def test_tensors_in_a_named_tuple_are_read_as_in_a_tuple() -> None:
    pair = collections.namedtuple("pair", "a b")(tensor(A), B)
    np.testing.assert_array_equal(np.concatenate(pair), np.concatenate([A, B]))


def test_divmod_gives_two_tensors() -> None:
    for found, expected in zip(np.divmod(A, tensor(B)), np.divmod(A, B), strict=True):
        np.testing.assert_array_equal(found.numpy(), expected)


def test_cupy_which_asks_the_operand_leaves_the_operator_to_it() -> None:
    assert tensor(A).__array_ufunc__ is None
    assert Interop.__array_ufunc__ is not None
