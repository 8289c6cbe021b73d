"""What calls work in while they run is one block for all of a replay, and none of it is kept."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

import fedcore as fc
from fedcore import nn
from fedcore.step import train_step
from fedcore.tensor.scratch import Scratch, empty
from tests.tensor.poisoned import poison_scratch

SIZES = st.lists(st.integers(0, 300_000), max_size=20)


@given(st.lists(SIZES, max_size=4))
def test_parts_of_a_call_lie_apart_at_the_beginning_of_cache_lines(calls: list[list[int]]) -> None:
    scratch = Scratch()
    for sizes in calls:
        with scratch.lent():
            parts = [empty(np, (size,), np.uint8) for size in sizes]
        for number, part in enumerate(parts):
            part.fill(number)
        assert all(part.ctypes.data % 64 == 0 for part in parts if part.size)
        assert all((part == number).all() for number, part in enumerate(parts))


def test_the_next_call_gets_the_same_memory() -> None:
    scratch = Scratch()
    with scratch.lent():
        first = empty(np, (1000,), np.float32)
    with scratch.lent():
        second, third = empty(np, (10, 10), np.float64), empty(np, (2,), bool)
    assert np.shares_memory(first, second) and np.shares_memory(first, third)
    assert (second.shape, second.dtype, third.dtype) == ((10, 10), np.float64, bool)


def test_memory_is_its_own_where_no_scratch_is_lent_or_another_thread_has_it() -> None:
    scratch, found = Scratch(), list[Any]()
    with scratch.lent():
        ours = empty(np, (100,), np.float32)
        thread = Thread(target=lambda: found.append(empty(np, (100,), np.float32)))
        thread.start()
        thread.join()
    found.append(empty(np, (100,), np.float32))
    assert not any(np.shares_memory(ours, other) for other in found)


def test_a_scratch_lent_within_another_is_given_back_even_by_an_error() -> None:
    outer, inner = Scratch(), Scratch()
    with outer.lent():
        before = empty(np, (64,), np.uint8)
        with pytest.raises(ZeroDivisionError), inner.lent():
            between = empty(np, (64,), np.uint8)
            raise ZeroDivisionError
        after = empty(np, (64,), np.uint8)
    assert not any(np.shares_memory(a, b) for a, b in [(before, between), (before, after)])
    assert after.ctypes.data == before.ctypes.data + 64


def small_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, key=0, padding="same"),
        nn.relu,
        nn.MaxPool2d(2),
        nn.Conv2d(8, 40, 3, key=1, padding="same", stride=2),
        nn.MaxPool2d(3, stride=1),
        nn.flatten,
        nn.Linear(40 * 4, 10, key=2),
    )


def trained(steps: int, wrapped: Callable[[Any], Any]) -> np.ndarray[Any, Any]:
    """The parameters after some steps on random images."""
    rng = np.random.default_rng(0)
    theta, rebuild = fc.ravel(small_cnn())
    optimizer = fc.optim.SGD(lr=0.1)
    step = wrapped(train_step(rebuild, loss=nn.cross_entropy, optimizer=optimizer))
    state, moments = fc.tensor(np.zeros(0, np.float32)), optimizer.init(theta)
    for _ in range(steps):
        x = rng.standard_normal((20, 16, 16, 1)).astype(np.float32)
        y, key = rng.integers(0, 10, 20), np.zeros(2, np.uint64)
        theta, state, moments, _, _ = step(
            theta, state, moments, x, y, np.ones(20, np.float32), key, 0.1
        )
    return theta.numpy()


def test_steps_that_share_scratch_take_what_steps_without_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone = trained(3, lambda step: step)
    parts = poison_scratch(monkeypatch)
    assert trained(3, fc.compile).tobytes() == alone.tobytes()
    places = [range(part.ctypes.data, part.ctypes.data + part.size, 64) for part in parts]
    assert sum(map(len, places)) > 2 * len(set().union(*places))  # the same memory again and again
