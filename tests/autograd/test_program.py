"""What a recorded program says of itself: its calls, captures and cost, without the needless."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fedcore as fc
from fedcore.autograd.program import Program, Recording, dense, layout, row_major
from fedcore.errors import TraceError
from fedcore.tensor.registry import operations as ops
from fedcore.tensor.tensor import Tensor, interpreter, tensor

Array = np.ndarray[Any, Any]


def recorded(function: Callable[..., Any], *arrays: Array, captures: Any = ()) -> Program:
    recording = Recording()
    inputs = [Tensor(recording.input(a)) for a in arrays]
    interpreter.recorder = recording
    try:
        out = function(*inputs)
    finally:
        interpreter.recorder = None
    outputs = out if isinstance(out, tuple) else (out,)
    return recording.finish([y.data for y in outputs], captures)


def names(program: Program) -> list[str]:
    return [call.prim.name for call in program.calls]


def ones(*shape: int) -> Array:
    return np.ones(shape, np.float32)


# ---- memory of the recorded run


def test_a_recording_keeps_no_array_that_a_call_made() -> None:
    arrays: list[weakref.ref[Array]] = []
    living: list[bool] = []

    def chain(x: Tensor) -> Tensor:
        for _ in range(3):
            x = x + 1.0
            arrays.append(weakref.ref(x.data))
        living.extend(array() is not None for array in arrays)
        return x

    assert recorded(chain, ones(3)).outputs == (6,)
    assert living == [False, False, True]


def test_an_array_at_the_place_of_a_dead_one_is_another_value() -> None:
    where: list[int] = []

    def chain(x: Tensor) -> Tensor:
        for _ in range(50):  # the memory of the array object before the last is free by then
            x = x + x
            where.append(id(x.data))
        return x

    program = recorded(chain, ones(3))
    assert len(set(where)) < 50
    assert [call.inputs for call in program.calls] == [(i, i) for i in range(50)]


# ---- printing and cost


def test_a_program_prints_its_inputs_captures_calls_and_outputs() -> None:
    program = recorded(lambda x: (x * 2.0).reshape(4).sum(), ones(2, 2))
    assert str(program) == (
        "inputs %0:float32[2, 2]\n"
        "capture %1:float32[] = 2.0\n"
        "%2:float32[2, 2] = multiply(%0, %1)\n"
        "%3:float32[4] = reshape(%2) rank=2 shape=(4,) (view)\n"
        "%4:float32[] = sum(%3) axis=(-1,) keepdims=False\n"
        "outputs %4"
    )


@pytest.mark.parametrize("lanes", [1, 7])
def test_flops_count_the_products_of_all_lanes(lanes: int) -> None:
    matmul = lambda w, x: x @ w  # noqa: E731
    one = recorded(matmul, ones(3, 5), ones(4, 3))
    assert one.flops == 2 * 4 * 3 * 5
    mapped = fc.vmap(matmul)
    assert recorded(mapped, ones(lanes, 3, 5), ones(lanes, 4, 3)).flops == lanes * one.flops
    shared = fc.vmap(matmul, (None, 0))
    assert recorded(shared, ones(3, 5), ones(lanes, 4, 3)).flops == lanes * one.flops


def test_flops_of_a_gradient_are_those_of_its_products() -> None:
    step = fc.grad(lambda w, x: ((x @ w) ** 2).sum())
    assert recorded(step, ones(3, 5), ones(4, 3)).flops == 2 * (2 * 4 * 3 * 5)


def test_flops_of_a_convolution_count_every_tap() -> None:
    program = recorded(lambda x, w: ops.conv2d(x, w), ones(2, 6, 6, 3), ones(3, 3, 3, 4))
    assert program.flops == 2 * (2 * 4 * 4 * 4) * (3 * 3 * 3)


# ---- captures


def test_captures_are_the_arrays_from_outside() -> None:
    weight, scale = ones(3, 3), tensor(np.float32(2.0))
    program = recorded(lambda x: (x @ weight) * scale, ones(2, 3))
    assert len(program.captures) == 2
    assert any(c is weight for c in program.captures)
    assert any(c is scale.data for c in program.captures)


def test_a_capture_that_is_read_by_no_result_is_none() -> None:
    unused = ones(3)
    program = recorded(lambda x: (x * unused, x)[1] + 1.0, ones(3))
    assert [c.shape for c in program.captures] == [()]


def test_what_is_made_inside_is_no_capture() -> None:
    program = recorded(lambda x: x + ops.zeros((300, 300)) + ops.arange(300), ones(300))
    assert all(c.ndim == 0 for c in program.captures)


def test_a_large_capture_is_refused_unless_it_is_declared() -> None:
    large = ones(200, 100)
    views = [large, large[1:], large.T]
    for own in views:
        with pytest.raises(TraceError, match=r"of (79,600|80,000) bytes"):
            recorded(lambda x, own=own: (x * own).sum(), ones(1))
        for declared in views:
            recorded(lambda x, own=own: (x * own).sum(), ones(1), captures=[declared])


# ---- needless calls


def test_calls_whose_result_is_not_read_are_gone() -> None:
    program = recorded(lambda x: (ops.exp(x) + ops.tanh(x), x * 2.0)[1], ones(3))
    assert names(program) == ["multiply"]


def test_a_call_made_twice_is_made_once() -> None:
    program = recorded(lambda x: (ops.tanh(x) * 2.0, ops.tanh(x) * 2.0), ones(3))
    assert names(program) == ["tanh", "multiply"]
    assert program.outputs[0] == program.outputs[1]


def test_calls_on_the_same_view_made_twice_are_one() -> None:
    program = recorded(lambda x: x.T.reshape(6) * 2.0 + x.T.reshape(6) * 2.0, ones(2, 3))
    assert names(program).count("multiply") == 1


@pytest.mark.parametrize(
    ("a", "b"),
    [(0.0, -0.0), (1.0, 2.0), (float("inf"), 0.0)],
)
def test_calls_with_other_numbers_stay_apart(a: float, b: float) -> None:
    """Also 0.0 and -0.0, which compare as equal."""
    program = recorded(lambda x: (x * a, x * b), ones(3))
    assert program.outputs[0] != program.outputs[1]
    padded = recorded(lambda x: (ops.pad(x, 1, value=a), ops.pad(x, 1, value=b)), ones(3))
    assert padded.outputs[0] != padded.outputs[1]


def test_numbers_that_the_caller_can_change_stay_apart() -> None:
    """By an array, by a tensor of one, or by a view of one."""
    a, b, c = np.float32(2.0)[...], np.float32(2.0)[...], np.full(3, 2.0, np.float32)
    scale = tensor(b)
    program = recorded(lambda x: (x * a, x * scale, x * c[1:2].reshape(()), x * 2.0), ones(3))
    assert len(set(program.outputs)) == 4


def test_numbers_of_gradients_made_twice_are_one() -> None:
    """The 1 where a gradient begins has views in the program, but nobody outside holds it."""
    slope = lambda x: fc.grad(lambda x: (ops.tanh(x) * 2.0).sum())(x)  # noqa: E731
    twice = recorded(lambda x: (slope(x), slope(x)), ones(3))
    assert twice.outputs[0] == twice.outputs[1]
    assert len(twice.calls) == len(recorded(slope, ones(3)).calls)


def test_calls_with_parameters_of_another_type_stay_apart() -> None:
    program = recorded(
        lambda x: (x.astype("int32").astype("float32"), x.astype("int64").astype("float32")),
        ones(3),
    )
    assert program.outputs[0] != program.outputs[1]


def test_a_view_of_a_call_made_twice_has_the_root_of_the_first() -> None:
    program = recorded(lambda x: (ops.tanh(x) * 1.0, ops.tanh(x).reshape(6)), ones(2, 3))
    made = {call.prim.name: call for call in program.calls}
    view = program.values[made["reshape"].output]
    assert view.root == made["tanh"].output


# ---- layouts


@pytest.mark.parametrize(
    "array",
    [
        ones(3, 4),
        ones(3, 4).T,
        np.moveaxis(ones(2, 3, 4), 1, 0),
        ones(3, 1, 4).T,
        ones(0, 4),
        np.float32(1.0)[...],
    ],
)
def test_a_dense_array_keeps_its_layout(array: Array) -> None:
    assert layout(array) == array.strides and dense(array) is array


@pytest.mark.parametrize(
    "array", [ones(6, 4)[::2], ones(4, 6).T[::-1], np.broadcast_to(ones(4), (3, 4))]
)
def test_an_array_with_gaps_is_made_row_major(array: Array) -> None:
    own = dense(array)
    assert own.flags.c_contiguous and layout(array) == own.strides
    assert row_major(array.shape, array.itemsize) == own.strides
    np.testing.assert_array_equal(own, array)
