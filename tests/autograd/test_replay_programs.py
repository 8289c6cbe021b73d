"""Replays of random programs equal the function itself, bit for bit, whatever the memory plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, note, settings, strategies as st

import fedcore as fc
from fedcore.tensor.ops.activations import where_positive
from fedcore.tensor.ops.flat import assemble, leaf
from fedcore.tensor.registry import operations as ops
from fedcore.tensor.tensor import Tensor
from tests.random_examples import thorough

Array = np.ndarray[Any, Any]

SHAPES = ((), (4,), (3, 4), (4, 3), (2, 3, 4), (3, 1), (0, 4))
SPECIAL = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1e-40, 1.0, -2.0], np.float32)


def _fold(x: Tensor) -> Tensor:
    """Any tensor as (12,): what the flat-vector operations work on."""
    flat = x.flatten()
    if flat.size == 0:
        return ops.zeros(12)
    return ops.concatenate([flat] * -(-12 // flat.size))[:12]


UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "negate": lambda x: -x,
    "tanh": ops.tanh,
    "relu": ops.relu,
    "sigmoid": ops.sigmoid,
    "square": ops.square,
    "double": lambda x: x + x,
    "same": lambda x: x * 1.0,
    "less_zero": lambda x: x - 0.0,
    "plus_minus_zero": lambda x: x + -0.0,
    "plus_zero": lambda x: x + 0.0,
    "transpose": lambda x: x.T,
    "flatten": lambda x: x.flatten(),
    "head": lambda x: x[: (x.shape[0] + 1) // 2] if x.ndim else x,
    "backwards": lambda x: x[::-1] if x.ndim else x,
    "row": lambda x: x[0] if x.ndim and x.shape[0] else x,
    "column": lambda x: ops.expand_dims(x, -1),
    "spread": lambda x: ops.broadcast_to(x, (2, *x.shape)),
    "turn": lambda x: x.flatten().reshape(x.shape[::-1]),
    "sum": lambda x: x.sum(),
    "sum_first": lambda x: x.sum(axis=0) if x.ndim else x,
    "sum_last": lambda x: x.sum(axis=-1, keepdims=True) if x.ndim else x,
    "cumsum": lambda x: x.cumsum(axis=-1) if x.ndim else x,
    "softmax": lambda x: ops.softmax(x) if x.ndim and x.shape[-1] else x,
    "live": lambda x: where_positive(x, x),
    "finite": lambda x: ops.where(ops.isfinite(x), x, 0.5),
    "set": lambda x: ops.set(x, 0, 2.0) if x.ndim and x.shape[0] else x,
    "parts": lambda x: leaf(_fold(x), offset=3, shape=(2, 3)),
    "lanes": lambda x: fc.vmap(lambda row: row * 2.0 + x.sum())(x) if x.ndim else x,
    "slope": lambda x: fc.grad(lambda v: (ops.tanh(v) * v).sum())(x),
}


def _pair(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """`function` on operands that broadcast, else on both as (12,)."""

    def call(a: Tensor, b: Tensor) -> Tensor:
        try:
            np.broadcast_shapes(a.shape, b.shape)
        except ValueError:
            a, b = _fold(a), _fold(b)
        return function(a, b)

    return call


BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": _pair(lambda a, b: a + b),
    "subtract": _pair(lambda a, b: a - b),
    "multiply": _pair(lambda a, b: a * b),
    "divide": _pair(lambda a, b: a / b),
    "maximum": _pair(ops.maximum),
    "choose": _pair(lambda a, b: ops.where(a > 0.0, b, a)),
    "join": lambda a, b: ops.concatenate([_fold(a), _fold(b)]),
    "product": lambda a, b: _fold(a).reshape(3, 4) @ _fold(b).reshape(4, 3),
    "vector": lambda a, b: assemble([_fold(a), _fold(b).reshape(4, 3)], offsets=(1, 13), size=26),
    "twice": lambda a, b: assemble([_fold(a), _fold(a)], offsets=(0, 12), size=24) * b.sum(),
    "step": lambda a, b: fc.add_scaled(
        _fold(a),
        fc.factored_grad(lambda t: (_fold(b).reshape(4, 3) @ t.reshape(3, 4)).sum())(_fold(a)),
        0.5,
    ),
}


@dataclass(frozen=True)
class Drawn:
    """A program: the shapes of its inputs, its calls on earlier values, and its outputs."""

    inputs: tuple[tuple[int, ...], ...]
    calls: tuple[tuple[str, int, int], ...]
    outputs: tuple[int, ...]
    donate: tuple[int, ...]

    def __call__(self, *arguments: Any) -> list[Tensor]:
        values = [fc.tensor(a) for a in arguments]
        for name, i, j in self.calls:
            a, b = values[i % len(values)], values[j % len(values)]
            y = UNARY[name](a) if name in UNARY else BINARY[name](a, b)
            values.append(y if y.size <= 200 else y.flatten()[:50])
        return [values[i % len(values)] for i in self.outputs]


def drawn(rng: np.random.Generator) -> Drawn:
    names = [*UNARY, *BINARY]
    inputs = tuple(SHAPES[i] for i in rng.integers(len(SHAPES), size=rng.integers(1, 4)))
    calls = tuple(
        (names[rng.integers(len(names))], int(rng.integers(40)), int(rng.integers(40)))
        for _ in range(rng.integers(1, 20))
    )
    outputs = tuple(rng.integers(40, size=rng.integers(1, 5)).tolist())
    donate = tuple(i for i in range(len(inputs)) if rng.random() < 0.5)
    return Drawn(inputs, calls, outputs, donate)


def array(rng: np.random.Generator, shape: tuple[int, ...], layout: str) -> Array:
    x = rng.standard_normal(shape).astype(np.float32)
    special = rng.random(shape) < 0.2
    x = np.where(special, rng.choice(SPECIAL, shape), x).astype(np.float32)
    if layout == "turned":
        return np.asfortranarray(x)
    if layout == "strided":
        return np.repeat(x, 2, axis=-1)[..., ::2] if x.ndim else x
    if layout == "fixed":
        x.flags.writeable = False
    return x


def assert_same_bits(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for y, e in zip(found, expected, strict=True):
        a, b = y.numpy(), e.numpy()
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_array_equal(a, b)
        known = ~np.isnan(b)  # the sign of a NaN is not a number's
        np.testing.assert_array_equal(np.signbit(a)[known], np.signbit(b)[known])


@pytest.mark.parametrize("layout", ["plain", "turned", "strided", "fixed"])
@settings(max_examples=thorough(150))
@given(seed=st.integers(0, 2**32))
def test_a_replay_on_changed_inputs_gives_the_bits_of_the_function(layout: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    program = drawn(rng)
    note(str(program))
    replayed = fc.compile(program, donate=program.donate)
    kept: list[tuple[list[Tensor], list[Array]]] = []
    for _ in range(4):
        own = [array(rng, shape, layout) for shape in program.inputs]
        with np.errstate(all="ignore"):
            expected = program(*[np.copy(a, order="K") for a in own])
            found = replayed(*own)
        assert_same_bits(found, expected)
        kept.append((found, [y.numpy().copy() for y in found]))
    assert len(replayed.programs) == 1
    for found, then in kept:  # nothing that was returned is overwritten by a later call
        for y, e in zip(found, then, strict=True):
            np.testing.assert_array_equal(y.numpy(), e)
