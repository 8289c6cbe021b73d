"""Draws depend on their key alone: on no other lane, no replay, and no other draw."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fedcore as fc
from fedcore.errors import ArgumentError, DtypeError, ShapeError, TraceError
from fedcore.tensor.ops.random import (
    bernoulli,
    dropout,
    fold_words,
    normal,
    permutation,
    uniform,
)
from fedcore.tensor.random import Key
from fedcore.tensor.tensor import Tensor, tensor

KEY = Key(7, "test")
DRAWS: list[Callable[[Any], Tensor]] = [
    lambda key: uniform(key, (3, 4)),
    lambda key: normal(key, (3, 4)),
    lambda key: bernoulli(key, 50, keep=0.5),
    lambda key: permutation(key, 20),
    lambda key: dropout(tensor(np.ones((3, 4))), key, rate=0.5),
    lambda key: fold_words(key, path=("layer", 1)),
]
each_draw = pytest.mark.parametrize("draw", DRAWS)


def words(*clients: int) -> Tensor:
    return tensor(np.stack([Key(7, "test", client=c).words() for c in clients]))


@each_draw
def test_a_key_and_its_words_draw_the_same_and_another_key_differs(
    draw: Callable[[Any], Tensor],
) -> None:
    first = draw(KEY).tolist()
    assert first == draw(KEY).tolist() == draw(tensor(KEY.words())).tolist()
    assert first != draw(Key(8, "test")).tolist()


@each_draw
def test_a_lane_draws_what_it_would_draw_alone(draw: Callable[[Any], Tensor]) -> None:
    together = fc.vmap(draw)(words(1, 2, 3))
    alone = [draw(Key(7, "test", client=c)).tolist() for c in (1, 2, 3)]
    assert together.tolist() == alone
    assert fc.vmap(draw, chunk=2)(words(3, 1, 2)).tolist() == [alone[i] for i in (2, 0, 1)]


@each_draw
def test_a_key_that_is_not_mapped_draws_the_same_in_every_lane(
    draw: Callable[[Any], Tensor],
) -> None:
    lanes = fc.vmap(lambda x, key: draw(key), (0, None))(tensor([1.0, 2.0]), tensor(KEY.words()))
    assert lanes.tolist() == [draw(KEY).tolist()] * 2


@each_draw
def test_a_replay_with_another_key_draws_anew(draw: Callable[[Any], Tensor]) -> None:
    program = fc.compile(lambda key: draw(key))
    for client in (1, 2, 3):
        key = Key(7, "test", client=client)
        assert program(tensor(key.words())).tolist() == draw(key).tolist()


@each_draw
def test_a_key_that_a_recording_would_freeze_is_refused(draw: Callable[[Any], Tensor]) -> None:
    with pytest.raises(TraceError, match="argument of the compiled function"):
        fc.compile(lambda x: x + draw(KEY).sum())(tensor([1.0]))


def test_uniform_fills_its_interval_evenly() -> None:
    x = uniform(KEY, 100_000, low=-1.0, high=3.0).numpy()
    assert x.dtype == np.float32
    assert x.min() >= -1.0 and x.max() <= 3.0
    counts = np.histogram(x, bins=20, range=(-1, 3))[0]
    assert ((counts - 5000) ** 2 / 5000).sum() < 43.8  # chi-square, 19 degrees, p = 0.001


def test_normal_has_mean_0_and_variance_1() -> None:
    x = normal(KEY, 100_000, dtype=np.float64).numpy()
    assert abs(x.mean()) < 4 / np.sqrt(x.size)
    assert abs(x.var() - 1) < 4 * np.sqrt(2 / x.size)


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.9, 1.0])
def test_coins_fall_with_their_probability(keep: float) -> None:
    share = bernoulli(KEY, 100_001, keep=keep).numpy().mean()
    assert abs(share - keep) <= 4 * np.sqrt(keep * (1 - keep) / 100_001)


def test_a_permutation_holds_every_number_once() -> None:
    order = permutation(KEY, 100)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(100)) != order.tolist()


def test_dropout_zeroes_or_scales_and_so_does_its_derivative() -> None:
    x = tensor(np.random.default_rng(0).standard_normal((40, 50)))
    y = dropout(x, KEY, rate=0.25)
    kept = y.numpy() != 0
    np.testing.assert_allclose(y.numpy()[kept], x.numpy()[kept] / 0.75, rtol=1e-15)
    assert abs(kept.mean() - 0.75) < 4 * np.sqrt(0.75 * 0.25 / kept.size)
    gradient = fc.grad(lambda x: dropout(x, KEY, rate=0.25).sum())(x)
    np.testing.assert_array_equal(gradient.numpy(), kept / 0.75)


def test_dropout_keeps_float32_and_at_rate_0_every_value() -> None:
    x = tensor(np.ones((3, 3), np.float32))
    assert dropout(x, KEY, rate=0.5).dtype == np.float32
    assert dropout(x, KEY, rate=0.0).tolist() == x.tolist()


def test_folding_separates_parts_and_is_no_prefix_of_another() -> None:
    paths = [(), ("a",), ("b",), (0,), (1,), ("a", 0), (0, "a"), ("a", "b"), ("ab",)]
    found = {tuple(fold_words(KEY, path=path).tolist()) for path in paths}
    assert len(found) == len(paths)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: uniform(tensor([1.0, 2.0])), DtypeError),
        (lambda: uniform(words(1, 2)), ShapeError),
        (lambda: bernoulli(KEY, keep=1.5), ArgumentError),
        (lambda: dropout(tensor([1.0]), KEY, rate=1.0), ArgumentError),
        (lambda: dropout(tensor([1]), KEY, rate=0.5), DtypeError),
        (lambda: permutation(KEY, -1), ArgumentError),
        (lambda: fold_words(KEY, path=(-1,)), ArgumentError),
    ],
)
def test_what_cannot_be_drawn_is_refused(call: Callable[[], Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        call()


@each_draw
@pytest.mark.parametrize("key", [0, np.int64(3), True])
def test_an_integer_is_no_key_and_is_shown_how_one_is_made(
    draw: Callable[[Any], Tensor], key: Any
) -> None:
    with pytest.raises(ArgumentError, match="the key is") as caught:
        draw(key)
    assert 'fedcore.Key(0, "noise")' in caught.value.fix
