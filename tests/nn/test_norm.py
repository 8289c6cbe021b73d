"""Normalisation layers follow their formulas; only batch statistics are remembered, by lane."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fedcore as fc
from fedcore import nn
from fedcore.errors import ArgumentError, ShapeError

DRAW = np.random.default_rng(0)
X = (DRAW.standard_normal((4, 3, 2, 6)) * 2 + 1).astype(np.float32)


def shifted(layer: Any) -> Any:
    """The layer with parameters other than the neutral ones that it starts with."""
    theta, rebuild = fc.ravel(layer)
    return rebuild(theta + 0.3 * DRAW.standard_normal(theta.size).astype(np.float32))


def normal(x: np.ndarray, axes: tuple[int, ...], eps: float = 1e-5) -> np.ndarray:
    x = x.astype(np.float64)
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


def scaled(layer: Any, values: np.ndarray) -> np.ndarray:
    bias = getattr(layer, "bias", None)
    return values * layer.weight.numpy() + (0 if bias is None else bias.numpy())


FORMULAS: dict[str, tuple[Callable[[], Any], Callable[[np.ndarray], np.ndarray]]] = {
    "LayerNorm": (lambda: nn.LayerNorm(6), lambda x: normal(x, (3,))),
    "RMSNorm": (
        lambda: nn.RMSNorm(6),
        lambda x: x / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + 1e-5),
    ),
    "GroupNorm": (
        lambda: nn.GroupNorm(3, 6),
        lambda x: normal(x.reshape(*x.shape[:-1], 3, 2), (1, 2, 4)).reshape(x.shape),
    ),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_the_output_is_that_of_the_formula(name: str) -> None:
    make, formula = FORMULAS[name]
    layer = shifted(make())
    np.testing.assert_allclose(layer(X).numpy(), scaled(layer, formula(X)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FORMULAS)
def test_each_example_is_normalised_alone(name: str) -> None:
    layer = shifted(FORMULAS[name][0]())
    lanes = fc.vmap(lambda x: layer(x.reshape(1, *x.shape)).reshape(x.shape))(X)
    np.testing.assert_allclose(lanes.numpy(), layer(X).numpy(), rtol=1e-5, atol=1e-6)


def test_batch_norm_trains_on_the_batchs_statistics_and_moves_the_running_ones() -> None:
    layer = shifted(nn.BatchNorm(6, momentum=0.2))
    ctx = nn.Context(layer, training=True)
    found = layer(X, ctx=ctx)
    np.testing.assert_allclose(
        found.numpy(), scaled(layer, normal(X, (0, 1, 2))), rtol=1e-4, atol=1e-5
    )
    rows = X.reshape(-1, 6).astype(np.float64)
    expected = [0.2 * rows.mean(0), 0.8 + 0.2 * rows.var(0, ddof=1)]
    np.testing.assert_allclose(ctx.state.numpy(), np.concatenate(expected), rtol=1e-4, atol=1e-6)


def test_batch_norm_evaluates_with_the_running_statistics_and_keeps_them() -> None:
    layer = shifted(nn.BatchNorm(6))
    mean, var = DRAW.standard_normal(6), DRAW.uniform(0.5, 2, 6)
    state = np.concatenate([mean, var]).astype(np.float32)
    ctx = nn.Context(layer, state=state)
    expected = scaled(layer, (X - mean) / np.sqrt(var + 1e-5))
    np.testing.assert_allclose(layer(X, ctx=ctx).numpy(), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(ctx.state.numpy(), state)


def test_repeated_training_passes_reach_the_statistics_of_the_data() -> None:
    layer = nn.BatchNorm(6)
    state, rebuild_state = nn.ravel_state(layer)
    for _ in range(200):
        ctx = nn.Context(layer, training=True, state=state)
        layer(X, ctx=ctx)
        state = ctx.state
    settled = rebuild_state(layer, state)
    rows = X.reshape(-1, 6)
    np.testing.assert_allclose(settled.mean.numpy(), rows.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(settled.var.numpy(), rows.var(0, ddof=1), rtol=1e-4)


def test_no_derivative_passes_through_the_running_statistics() -> None:
    layer = nn.BatchNorm(6)

    def remembered(x: Any) -> Any:
        ctx = nn.Context(layer, training=True)
        layer(x, ctx=ctx)
        return ctx.state.sum()

    assert not fc.grad(remembered)(fc.tensor(X)).numpy().any()


def test_each_client_has_its_own_batch_statistics() -> None:
    layer = nn.BatchNorm(6)

    def client(x: Any) -> Any:
        ctx = nn.Context(layer, training=True)
        return layer(x, ctx=ctx), ctx.state

    y, state = fc.vmap(client)(X)
    for lane in range(len(X)):
        one, own = client(fc.tensor(X[lane]))
        np.testing.assert_allclose(y.numpy()[lane], one.numpy(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(state.numpy()[lane], own.numpy(), rtol=1e-6)


def test_one_value_a_channel_cannot_train_batch_norm() -> None:
    layer = nn.BatchNorm(6)
    with pytest.raises(ShapeError, match=r"\(1, 6\)"):
        layer(X[0, 0, :1], ctx=nn.Context(layer, training=True))


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.BatchNorm(0),
        lambda: nn.BatchNorm(3, momentum=1.5),
        lambda: nn.BatchNorm(3, eps=0.0),
        lambda: nn.LayerNorm(3, eps=-1.0),
        lambda: nn.RMSNorm(-1),
        lambda: nn.GroupNorm(4, 6),
        lambda: nn.GroupNorm(0, 6),
    ],
)
def test_an_option_out_of_range_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ArgumentError):
        make()


@pytest.mark.parametrize("name", [*FORMULAS, "BatchNorm"])
def test_another_number_of_channels_is_refused_with_both_shapes(name: str) -> None:
    layer = nn.BatchNorm(6) if name == "BatchNorm" else FORMULAS[name][0]()
    with pytest.raises(ShapeError, match=r"\(4, 5\).*\(6,\)"):
        layer(np.ones((4, 5), np.float32))
