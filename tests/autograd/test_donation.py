"""Donated memory: what a replay may overwrite, what comes back in it, and what never changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fedcore as fc
from fedcore.autograd import replay
from fedcore.errors import ArgumentError, TraceError
from fedcore.tensor.registry import operations as ops
from fedcore.tensor.tensor import Tensor, tensor

Array = np.ndarray[Any, Any]


def drawn(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def shares(a: Any, b: Any) -> bool:
    a, b = (x.data if isinstance(x, Tensor) else x for x in (a, b))
    return np.shares_memory(a, b)


# ---- what is returned


def test_results_are_copies_that_no_later_call_changes() -> None:
    step = fc.compile(lambda x: (x * 2.0, x, x[1:], x.reshape(2, 2), ops.tanh(x).reshape(2, 2)))
    kept = []
    for seed in range(3):
        x = drawn(4, seed=seed)
        results = step(x)
        assert not any(shares(y, x) for y in results)
        assert not any(shares(a, b) for i, a in enumerate(results) for b in results[:i])
        kept.append((results, [y.numpy().copy() for y in results], x, x.copy()))
    for results, then, x, before in kept:
        np.testing.assert_array_equal(x, before)
        for y, e in zip(results, then, strict=True):
            np.testing.assert_array_equal(y.numpy(), e)


def test_a_result_may_be_the_next_argument() -> None:
    step = fc.compile(lambda x, y: (y + 1.0, x * 2.0))
    x, y = tensor(drawn(3)), tensor(drawn(3, seed=1))
    a, b = x.numpy(), y.numpy()
    for _ in range(4):
        x, y = step(x, y)
        a, b = b + np.float32(1.0), a * np.float32(2.0)
        np.testing.assert_array_equal(x.numpy(), a)
        np.testing.assert_array_equal(y.numpy(), b)


def test_the_same_value_returned_twice_is_two_arrays() -> None:
    step = fc.compile(lambda x: (x + 1.0, x + 1.0))
    a, b = step(drawn(3))
    assert not shares(a, b)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x + 1.0, x + 1.0),
        lambda x: (x + 1.0, (x + 1.0)[:2]),
        lambda x: ((x + 1.0)[:2], x + 1.0),
        lambda x: (x, x, x[1:]),
        lambda x: (x + 1.0, (x + 1.0).reshape(2, 2)),
    ],
)
def test_donated_memory_comes_back_whole_and_once(function: Any) -> None:
    """Two results in it would change together when one is donated again."""
    step = fc.compile(function, donate=(0,))
    x = drawn(4)
    results = step(x)
    whole = [y for y in results if shares(y, x)]
    assert len(whole) == 1 and whole[0].size == x.size
    others = [y for y in results if y is not whole[0]]
    then = [y.numpy().copy() for y in others]
    step(whole[0])
    for y, e in zip(others, then, strict=True):
        np.testing.assert_array_equal(y.numpy(), e)


# ---- which memory is worked in


def test_an_update_is_made_in_the_donated_memory() -> None:
    step = fc.compile(lambda x, g: x - 0.5 * g, donate=0)
    own = drawn(6)
    x, expected = tensor(own), own.copy()
    for seed in range(4):
        g = drawn(6, seed=seed)
        x = step(x, g)
        expected = expected - np.float32(0.5) * g
        assert shares(x, own)
        np.testing.assert_array_equal(own, expected)
    assert len(step.programs) == 1


def test_a_result_computed_elsewhere_is_brought_to_the_donated_memory() -> None:
    """So a loop that donates its last result works in one memory, and is bound to it once."""
    step = fc.compile(lambda x: x[::-1] * 0.5 + x, donate=(0,))
    own = drawn(6)
    x, expected = tensor(own), own.copy()
    for _ in range(4):
        x = step(x)
        expected = expected[::-1] * np.float32(0.5) + expected
        assert shares(x, own)
        np.testing.assert_array_equal(own, expected)


def test_two_memories_donated_by_turns_do_not_mix() -> None:
    step = fc.compile(lambda x: ops.tanh(x) * 2.0 + x, donate=(0,))
    memories = [drawn(5, seed=i) for i in range(3)]
    expected = [m.copy() for m in memories]
    for turn in (0, 1, 0, 2, 1, 1, 0):
        result = step(memories[turn])
        e = expected[turn]
        expected[turn] = (ops.tanh(tensor(e)) * 2.0 + e).numpy()
        np.testing.assert_array_equal(result.numpy(), expected[turn])
        assert shares(result, memories[turn])
    for m, e in zip(memories, expected, strict=True):
        np.testing.assert_array_equal(m, e)


def test_more_memories_than_are_remembered_still_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "MAX_BINDINGS", 2)
    step = fc.compile(lambda x, y: (x + y, y * 2.0), donate=(0,))
    memories = [drawn(5, seed=i) for i in range(4)]
    expected = [m.copy() for m in memories]
    for turn in (0, 1, 2, 3, 0, 0, 2, 1, 3):
        y = drawn(5, seed=turn + 9)
        result, doubled = step(memories[turn], y)
        expected[turn] = expected[turn] + y
        np.testing.assert_array_equal(result.numpy(), expected[turn])
        np.testing.assert_array_equal(doubled.numpy(), y * 2)


def test_nested_arguments_are_donated_by_their_position() -> None:
    step = fc.compile(lambda state, x: {k: v + x for k, v in state.items()}, donate=(0,))
    state = {"a": drawn(3), "b": drawn(3, seed=1)}
    own = dict(state)
    for _ in range(3):
        state = step(state, drawn(3, seed=2))
    assert all(shares(state[k], own[k]) for k in own)


@pytest.mark.parametrize("layout", ["read-only", "turned", "strided", "backwards", "spread"])
def test_memory_that_cannot_be_worked_in_is_left_as_it_is(layout: str) -> None:
    def made(seed: int) -> Array:
        x = drawn(4, 3, seed=seed)
        if layout == "read-only":
            x.flags.writeable = False
        elif layout == "turned":
            x = np.asfortranarray(x)
            x.flags.writeable = False
        elif layout == "strided":
            x = np.repeat(x, 2, axis=0)[::2]
        elif layout == "backwards":
            x = x[::-1]
        else:
            x = np.broadcast_to(x[:1], (4, 3))
        return x

    function = lambda x: (x.reshape(12) * 2.0, x + 1.0, x.T @ x)  # noqa: E731
    step = fc.compile(function, donate=(0,))
    for seed in range(4):
        x = made(seed)
        before = x.copy()
        for y, e in zip(step(x), function(tensor(before)), strict=True):
            np.testing.assert_allclose(y.numpy(), e.numpy(), rtol=1e-6)
        np.testing.assert_array_equal(x, before)


def test_a_turned_array_after_a_read_only_one_is_read_anew() -> None:
    """A view of it must not be bound to a copy."""
    step = fc.compile(lambda x: x.reshape(6) * 2.0, donate=(0,))
    fixed = np.asfortranarray(drawn(2, 3))
    fixed.flags.writeable = False
    step(fixed)
    x = np.asfortranarray(drawn(2, 3, seed=1))
    for _ in range(3):
        x[...] += 1.0
        before = x.copy()
        np.testing.assert_array_equal(step(x).numpy(), before.reshape(6) * 2)


# ---- memory that is passed twice


def test_an_array_donated_and_passed_is_read_before_it_is_overwritten() -> None:
    step = fc.compile(lambda x, y: (x * 2.0 + y, y * 3.0), donate=(0,))
    for seed in range(3):
        x = drawn(4, seed=seed)
        before = x.copy()
        total, tripled = step(x, x)
        np.testing.assert_array_equal(total.numpy(), before * 2 + before)
        np.testing.assert_array_equal(tripled.numpy(), before * 3)


@pytest.mark.parametrize("overlap", ["same", "view", "part"])
def test_memory_donated_twice_is_separated(overlap: str) -> None:
    """As when two moments of an optimiser start as one tensor of zeros."""
    step = fc.compile(lambda x, y: (x + 1.0, y * 2.0), donate=(0, 1))
    for seed in range(3):
        x = drawn(4, seed=seed)
        y = {"same": x, "view": x.reshape(2, 2), "part": x[1:]}[overlap]
        before, other = x.copy(), y.copy()
        a, b = step(x, y)
        np.testing.assert_array_equal(a.numpy(), before + 1)
        np.testing.assert_array_equal(b.numpy(), other * 2)
        assert not shares(a, b)


def test_memory_that_is_donated_and_captured_is_refused() -> None:
    x = tensor(drawn(4))
    step = fc.compile(lambda y: y - x, donate=(0,))
    with pytest.raises(TraceError, match="donated and captured"):
        step(x)
    other = drawn(4, seed=1)
    before = other.copy()
    np.testing.assert_array_equal(step(other).numpy(), before - x.numpy())
    with pytest.raises(TraceError, match="donated and captured"):
        step(x)
    np.testing.assert_array_equal(x.numpy(), drawn(4))


# ---- refusals


@pytest.mark.parametrize("donate", [(2,), (-1,), (0, 5), 7])
def test_only_arguments_that_are_there_are_donated(donate: Any) -> None:
    step = fc.compile(lambda x, y: x + y, donate=donate)
    with pytest.raises(ArgumentError, match=r"donate is .* 2 positional"):
        step(drawn(2), drawn(2))


def test_what_is_no_array_is_donated_in_vain() -> None:
    step = fc.compile(lambda x, rate, name: x * rate, donate=(0, 1, 2))
    assert step(np.ones(2, np.float32), 0.5, "name").tolist() == [0.5, 0.5]


def test_a_call_made_again_goes_on_from_what_was_given_away() -> None:
    step = fc.compile(lambda theta, x, rate: theta - x * rate, donate=(0, 1, 2))
    theta, x, rate = fc.tensor([1.0, 2.0]), np.ones(2, np.float32), np.array(0.5, np.float32)
    with pytest.raises(ArgumentError, match="again"):
        step.again()
    assert step(theta, x, rate).tolist() == [0.5, 1.5]
    x[:], rate[...] = 2.0, 0.25
    assert step.again().tolist() == [0.0, 1.0]
    keeping = fc.compile(lambda theta, x: theta - x, donate=0)
    keeping(theta, x)
    with pytest.raises(ArgumentError, match="give away"):
        keeping.again()
    step.release()
    with pytest.raises(ArgumentError, match="again"):
        step.again()
