"""Whatever is passed to an operation, its error says what, why, where and how to mend it."""

from __future__ import annotations

import inspect
import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import fedcore as fc
from fedcore.errors import ArgumentError, CapacityError, DtypeError, FedcoreError, ShapeError
from fedcore.tensor.primitive import Primitive
from fedcore.tensor.registry import operations
from fedcore.tensor.tensor import Tensor, tensor
from tests.tensor.valid_calls import CALLS, INTERNAL, Call

# No operation takes these as an operand.
NO_OPERANDS: list[Any] = [
    "a",
    b"a",
    object(),
    np.array([None, 1]),
    np.array(["a"]),
    np.array([1j]),
    1j,
    np.datetime64("2020"),
    {"a": 1},
    len,
    [[1.0], [1.0, 2.0]],
    np.ma.masked_array([1.0], [True]),
]

# Some operations take some of these, as an operand or an option.
DOUBTFUL: list[Any] = [
    *(None, True, 0, -1, 7, 2**70, 2.5, float("nan"), float("inf"), np.float64(0.5), np.int8(3)),
    *(
        (),
        (1,),
        (5, 5),
        (0, 0),
        (9,),
        (1.0,),
        ("word",),
        ((1,), (2,)),
        [0.5],
        [None],
        [[1, 2], [3]],
    ),
    *(range(3), set(), {}, slice(None), "same", "word", object(), 1j, np.array(3), iter([1])),
    *(tensor(1.0), tensor([1.0, 2.0]), np.zeros((3, 4)), np.zeros((7, 9)), np.zeros((2, 3, 5))),
    *(np.zeros((1, 2, 3, 4, 5, 6)), np.zeros(0), np.zeros((3, 4), bool), np.zeros((3, 4), int)),
]

each_call = pytest.mark.parametrize("call", CALLS, ids=str)


def run(call: Call, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    with warnings.catch_warnings():  # of divisions by zero and the like, as NumPy's own
        warnings.simplefilter("ignore", RuntimeWarning)
        return getattr(operations, call.name)(*args, **options)


def spoilt(call: Call, values: list[Any]) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """The call with one argument at a time replaced by each of the values."""
    for value in values:
        for i in range(len(call.args)):
            yield (*call.args[:i], value, *call.args[i + 1 :]), call.options
        for name in call.options:
            yield call.args, {**call.options, name: value}


def assert_helpful(error: FedcoreError) -> None:
    """It names an operation and the user's line, says why, and what to do."""
    named = error.what.split(":")[0].split(" of ")[0]
    places = "index", "broadcast_to", "random key", "len()", "a tensor"
    assert named in operations or error.what.startswith(places), error.what
    assert "test_errors.py" in error.where, error.what
    assert error.why and error.fix, error.what


def test_every_operation_has_a_valid_call() -> None:
    called = {call.name for call in CALLS}
    assert (set(operations) - called, called - set(operations)) == (INTERNAL, set())
    for call in CALLS:
        run(call, call.args, call.options)


@each_call
def test_what_is_no_tensor_is_refused_by_name(call: Call) -> None:
    for i, value in itertools.product(range(len(call.arrays)), NO_OPERANDS):
        operands = (*call.arrays[:i], value, *call.arrays[i + 1 :])
        bad = Call(call.name, operands, call.rest, call.options, call.array_first)
        with pytest.raises(FedcoreError) as caught:
            run(call, bad.args, call.options)
        assert_helpful(caught.value)


@each_call
def test_nonsense_in_one_argument_gives_a_helpful_error_or_a_value(call: Call) -> None:
    for args, options in spoilt(call, DOUBTFUL):
        try:
            run(call, args, options)
        except FedcoreError as error:
            assert_helpful(error)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, b: a + b, r"add: shapes do not broadcast: \(2, 3\), \(4,\)"),
        (lambda a, b: a @ b, r"matmul: inner sizes differ: left \(2, 3\), right \(4,\)"),
        (lambda a, b: fc.where(a > 0, a, b), r"where: shapes do not .*\(2, 3\), .*\(4,\)"),
        (lambda a, b: fc.concatenate([a, b]), r"concatenate: shapes differ .*\(2, 3\), \(4,\)"),
        (lambda a, b: fc.stack([a, b]), r"stack: shapes differ: \(2, 3\), \(4,\)"),
        (lambda a, b: fc.contract("ij,j->i", a, b), r"lengths 3 and 4"),
        (lambda a, b: fc.set(a, 0, b), r"set: values \(4,\) for elements \(3,\) .*\(2, 3\)"),
        (lambda a, b: a.reshape(4), r"reshape: \(2, 3\) has 6 elements, \(4,\) does not"),
    ],
)
def test_shapes_that_do_not_fit_are_both_named(call: Callable[..., Any], message: str) -> None:
    with pytest.raises(FedcoreError, match=message) as caught:
        call(tensor(np.zeros((2, 3), np.float32)), tensor(np.zeros(4, np.float32)))
    assert_helpful(caught.value)


def test_an_error_inside_lanes_names_the_shapes_of_one_lane() -> None:
    a, b = tensor(np.zeros((5, 2, 3))), tensor(np.zeros((5, 2, 4)))
    with pytest.raises(ShapeError, match=r"add: shapes do not broadcast: \(2, 3\), \(2, 4\)"):
        fc.vmap(lambda a, b: a + b)(a, b)


@pytest.mark.parametrize(
    "call",
    [
        lambda a, b: a + b,
        lambda a, b: b * a,
        lambda a, b: a**b,
        lambda a, b: a @ b,
        lambda a, b: a < b,
        lambda a, b: fc.where(a > 0, a, b),
        lambda a, b: fc.concatenate([a, b]),
        lambda a, b: fc.outer(a, b),
        lambda a, b: fc.contract("i,i->i", a, b),
        lambda a, b: fc.set(a, 0, b[0]),
        lambda a, b: operations.mse(a, b),
        lambda a, b: operations.layer_norm(a, b),
    ],
)
def test_two_precisions_never_meet(call: Callable[..., Any]) -> None:
    small, large = tensor(np.ones(3, np.float32)), tensor(np.ones(3))
    for pair in ((small, large), (large, small)):
        with pytest.raises(DtypeError, match="float32") as caught:
            call(*pair)
        assert "float64" in str(caught.value)
        assert_helpful(caught.value)


PRIMITIVES = {
    name: getattr(operations, name)
    for name in operations
    if isinstance(getattr(operations, name), Primitive)
}


@pytest.mark.parametrize("name", PRIMITIVES)
def test_a_primitive_called_otherwise_than_its_signature_shows_it(name: str) -> None:
    prim, x = PRIMITIVES[name], tensor(np.ones((1, 1, 1, 1)))
    shown = inspect.signature(prim).parameters.values()
    takes = sum(p.kind is p.POSITIONAL_ONLY for p in shown)
    for count, options in ((takes, {"no_such_option": 1}), (0, {}), (takes + 1, {})):
        with pytest.raises(ArgumentError, match=f"^FED-1109 {name}: ") as caught:
            prim(*[x] * count, **options)
        assert f"{name}{inspect.signature(prim)}" in caught.value.why
        assert_helpful(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: fc.round(x, 2), "round: takes one operand, got 2"),
        (lambda x: fc.where(x > 0), "where: takes 3 operands, got 1"),
        (lambda x: fc.exp(x=x), "exp: takes one operand, got 0"),
        (lambda x: fc.exp(x, axis=0), "exp: got an unexpected keyword argument 'axis'"),
        (lambda x: fc.exp(x, out=x), "exp: got an unexpected keyword argument 'out'"),
        (lambda x: fc.add(x, x, out=np.empty(2)), "add: got an unexpected .* 'out'"),
    ],
)
def test_a_call_that_does_not_follow_the_signature_says_so(
    call: Callable[[Tensor], Any], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        call(tensor([1.0, 2.0]))


HUGE = 10**15  # more numbers than 47 bits of addresses have bytes for


@pytest.mark.parametrize(
    "call",
    [
        lambda: fc.zeros(HUGE),
        lambda: fc.arange(HUGE),
        lambda: fc.eye(3 * 10**6),
        lambda: fc.one_hot([1], HUGE),
        lambda: fc.broadcast_to(tensor(1.0), (HUGE,)) + 1.0,
    ],
)
def test_what_does_not_fit_into_memory_is_named_with_its_bytes(call: Callable[[], Any]) -> None:
    with pytest.raises(CapacityError, match="not enough memory") as caught:
        call()
    assert "iB for an array with shape" in caught.value.why
    assert_helpful(caught.value)


def test_lists_without_end_are_no_tensor() -> None:
    deep: Any = [1.0]
    for _ in range(3000):
        deep = [deep]
    endless: list[Any] = [1.0]
    endless.append(endless)
    twice: list[Any] = []
    twice += [twice, twice]
    holding: list[Any] = [tensor(1.0)]
    holding.append(holding)
    for values in (deep, endless, twice, holding):
        with pytest.raises(ShapeError, match="a list is not a tensor") as caught:
            tensor(values)
        assert caught.value.why and caught.value.fix and "test_errors.py" in caught.value.where
