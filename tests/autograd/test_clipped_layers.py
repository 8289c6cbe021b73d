"""Clipped sums of real layers equal the loop, whichever form their cotangents keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fedcore as fc
from fedcore import nn
from fedcore.autograd.lanes import open_lane
from fedcore.tensor.cotangent import Outer, Pieces, Rows
from fedcore.tensor.ops.lanes import enter_lane, leave_lane
from fedcore.tensor.registry import operations as ops
from fedcore.tensor.tensor import Tensor, tensor

Array = np.ndarray[Any, Any]
COUNT, WORDS, STEPS = 5, 9, 4
# float64: the factored norm and the norm of the array sum in different orders
SAME: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-12}


class Tied(nn.Module):
    """The same matrix embeds the words and, transposed, scores them."""

    def __init__(self) -> None:
        self.words = nn.Embedding(WORDS, 6, key=0)
        self.mix = nn.Linear(6, 6, key=1)

    def forward(self, x: Tensor, ctx: nn.Context) -> Tensor:
        h = ops.tanh(self.mix(self.words(x, ctx=ctx), ctx=ctx))
        return (h @ self.words.weight.mT).mean(axis=1)


class Shared(nn.Module):
    """One layer used three times, once on several rows."""

    def __init__(self) -> None:
        self.layer = nn.Linear(8, 8, key=0)
        self.head = nn.Linear(8, 4, key=1)

    def forward(self, x: Tensor, ctx: nn.Context) -> Tensor:
        rows = ops.stack([x, x * x], axis=1)
        h = ops.tanh(self.layer(rows, ctx=ctx)).sum(axis=1)
        h = ops.tanh(self.layer(ops.tanh(self.layer(h, ctx=ctx)), ctx=ctx))
        return self.head(h, ctx=ctx)  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    def __init__(self, kind: str) -> None:
        self.words = nn.Embedding(WORDS, 5, key=0)
        self.cell = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}[kind](5, 6, key=1)
        self.head = nn.Linear(6, 4, key=2)

    def forward(self, x: Tensor, ctx: nn.Context) -> Tensor:
        states = self.cell(self.words(x, ctx=ctx), ctx=ctx)[0]
        return self.head(states[:, -1], ctx=ctx)  # type: ignore[no-any-return]


class Attending(nn.Module):
    def __init__(self) -> None:
        self.words = nn.Embedding(WORDS, 8, key=0)
        self.block = nn.TransformerEncoderBlock(8, 2, 12, key=1)
        self.head = nn.Linear(8, 4, key=2)

    def forward(self, x: Tensor, ctx: nn.Context) -> Tensor:
        mixed = self.block(self.words(x, ctx=ctx), ctx=ctx)
        return self.head(mixed.mean(axis=1), ctx=ctx)  # type: ignore[no-any-return]


def convolution() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding="same", key=0),
        nn.GroupNorm(2, 4),
        nn.relu,
        lambda x: ops.max_pool2d(x, 2),
        nn.Conv2d(4, 3, 2, key=1),
        nn.flatten,
        nn.Linear(12, 4, key=2),
    )


def positions() -> nn.Module:
    """A dense layer at each of several positions of an example."""
    return nn.Sequential(
        nn.Linear(7, 16, key=0),
        nn.LayerNorm(16),
        nn.gelu,
        nn.Linear(16, 5, key=1),
        nn.RMSNorm(5),
        nn.flatten,
    )


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...] | None]] = {
    "dense": (lambda: nn.Sequential(nn.Linear(8, 6, key=0), nn.tanh, nn.Linear(6, 4, key=1)), (8,)),
    "shared": (Shared, (8,)),
    "tied": (Tied, None),
    "convolution": (convolution, (6, 6, 2)),
    "few positions": (positions, (2, 7)),
    "many positions": (positions, (12, 7)),
    "LSTM": (lambda: Recurrent("LSTM"), None),
    "GRU": (lambda: Recurrent("GRU"), None),
    "RNN": (lambda: Recurrent("RNN"), None),
    "attending": (Attending, None),
}


def task(kind: str) -> tuple[Callable[..., Any], Tensor, Tensor, Tensor]:
    """The loss of one example, parameters in float64, examples and labels."""
    make, core = MODELS[kind]
    theta, rebuild = fc.ravel(make())
    rng = np.random.default_rng(0)
    x = (
        rng.integers(0, WORDS, (COUNT, STEPS))
        if core is None
        else rng.standard_normal((COUNT, *core))
    )

    def loss(theta: Any, x: Any, y: Any) -> Any:
        scores = rebuild(theta)(ops.expand_dims(x, 0))
        return nn.cross_entropy(scores, ops.expand_dims(y, 0))

    return loss, theta.astype("float64"), tensor(x), tensor(rng.integers(0, 4, COUNT))


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("kind", MODELS)
def test_a_clipped_sum_of_layers_equals_the_loop(kind: str, chunk: int | None) -> None:
    loss, theta, x, y = task(kind)
    own = [fc.value_and_grad(loss)(theta, x[i], y[i]) for i in range(COUNT)]
    gradients = np.stack([g.numpy() for _, g in own])
    lengths = np.linalg.norm(gradients, axis=1)
    clip_norm = float(np.median(lengths))  # half of them are clipped
    expected = (np.minimum(1.0, clip_norm / lengths)[:, None] * gradients).sum(0)
    total, norms, losses = fc.clipped_sum(loss, clip_norm=clip_norm, chunk=chunk)(theta, x, y)
    np.testing.assert_allclose(total.numpy(), expected, **SAME)
    np.testing.assert_allclose(norms.numpy(), lengths, **SAME)
    np.testing.assert_allclose(losses.numpy(), [value.item() for value, _ in own], **SAME)


@pytest.mark.parametrize("kind", MODELS)
def test_no_clipped_gradient_is_longer_than_the_clipping_norm(kind: str) -> None:
    loss, theta, x, y = task(kind)
    small = theta.astype("float32")
    inputs = x.astype("float32") if x.dtype == np.float64 else x
    clipped = fc.clipped_sum(loss, clip_norm=1e-3)
    for i in range(COUNT):
        total = clipped(small, inputs[i : i + 1], y[i : i + 1])[0].numpy()
        assert 0.999e-3 <= np.linalg.norm(total.astype(np.float64)) <= 1e-3 * (1 + 1e-6)


@pytest.mark.parametrize("kind", MODELS)
def test_an_example_that_is_not_finite_leaves_the_others_alone(kind: str) -> None:
    """Its own parameters too: NaN times a coefficient of zero would be NaN."""
    loss, theta, x, y = task(kind)

    def spoiled(theta: Any, x: Any, y: Any, factor: Any) -> Any:
        return loss(theta, x, y) * factor

    factor = np.array([1.0, np.nan, 1.0, np.inf, 1.0])
    kept = np.isfinite(factor)
    expected = fc.clipped_sum(loss, clip_norm=0.5)(
        theta, tensor(x.numpy()[kept]), tensor(y.numpy()[kept])
    )[0]
    with np.errstate(invalid="ignore"):
        total, norms, _ = fc.clipped_sum(spoiled, clip_norm=0.5)(theta, x, y, tensor(factor))
    np.testing.assert_allclose(total.numpy(), expected.numpy(), **SAME)
    assert (np.isfinite(norms.numpy()) == kept).all()


# ---- the form that is kept


def forms(kind: str) -> list[str]:
    """The kinds of the parts of the factored gradient in lanes, by offset."""
    loss, theta, x, y = task(kind)
    with open_lane(COUNT) as lane:
        own = [enter_lane(v, axis=lane) for v in (x, y)]
        gradient = fc.factored_grad(loss)(theta, *own)
    assert isinstance(gradient, Pieces)
    return [type(part).__name__ for _, part in sorted(gradient.parts.items())]


def test_dense_and_embedding_weights_stay_factored() -> None:
    assert forms("dense") == ["Outer", "Tensor", "Outer", "Tensor"]
    assert forms("shared")[0] == "Outer"  # several uses, one factored sum
    assert forms("many positions")[0] == "Outer"
    assert forms("attending").count("Rows") == 1
    assert forms("tied")[0] == "Tensor"  # as rows and through its transpose: an array


@pytest.mark.parametrize("rows", [1, 2, 3, 9, 40])
def test_the_norm_of_a_factored_part_is_that_of_its_array(rows: int) -> None:
    """The norm from the products of rows and that of the array."""
    rng = np.random.default_rng(rows)
    x, g = tensor(rng.standard_normal((4, rows, 5))), tensor(rng.standard_normal((4, rows, 6)))
    index = tensor(rng.integers(0, 3, (4, rows)))
    with open_lane(4) as lane:
        x, g, index = (enter_lane(v, axis=lane) for v in (x, g, index))
        for part in (Outer.of(x, g), Rows(((index, g),), count=8)):
            found = leave_lane(part.norm2(), axis=lane, size=4).numpy()
            array = leave_lane(part.array(), axis=lane, size=4).numpy()
            # a norm from products is raised by what they may lose to rounding
            np.testing.assert_allclose(found, (array**2).sum(axis=(1, 2)), rtol=1e-11)


@pytest.mark.parametrize("kind", ["few positions", "many positions", "shared"])
def test_a_norm_of_factored_gradients_can_be_differentiated(kind: str) -> None:
    """Second order through `Outer`: the gradient of the squared norms, in both forms."""
    loss, theta, x, y = task(kind)

    def squared(theta: Any, x: Any, y: Any) -> Any:
        return fc.factored_grad(loss)(theta, x, y).norm2()

    def plain(theta: Any, x: Any, y: Any) -> Any:
        return (fc.grad(loss)(theta, x, y) ** 2).sum()

    found = fc.vmap(fc.grad(squared), (None, 0, 0))(theta, x, y).numpy()
    expected = fc.vmap(fc.grad(plain), (None, 0, 0))(theta, x, y).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)
