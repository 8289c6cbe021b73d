"""The bits of a lane do not depend on how many lanes run at a time, for layers of every kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fedcore as fc
from fedcore import nn
from fedcore.tensor.primitive import Primitive
from fedcore.tensor.random import Key
from fedcore.tensor.registry import operations as ops
from fedcore.tensor.tensor import Tensor, interpreter, tensor
from tests.tensor.samples.sample import Sample
from tests.tensor.test_primitives import first_samples, in_lanes, shape_of

Array = np.ndarray[Any, Any]
LANES, BATCH, WORDS, STEPS = 7, 5, 11, 6


def dense() -> nn.Module:
    return nn.Sequential(
        nn.Linear(20, 33, key=0),
        nn.relu,
        nn.Linear(33, 17, key=1),
        nn.tanh,
        nn.Linear(17, 5, key=2),
    )


def convolution() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding="same", key=0),
        nn.relu,
        lambda x: ops.max_pool2d(x, 2),
        nn.Conv2d(4, 6, 3, key=1),
        nn.GroupNorm(2, 6),
        nn.relu,
        lambda x: ops.avg_pool2d(x, 2),
        nn.flatten,
        nn.Linear(24, 5, key=2),
    )


def normalised() -> nn.Module:
    return nn.Sequential(
        nn.Linear(20, 24, key=0), nn.LayerNorm(24), nn.gelu, nn.RMSNorm(24), nn.Linear(24, 5, key=1)
    )


def batch_normalised() -> nn.Module:
    return nn.Sequential(nn.Linear(20, 24, key=0), nn.BatchNorm(24), nn.Linear(24, 5, key=1))


def embedded() -> nn.Module:
    return nn.Sequential(nn.Embedding(WORDS, 8, key=0), nn.flatten, nn.Linear(48, 5, key=1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        self.words = nn.Embedding(WORDS, 8, key=0)
        self.cell = nn.LSTM(8, 12, key=1)
        self.gates = nn.GRU(12, 7, key=2)
        self.head = nn.Linear(7, 5, key=3)

    def forward(self, x: Tensor, ctx: nn.Context) -> Tensor:
        states, _ = self.cell(self.words(x, ctx=ctx), ctx=ctx)
        _, last = self.gates(states, ctx=ctx)
        return self.head(last, ctx=ctx)  # type: ignore[no-any-return]


class Attending(nn.Module):
    def __init__(self) -> None:
        self.words = nn.Embedding(WORDS, 8, key=0)
        self.block = nn.TransformerEncoderBlock(8, 2, 16, key=1, dropout=0.2)
        self.head = nn.Linear(8, 5, key=2)

    def forward(self, x: Tensor, ctx: nn.Context) -> Tensor:
        mixed = self.block(self.words(x, ctx=ctx), ctx=ctx)
        return self.head(mixed.mean(axis=1), ctx=ctx)  # type: ignore[no-any-return]


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...] | None]] = {
    "dense": (dense, (20,)),
    "convolution": (convolution, (12, 12, 1)),
    "normalised": (normalised, (20,)),
    "batch_normalised": (batch_normalised, (20,)),
    "embedded": (embedded, None),
    "recurrent": (Recurrent, None),
    "attending": (Attending, None),
}


def data(core: tuple[int, ...] | None, *lead: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(3)
    if core is None:
        x = rng.integers(0, WORDS, (*lead, STEPS))
    else:
        x = rng.standard_normal((*lead, *core), dtype=np.float32)
    return tensor(x), tensor(rng.integers(0, 5, lead))


def bits(results: Any) -> list[bytes]:
    return [y.numpy().tobytes() for y in results]


def objective(rebuild: Callable[[Any], Any], *, training: bool) -> Callable[..., Any]:
    def loss(theta: Any, x: Any, y: Any, words: Any) -> Any:
        model = rebuild(theta)
        ctx = nn.Context(model, training=training, key=words if training else None)
        scores = model(x, ctx=ctx)
        return nn.cross_entropy(scores, y), scores

    return loss


@pytest.mark.parametrize("chunk", [1, 2, 3, LANES - 1, LANES, LANES + 2])
@pytest.mark.parametrize("kind", MODELS)
def test_clients_in_chunks_have_the_bits_of_all_at_once(kind: str, chunk: int) -> None:
    """Parameters, data and random keys per lane: losses, scores and gradients."""
    make, core = MODELS[kind]
    theta, rebuild = fc.ravel(make())
    scale = np.linspace(0.5, 1.5, LANES, dtype=np.float32)[:, None]
    thetas = tensor(theta.numpy() * scale)
    x, y = data(core, LANES, BATCH)
    words = tensor(np.stack([Key(0, "test").fold(i).words() for i in range(LANES)]))
    step = fc.value_and_grad(objective(rebuild, training=True), has_aux=True)

    def run(chunk: int | None) -> list[bytes]:
        (value, scores), gradient = fc.vmap(step, chunk=chunk)(thetas, x, y, words)
        return bits([value, scores, gradient])

    assert run(chunk) == run(None)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind != "batch_normalised"])
def test_examples_in_chunks_have_the_bits_of_all_at_once(kind: str, rows: int) -> None:
    """Shared parameters: the loss, scores and gradient of each example of some rows.

    Single rows that meet a shared matrix are multiplied as one product, whose sums BLAS may order
    by their number: these agree to the rounding of float32.
    """
    make, core = MODELS[kind]
    theta, rebuild = fc.ravel(make())
    x, y = data(core, LANES, rows)
    words = tensor(Key(0, "test").words())
    step = fc.value_and_grad(objective(rebuild, training=False), has_aux=True)

    def run(chunk: int | None) -> list[Array]:
        mapped = fc.vmap(step, (None, 0, 0, None), chunk=chunk)
        (value, scores), gradient = mapped(theta, x, y, words)
        return [value.numpy(), scores.numpy(), gradient.numpy()]

    expected = run(None)
    for chunk in (1, 2, 3, LANES - 1, LANES, LANES + 2):
        for found, e in zip(run(chunk), expected, strict=True):
            if rows > 1:
                np.testing.assert_array_equal(found, e)
            else:
                np.testing.assert_allclose(found, e, rtol=1e-4, atol=1e-6)


def test_chunks_of_a_replay_have_the_bits_of_all_at_once() -> None:
    theta, rebuild = fc.ravel(convolution())
    thetas = tensor(np.stack([theta.numpy() * s for s in np.linspace(0.5, 1.5, LANES)]))
    x, y = data((12, 12, 1), LANES, BATCH)
    gradient = fc.grad(lambda t, x, y: nn.cross_entropy(rebuild(t)(x), y))
    thetas = thetas.astype(np.float32)
    expected = fc.vmap(gradient)(thetas, x, y).numpy()
    for chunk in (None, 3):
        replayed = fc.compile(fc.vmap(gradient, chunk=chunk))
        for _ in range(2):
            np.testing.assert_array_equal(replayed(thetas, x, y).numpy(), expected)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_the_mapped_axis_may_lie_anywhere_in_memory(axis: int) -> None:
    """Sums go along the fastest axis of memory, which the lanes must not be."""
    x = np.random.default_rng(0).standard_normal((LANES, 40, 3), dtype=np.float32)
    moved = np.ascontiguousarray(np.moveaxis(x, 0, axis))

    def function(x: Any) -> Any:
        return x.sum(), x.sum(axis=0), x.sum(axis=-1), ops.softmax(x), (x * x).mean(axis=0)

    for given in (moved, np.asfortranarray(moved)):
        expected = bits(fc.vmap(function, axis)(given))
        for chunk in (1, 2, LANES - 1):
            assert bits(fc.vmap(function, axis, chunk=chunk)(given)) == expected


# ---- every kernel on slices of its lanes

# Of single rows and shared weights, which a lane alone cannot be told to have.
FOLDED = {"matmul", "conv2d", "rnn", "lstm_pullback", "gru_pullback"}


class Calls:
    """Every kernel call of a run."""

    def __init__(self) -> None:
        self.made: list[tuple[Primitive, list[Tensor], dict[str, Any], Tensor]] = []

    def record(self, prim: Primitive, xs: list[Tensor], params: dict[str, Any], y: Tensor) -> None:
        self.made.append((prim, xs, params, y))


def calls_in_lanes(one: Sample, pattern: tuple[bool, ...]) -> Calls:
    """The calls of a sample and its derivative, forward and backward, in float32."""
    rng = np.random.default_rng(7)
    way = [(pattern[i % len(pattern)],) for i in range(len(one.operands))]
    xs = []
    for operand, (mapped,) in zip(one.operands, way, strict=True):
        x = operand.array(rng, (LANES,) if mapped else ())
        xs.append(x.astype(np.float32) if x.dtype == np.float64 else x)
    g = rng.standard_normal((LANES, *shape_of(one))).astype(np.float32)
    calls = Calls()
    interpreter.recorder = calls
    try:
        in_lanes(one, xs, g, way, 1)
    finally:
        interpreter.recorder = None
    return calls


@first_samples
def test_a_kernel_gives_each_lane_bits_of_its_own(one: Sample) -> None:
    for pattern in ((True,), (True, False), (False, True)):
        assert_each_lane_has_bits_of_its_own(one, pattern)


def assert_each_lane_has_bits_of_its_own(one: Sample, pattern: tuple[bool, ...]) -> None:
    for prim, xs, params, y in calls_in_lanes(one, pattern).made:
        if prim.view or y.lane_shape[:1] != (LANES,):
            continue
        in_lane = [x.lane_shape[:1] == (LANES,) for x in xs]
        alone = prim.name not in FOLDED or all(in_lane)
        for size in (1, 2) if alone else (2,):
            for i in range(0, LANES - size + 1, size):
                parts = [
                    x.data[i : i + size] if mapped else x.data
                    for x, mapped in zip(xs, in_lane, strict=True)
                ]
                found = np.asarray(prim.kernel(np, *parts, **params))
                assert found.tobytes() == y.data[i : i + size].tobytes(), prim.name
