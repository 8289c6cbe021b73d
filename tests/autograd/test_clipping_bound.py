"""No example adds more than the clipping norm to a sum, at any scale that float32 holds.

The losses are linear in theta, so that the data decide the gradient: products of x and g at each
scale from denormal numbers to the largest, near which a float32 norm is 0, infinite or too small.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st

import fedcore as fc
from fedcore.errors import ArgumentError
from fedcore.tensor.ops.flat import leaf
from fedcore.tensor.registry import operations as ops
from fedcore.tensor.tensor import Tensor, tensor
from tests.random_examples import thorough

Array = np.ndarray[Any, Any]
K, M = 13, 11
ROWS = {"one row": 1, "Gram": 3, "array": 20, "words": 6, "convolution": 9}
KINDS = [*ROWS, "elementwise", "tied", "overlapping"]
LARGEST = float(np.finfo(np.float32).max)
UNIT = 2.0**-24  # one rounding of float32


def loss_of(kind: str) -> Any:
    """A loss of theta (K·M,), x and g whose gradient is made of the products of x and g."""

    def products(theta: Any, x: Any, g: Any) -> Any:
        return ((x @ leaf(theta, offset=0, shape=(K, M))) * g).sum()

    def words(theta: Any, x: Any, g: Any) -> Any:
        index = np.array([3, 1, 3, 0, 3, 7])
        return (ops.embedding(leaf(theta, offset=0, shape=(K, M)), index) * g).sum()

    def convolution(theta: Any, x: Any, g: Any) -> Any:
        image = x[:, :6].reshape(1, 9, 6, 1)
        kernel = leaf(theta, offset=0, shape=(3, 3, 1, M))
        return (ops.conv2d(image, kernel, padding=1)[0, :, 0] * g).sum()

    def tied(theta: Any, x: Any, g: Any) -> Any:
        w = leaf(theta, offset=0, shape=(K, M))
        return ((x @ w) * g).sum() - (w * (x.mT @ g)).sum() * 0.99999

    def overlapping(theta: Any, x: Any, g: Any) -> Any:
        flat = leaf(theta, offset=0, shape=(K * M,))
        return products(theta, x, g) - (flat * (x.mT @ g).reshape(K * M)).sum()

    def elementwise(theta: Any, x: Any, g: Any) -> Any:
        return (leaf(theta, offset=0, shape=(K, M)) * x.mT * g).sum()

    named = [words, convolution, tied, overlapping, elementwise]
    return {f.__name__: f for f in named}.get(kind, products)


def within_float32(values: Array) -> Array:
    return np.clip(values, -LARGEST, LARGEST).astype(np.float32)


def data(kind: str, seed: int, scales: tuple[float, float], spread: float) -> tuple[Array, Array]:
    """Six examples of x (rows, K) and g (rows, M) about 10**scale, their elements spread around."""
    rng, count = np.random.default_rng(seed), ROWS.get(kind, 1)
    x, g = (
        within_float32(
            rng.standard_normal((6, count, width))
            * 10.0 ** (scale + spread * rng.standard_normal((6, count, 1)))
            * 10.0 ** (spread * rng.standard_normal((6, 1, width)))
        )
        for scale, width in zip(scales, (K, M), strict=True)
    )
    return x, g


def norm(values: Tensor | Array) -> float:
    return float(np.linalg.norm(np.asarray(values, dtype=np.float64)))


def exact(kind: str, x: Array, g: Array) -> Array | None:
    """The gradient of one example in float64, where it is a sum of products."""
    x, g = x.astype(np.float64), g.astype(np.float64)
    if kind in ("one row", "Gram", "array", "elementwise"):
        return (x.T @ g).reshape(-1)
    if kind == "words":
        table = np.zeros((K, M))
        np.add.at(table, [3, 1, 3, 0, 3, 7], g)
        return table.reshape(-1)
    return None


scales = st.tuples(st.floats(-44, 38), st.floats(-44, 38))
THETA = np.zeros(K * M, np.float32)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=thorough(60), deadline=None)
@given(st.integers(0, 99), scales, st.sampled_from([0.0, 1.0, 8.0]), st.floats(-6, 6))
@example(0, (-23.0, 19.0), 0.0, -1.0)  # the square of x underflows
@example(0, (38.0, -24.0), 0.0, -3.4)  # g times its coefficient is a denormal number
@example(0, (20.0, -23.0), 0.0, -6.0)  # the square of x overflows
@example(0, (38.0, -0.5), 0.0, -6.0)  # the coefficient itself is a denormal number
def test_one_example_is_never_longer_than_the_clipping_norm(
    kind: str, seed: int, scales: tuple[float, float], spread: float, log_clip: float
) -> None:
    clip_norm = 10.0**log_clip
    clipped = fc.clipped_sum(loss_of(kind), clip_norm=clip_norm)
    x, g = (v[:1] for v in data(kind, seed, scales, spread))
    with np.errstate(all="ignore"):
        total, norms, _ = clipped(THETA, x, g)
    assert norm(total) <= clip_norm
    if not np.isfinite(norms.item()):
        assert not total.numpy().any()
    own, terms = exact(kind, x[0], g[0]), exact(kind, abs(x[0]), abs(g[0]))
    if own is None or terms is None or norm(terms) > 30 * norm(own):
        return  # terms that cancel are clipped more, for the rounding of their sum
    if norm(own) <= clip_norm / 1.001:
        # 20 float32 products, and 2**-149 for each that is a denormal number
        assert norm(total.numpy() - own) <= 1e-5 * norm(own) + 20 * np.sqrt(own.size) * 2.0**-149
    elif np.isfinite(norms.item()):
        assert norm(total) >= min(clip_norm, norm(own)) * (1 - 1e-3)
    else:
        assert norm(own) >= LARGEST / 1.001


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=thorough(30), deadline=None)
@given(st.integers(0, 99), scales, st.sampled_from([0.0, 1.0, 8.0]), st.floats(-6, 6))
def test_a_neighbouring_sum_differs_by_the_clipping_norm_and_float32_rounding(
    kind: str, seed: int, scales: tuple[float, float], spread: float, log_clip: float
) -> None:
    clip_norm = 10.0**log_clip
    clipped = fc.clipped_sum(loss_of(kind), clip_norm=clip_norm)
    x, g = data(kind, seed, scales, spread)
    with np.errstate(all="ignore"):
        whole, rest = clipped(THETA, x, g)[0], clipped(THETA, x[1:], g[1:])[0]
    # six examples of up to 20 rows that do not cancel, so that each is at most 20 norms long
    rounding = 6 * 20 * UNIT * 6 * 20 * clip_norm
    assert norm(whole.numpy().astype(np.float64) - rest.numpy()) <= clip_norm + rounding


@pytest.mark.parametrize("width", [2048, 2049, 1_000_000])
def test_the_norm_of_a_long_gradient_is_not_rounded_down(width: int) -> None:
    """A few large elements swallow many small ones in a float32 sum: 2e-4 of a million."""
    v = np.full(width, 2.4e-4, np.float32)
    v[:128] = 1
    v /= np.float32(norm(v) / 1.0002)
    total, norms, _ = fc.clipped_sum(lambda t, x: (t * x).sum(), clip_norm=1.0)(v * 0, v[None])
    assert norm(total) <= 1.0
    np.testing.assert_allclose(norms.item(), norm(v), rtol=5e-6)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_clipped_example_has_the_same_bits_beside_any_others(count: int) -> None:
    """Others that are dropped, of extreme scale, or unclipped choose other paths of the kernels."""
    x, g = data("one row", 0, (0.0, 0.0), 0.0)
    x[1:], g[1:] = 0.0, 1.0
    x[2:4, 0, 0] = np.nan, 1e-30
    x[4] = 0.0
    f = fc.clipped_sum(loss_of("one row"), clip_norm=0.5)
    with np.errstate(invalid="ignore"):
        alone, norms, _ = f(THETA, x[:1], g[:1])
        beside, all_norms, _ = f(THETA, x[:count], g[:count])
    assert norms.item() == all_norms.numpy()[0]
    np.testing.assert_allclose(beside.numpy(), alone.numpy(), rtol=0, atol=1e-28)


@pytest.mark.parametrize("kind", ["one row", "Gram", "array", "elementwise", "words"])
def test_a_clipped_sum_can_be_differentiated(kind: str) -> None:
    """Central differences in float64, of a sum of which some examples are clipped."""
    x, g = (v.astype(np.float64) for v in data(kind, 3, (-1.0, 0.0), 0.0))

    def f(s: Any) -> Any:
        loss = loss_of(kind)
        total = fc.clipped_sum(lambda t, x, g: loss(t, x, g), clip_norm=1.0)(
            THETA.astype(np.float64), tensor(x), tensor(g) * s
        )[0]
        return (total * np.arange(K * M, dtype=np.float64)).sum()

    slope = fc.grad(f)(tensor(1.0, dtype="float64")).item()
    up, down = (f(tensor(1.0 + h, dtype="float64")).item() for h in (1e-6, -1e-6))
    np.testing.assert_allclose(slope, (up - down) / 2e-6, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bad", [-1.0, 0.0, np.nan, np.inf, -np.inf])
def test_a_tensor_that_is_no_clipping_norm_is_refused_or_lets_nothing_through(bad: float) -> None:
    x, g = data("one row", 0, (0.0, 0.0), 0.0)
    for value in (tensor(bad), np.array(bad), tensor(bad, dtype="float64")):
        with pytest.raises(ArgumentError, match="clip_norm"):
            fc.clipped_sum(loss_of("one row"), clip_norm=value)

    def step(c: Any) -> Any:
        return fc.clipped_sum(loss_of("one row"), clip_norm=c)(THETA, x, g)[0]

    with pytest.raises(ArgumentError, match="clip_norm"):
        fc.compile(lambda: step(np.float32(bad)))()
    assert not fc.compile(step)(tensor(bad)).numpy().any()
    each = fc.vmap(step)(tensor([bad, 0.5])).numpy()
    assert not each[0].any()
    np.testing.assert_array_equal(each[1], step(0.5).numpy())


@pytest.mark.parametrize("bad", [[1.0, 2.0], "one", None])
def test_what_is_no_number_is_refused_as_a_clipping_norm(bad: Any) -> None:
    with pytest.raises(fc.errors.FedcoreError):
        fc.clipped_sum(loss_of("one row"), clip_norm=bad)
