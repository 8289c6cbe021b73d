"""Clipped sums equal the loop that clips one example's gradient after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fedcore as fc
from fedcore.errors import ArgumentError
from fedcore.tensor.ops.flat import leaf
from fedcore.tensor.ops.linalg import matmul
from fedcore.tensor.registry import operations as ops
from fedcore.tensor.tensor import Tensor, tensor

Array = np.ndarray[Any, Any]
Loss = Callable[..., Any]
COUNT, WIDTH, HIDDEN, CLASSES = 7, 5, 6, 3
SIZE = WIDTH * HIDDEN + HIDDEN + HIDDEN * CLASSES
# float64: the factored norm and the norm of the array sum in different orders
SAME: dict[str, Any] = {"rtol": 1e-11, "atol": 1e-13}


def mlp(theta: Any, x: Any, y: Any) -> Any:
    w = leaf(theta, offset=0, shape=(WIDTH, HIDDEN))
    b = leaf(theta, offset=WIDTH * HIDDEN, shape=(HIDDEN,))
    v = leaf(theta, offset=WIDTH * HIDDEN + HIDDEN, shape=(HIDDEN, CLASSES))
    return ((matmul(ops.tanh(matmul(x, w) + b), v) - y) ** 2).sum()


def regularised(theta: Any, x: Any, y: Any) -> Any:
    return mlp(theta, x, y) + 0.3 * (theta * theta).sum()


def unused_parameters(theta: Any, x: Any, y: Any) -> Any:
    w = leaf(theta, offset=3, shape=(WIDTH, CLASSES))
    return ((matmul(x, w) - y) ** 2).sum()


def weight_shared_twice(theta: Any, x: Any, y: Any) -> Any:
    w = leaf(theta, offset=2, shape=(WIDTH, WIDTH))
    h = ops.tanh(matmul(x, w))
    return (matmul(h, w) ** 2).sum() + y.sum() * matmul(h, w).sum()


def tied_by_a_transpose(theta: Any, x: Any, y: Any) -> Any:
    w = leaf(theta, offset=2, shape=(WIDTH, HIDDEN))
    return (matmul(ops.tanh(matmul(x, w)), w.mT) ** 2).sum() * y.sum()


def used_outside_a_product(theta: Any, x: Any, y: Any) -> Any:
    w = leaf(theta, offset=0, shape=(WIDTH, CLASSES))
    return ((matmul(x, w) - y) ** 2).sum() + ops.exp(w).sum()


def overlapping_leaves(theta: Any, x: Any, y: Any) -> Any:
    w = leaf(theta, offset=0, shape=(WIDTH, CLASSES))
    same = leaf(theta, offset=0, shape=(WIDTH * CLASSES,))
    late = leaf(theta, offset=4, shape=(WIDTH, CLASSES))
    return ((matmul(x, w) - y) ** 2).sum() + (same**3).sum() + matmul(x, late).sum()


def many_rows(theta: Any, x: Any, y: Any) -> Any:
    rows = ops.stack([x, x * x, 1.0 - x])
    w = leaf(theta, offset=0, shape=(WIDTH, HIDDEN))
    return (ops.tanh(matmul(rows, w)) ** 2).sum() * y.sum()


def few_rows_and_a_wide_weight(theta: Any, x: Any, y: Any) -> Any:
    """Two rows of a 5x12 weight: the norm comes from the Gram matrices."""
    w = leaf(theta, offset=0, shape=(WIDTH, 9))
    return (ops.sin(matmul(ops.stack([x, x * x]), w)) ** 2).sum() * y.sum()


LOSSES = [
    mlp,
    regularised,
    unused_parameters,
    weight_shared_twice,
    tied_by_a_transpose,
    used_outside_a_product,
    overlapping_leaves,
    many_rows,
    few_rows_and_a_wide_weight,
]


def drawn(dtype: Any = np.float64) -> tuple[Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(5)
    sizes = ((SIZE,), (COUNT, WIDTH), (COUNT, CLASSES))
    theta, x, y = (tensor(rng.standard_normal(size).astype(dtype)) for size in sizes)
    return theta, x, y


def by_loop(
    loss: Loss, theta: Tensor, examples: list[tuple[Tensor, ...]], clip_norm: float
) -> tuple[Array, list[float], list[float]]:
    total, norms, losses = np.zeros(theta.shape), [], []
    for example in examples:
        value, gradient = fc.value_and_grad(loss)(theta, *example)
        g = gradient.numpy()
        norms.append(float(np.sqrt((g * g).sum())))
        losses.append(value.item())
        if np.isfinite(g).all():
            total += g * min(1.0, clip_norm / norms[-1] if norms[-1] else 1.0)
    return total, norms, losses


@pytest.mark.parametrize("chunk", [None, 1, 3, 7, 20])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
def test_a_clipped_sum_equals_the_loop(loss: Loss, chunk: int | None) -> None:
    theta, x, y = drawn()
    rows = list(zip(x, y, strict=True))
    median = float(np.median(by_loop(loss, theta, rows, 1.0)[1]))  # half of them are clipped
    expected = by_loop(loss, theta, rows, median)
    found = fc.clipped_sum(loss, clip_norm=median, chunk=chunk)(theta, x, y)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.numpy(), b, **SAME)


@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
def test_a_factored_sum_steps_as_its_array_does(loss: Loss, chunk: int | None) -> None:
    theta, x, y = drawn()
    total, norms, _ = fc.clipped_sum(loss, clip_norm=0.5, chunk=chunk)(theta, x, y)
    factored, same, _ = fc.factored_clipped_sum(loss, clip_norm=0.5, chunk=chunk)(theta, x, y)
    found = fc.add_scaled(theta, factored, -0.25)
    np.testing.assert_allclose(found.numpy(), (theta - total * 0.25).numpy(), **SAME)
    np.testing.assert_array_equal(norms.numpy(), same.numpy())


def test_no_example_moves_the_sum_by_more_than_the_clipping_norm() -> None:
    theta, x, y = drawn()
    clipped = fc.clipped_sum(mlp, clip_norm=0.25)
    whole = clipped(theta, x, y)[0].numpy()
    for i in range(COUNT):
        kept = np.delete(np.arange(COUNT), i)
        rest = clipped(theta, tensor(x.numpy()[kept]), tensor(y.numpy()[kept]))[0].numpy()
        assert np.linalg.norm(whole - rest) <= 0.25 * (1 + 1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
def test_a_gradient_that_is_not_finite_counts_as_zero(loss: Loss, bad: float) -> None:
    theta, x, y = drawn(np.float32)
    spoiled = x.numpy().copy()
    spoiled[2] = bad
    clipped = fc.clipped_sum(loss, clip_norm=0.5)
    kept = np.delete(np.arange(COUNT), 2)
    expected = clipped(theta, tensor(x.numpy()[kept]), tensor(y.numpy()[kept]))
    with np.errstate(all="ignore"):
        total, norms, _ = clipped(theta, tensor(spoiled), y)
        own = fc.grad(loss)(theta, tensor(spoiled[2]), y[2]).numpy()
        finite = np.isfinite(np.float32(np.linalg.norm(own.astype(np.float64))))
    if not finite:  # a loss may be bounded in x: then the gradient is finite, and only clipped
        assert not np.isfinite(norms.numpy()[2])
        np.testing.assert_allclose(total.numpy(), expected[0].numpy(), rtol=1e-4, atol=1e-5)
    assert np.isfinite(total.numpy()).all()
    assert np.linalg.norm(total.numpy()) <= 0.5 * COUNT


def test_a_zero_gradient_adds_zero_and_is_not_scaled_up() -> None:
    loss = lambda theta, x: (theta * x).sum()  # noqa: E731
    total, norms, _ = fc.clipped_sum(loss, clip_norm=2.0)(
        tensor([1.0, 1.0]), tensor([[0.0, 0.0], [0.0, 0.5]])
    )
    assert (total.tolist(), norms.tolist()) == ([0.0, 0.5], [0.0, 0.5])


@pytest.mark.parametrize("chunk", [None, 2])
def test_of_no_examples_the_sum_is_zero(chunk: int | None) -> None:
    theta, x, y = drawn()
    empty = [tensor(v.numpy()[:0]) for v in (x, y)]
    total, norms, losses = fc.clipped_sum(mlp, clip_norm=1.0, chunk=chunk)(theta, *empty)
    assert (total.shape, norms.shape, losses.shape) == ((SIZE,), (0,), (0,))
    assert not total.numpy().any()


def test_rows_that_cancel_are_not_taken_for_an_infinite_gradient() -> None:
    """The Gram form of the norm can round below zero, whose root is NaN."""
    x = np.random.default_rng(0).standard_normal((40, 2, 50)).astype(np.float32)

    def loss(theta: Any, x: Any) -> Any:
        h = matmul(x, leaf(theta, offset=0, shape=(50, 60)))
        return h[0].sum() + h[1].sum()

    pairs = np.stack([x[:, 0], -x[:, 0]], axis=1)
    theta = tensor(np.ones(3000, np.float32))
    total, norms, _ = fc.clipped_sum(loss, clip_norm=1.0)(theta, tensor(pairs))
    assert np.isfinite(norms.numpy()).all() and np.isfinite(total.numpy()).all()


@pytest.mark.parametrize("scale", [1.0, 1e2, 1e4])
@pytest.mark.parametrize("apart", [1e-2, 1e-3, 1e-4, 1e-5])
@pytest.mark.parametrize("kind", ["products", "rows"])
def test_rows_that_nearly_cancel_are_clipped_enough(kind: str, apart: float, scale: float) -> None:
    """The rounding of their Gram matrices is of the rows' size, and not of the gradient's."""
    rng = np.random.default_rng(0)
    row = rng.standard_normal((100, 50)) * scale
    other = row + apart * scale * rng.standard_normal((100, 50))
    x = np.stack([row, other], axis=1).astype(np.float32)

    def product(theta: Any, x: Any) -> Any:
        h = matmul(x, leaf(theta, offset=0, shape=(50, 60)))
        return h[0].sum() - h[1].sum()

    def embedded(theta: Any, x: Any) -> Any:
        words = ops.embedding(leaf(theta, offset=0, shape=(60, 50)), np.array([7, 7]))
        return (words[0] * x[0]).sum() - (words[1] * x[1]).sum()

    loss = product if kind == "products" else embedded
    clipped = fc.compile(fc.clipped_sum(loss, clip_norm=1.0))
    theta = tensor(np.zeros(3000, np.float32))
    for own in x:
        total, norms, _ = clipped(theta, tensor(own[None]))
        assert np.linalg.norm(total.numpy()) <= 1.0 + 1e-6
        exact = np.linalg.norm(own[0].astype(np.float64) - own[1])
        exact *= np.sqrt(60.0) if kind == "products" else 1.0
        assert norms.item() >= exact * (1 - 1e-4)


def test_the_clipping_norm_may_be_a_tensor_that_changes_between_replays() -> None:
    theta, x, y = drawn()
    step = fc.compile(lambda theta, x, y, c: fc.clipped_sum(mlp, clip_norm=c)(theta, x, y))
    for c in (0.1, 5.0, 1e6):
        expected = by_loop(mlp, theta, list(zip(x, y, strict=True)), c)
        for a, b in zip(step(theta, x, y, c), expected, strict=True):
            np.testing.assert_allclose(a.numpy(), b, **SAME)
    assert len(step.programs) == 1


@pytest.mark.parametrize("axis", [1, -1])
def test_examples_may_lie_along_another_axis(axis: int) -> None:
    theta, x, y = drawn()
    expected = fc.clipped_sum(mlp, clip_norm=1.0)(theta, x, y)
    for chunk in (None, 2):
        found = fc.clipped_sum(mlp, clip_norm=1.0, in_axes=(axis, 0), chunk=chunk)(theta, x.T, y)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), **SAME)


def test_each_client_clips_by_itself_inside_vmap() -> None:
    theta, x, y = drawn()
    thetas = tensor(np.stack([theta.numpy() * s for s in (1.0, 0.5, 2.0)]))
    clipped = fc.clipped_sum(mlp, clip_norm=0.7)
    found = fc.vmap(clipped, (0, None, None))(thetas, x, y)
    for i, own in enumerate(thetas):
        for a, b in zip(found, clipped(own, x, y), strict=True):
            np.testing.assert_allclose(a.numpy()[i], b.numpy(), **SAME)


@pytest.mark.parametrize(
    "clip_norm", [0, 0.0, -1.0, float("nan"), float("inf"), np.float32(-1.0), np.float64(0.0)]
)
def test_a_clipping_norm_that_is_no_positive_length_is_refused(clip_norm: Any) -> None:
    with pytest.raises(ArgumentError, match="clip_norm"):
        fc.clipped_sum(mlp, clip_norm=clip_norm)


@pytest.mark.parametrize("chunk", [0, -1])
def test_a_chunk_without_examples_is_refused(chunk: int) -> None:
    with pytest.raises(ArgumentError, match="chunk"):
        fc.clipped_sum(mlp, clip_norm=1.0, chunk=chunk)
