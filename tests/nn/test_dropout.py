"""Dropout draws from the context's key, the layer's path and the draw, and from nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fedcore as fc
from fedcore import nn
from fedcore.errors import ArgumentError
from fedcore.nn import Context

X = np.ones((4, 2000), np.float32)


class Twice(nn.Module):
    """Two dropout layers and a second draw of the first."""

    def __init__(self) -> None:
        self.one, self.other = nn.Dropout(0.5), nn.Dropout(0.5)

    def forward(self, x: Any, ctx: Context) -> Any:
        return self.one(x, ctx=ctx), self.other(x, ctx=ctx), self.one(x, ctx=ctx)


def masks(model: Any, key: Any) -> list[np.ndarray]:
    return [y.numpy() for y in model(X, ctx=Context(model, training=True, key=key))]


def test_what_is_kept_is_scaled_so_that_the_mean_stays() -> None:
    layer = nn.Dropout(0.25)
    y = layer(X, ctx=Context(layer, training=True, key=0)).numpy()
    assert set(np.unique(y)) == {0.0, np.float32(1 / 0.75)}
    # 8,000 coins of 3/4: five deviations are 0.024 of the share
    assert abs((y > 0).mean() - 0.75) < 0.025


def test_evaluation_and_a_rate_of_zero_leave_the_input_as_it_is() -> None:
    layer, none = nn.Dropout(0.5), nn.Dropout(0.0)
    np.testing.assert_array_equal(layer(X), X)
    np.testing.assert_array_equal(layer(X, ctx=Context(layer, key=0)), X)
    np.testing.assert_array_equal(none(X, ctx=Context(none, training=True)), X)


def test_layers_and_draws_differ_and_repeat_with_the_key() -> None:
    model = Twice()
    first, again, other = masks(model, 3), masks(model, 3), masks(model, 4)
    for one, same, different in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(one, same)
        assert (one != different).mean() > 0.4
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert (first[i] != first[j]).mean() > 0.4


def test_the_stream_belongs_to_the_path_and_not_to_the_order_of_calls() -> None:
    model = Twice()
    context = Context(model, training=True, key=3)
    other = model.other(X, ctx=context).numpy()  # called before the layer `one`
    np.testing.assert_array_equal(other, masks(model, 3)[1])


def test_the_mask_of_the_derivative_is_that_of_the_value() -> None:
    layer = nn.Dropout(0.5)

    def value(x: Any) -> Any:
        return layer(x, ctx=Context(layer, training=True, key=1)).sum()

    context = Context(layer, training=True, key=1)
    np.testing.assert_array_equal(fc.grad(value)(X), layer(X, ctx=context))


def words(*seeds: int) -> np.ndarray:
    return np.stack([fc.Key(seed, "forward").words() for seed in seeds])


def drop(key: Any, x: Any) -> Any:
    layer = nn.Dropout(0.5)
    return layer(x, ctx=Context(layer, training=True, key=key))


def test_a_replay_with_another_key_draws_a_fresh_mask() -> None:
    step = fc.compile(drop)
    drawn = [step(key, X).numpy() for key in words(1, 2, 1)]
    np.testing.assert_array_equal(drawn[0], drawn[2])
    assert (drawn[0] != drawn[1]).mean() > 0.4
    np.testing.assert_array_equal(drawn[1], drop(words(2)[0], X))


def test_each_client_draws_from_its_own_key_and_shares_one_that_is_not_mapped() -> None:
    keys, xs = words(1, 2, 1), np.stack([X, X, X])
    own = fc.vmap(drop)(keys, xs).numpy()
    for lane in range(3):
        np.testing.assert_array_equal(own[lane], drop(keys[lane], X))
    shared = fc.vmap(drop, in_axes=(None, 0))(keys[0], xs).numpy()
    np.testing.assert_array_equal(shared[0], shared[1])


def test_a_rate_that_drops_everything_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"Dropout: rate is 1\.0"):
        nn.Dropout(1.0)


def test_training_without_a_key_is_refused_with_the_layers_path() -> None:
    model = nn.Sequential(nn.relu, nn.Dropout(0.5))
    with pytest.raises(ArgumentError, match=r"layers\.1 \(Dropout\): .*no key") as caught:
        model(X, ctx=Context(model, training=True))
    assert "Context(model, training=True, key=0)" in caught.value.fix
