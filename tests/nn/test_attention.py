"""Attention layers equal their formula head by head, and never look where a mask forbids it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fedcore as fc
from fedcore import nn
from fedcore.errors import ArgumentError, ShapeError

DRAW = np.random.default_rng(0)
X = DRAW.standard_normal((2, 5, 6)).astype(np.float32)
MEMORY = DRAW.standard_normal((2, 4, 6)).astype(np.float32)


def by_hand(layer: Any, x: np.ndarray, memory: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """One example, one head and one query at a time."""
    width = x.shape[-1] // layer.heads
    out = np.zeros(x.shape)
    project = {
        name: rows @ getattr(layer, name).weight.numpy() + getattr(layer, name).bias.numpy()
        for name, rows in (("query", x), ("key", memory), ("value", memory))
    }
    for n in range(x.shape[0]):
        for head in range(layer.heads):
            cut = slice(head * width, (head + 1) * width)
            for t in range(x.shape[1]):
                scores = project["key"][n, :, cut] @ project["query"][n, t, cut] / np.sqrt(width)
                weights = np.exp(scores - scores.max()) * mask[t]
                out[n, t, cut] = weights / weights.sum() @ project["value"][n, :, cut]
    return out @ layer.output.weight.numpy() + layer.output.bias.numpy()


def shifted(layer: Any) -> Any:
    """The layer with biases other than zero."""
    theta, rebuild = fc.ravel(layer)
    return rebuild(theta + 0.1 * DRAW.standard_normal(theta.size).astype(np.float32))


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_self_attention_equals_the_formula(heads: int) -> None:
    layer = shifted(nn.MultiHeadAttention(6, heads, key=0))
    expected = by_hand(layer, X, X, np.ones((5, 5)))
    np.testing.assert_allclose(layer(X).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_attention_to_a_memory_equals_the_formula_under_a_mask() -> None:
    layer = shifted(nn.MultiHeadAttention(6, 2, key=0))
    mask = DRAW.random((5, 4)) < 0.7
    mask[:, 0] = True
    expected = by_hand(layer, X, MEMORY, mask)
    np.testing.assert_allclose(layer(X, MEMORY, mask).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_a_causal_layer_does_not_see_what_comes_later() -> None:
    layer = shifted(nn.MultiHeadAttention(6, 2, key=0, causal=True))
    changed = X.copy()
    changed[:, 3:] += 1
    before, after = layer(X).numpy(), layer(changed).numpy()
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert np.abs(before[:, 3:] - after[:, 3:]).max() > 0.01


def test_an_encoder_block_is_the_sum_of_its_documented_parts() -> None:
    block = shifted(nn.TransformerEncoderBlock(6, 2, 8, key=0, activation=nn.relu))
    x = fc.tensor(X)
    middle = x + block.attention(block.attention_norm(x))
    hidden = np.maximum(block.wide(block.network_norm(middle)).numpy(), 0)
    expected = middle.numpy() + hidden @ block.narrow.weight.numpy() + block.narrow.bias.numpy()
    np.testing.assert_allclose(block(X).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_each_client_and_each_replay_computes_the_same_gradient() -> None:
    theta, rebuild = fc.ravel(nn.TransformerEncoderBlock(6, 2, 8, key=0, causal=True))

    def loss(theta: Any, x: Any) -> Any:
        return (rebuild(theta)(x) ** 2).mean()

    thetas = np.stack([theta.numpy(), theta.numpy() * 0.5])
    xs = np.stack([X, X * 2])
    lanes = fc.vmap(fc.grad(loss))(thetas, xs).numpy()
    replayed = fc.compile(fc.vmap(fc.grad(loss)))(thetas, xs).numpy()
    np.testing.assert_array_equal(lanes, replayed)
    for lane in range(2):
        alone = fc.grad(loss)(fc.tensor(thetas[lane]), xs[lane]).numpy()
        np.testing.assert_allclose(lanes[lane], alone, rtol=1e-4, atol=1e-6)


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ArgumentError, match="4 heads of 6"):
        nn.MultiHeadAttention(6, 4, key=0)
    with pytest.raises(ShapeError, match=r"MultiHeadAttention: .*\(5, 6\)"):
        nn.MultiHeadAttention(6, 2, key=0)(X[0])
    with pytest.raises(ShapeError, match=r"query \(Linear\): .*\(2, 5, 5\).*\(6, 6\)"):
        nn.MultiHeadAttention(6, 2, key=0)(X[:, :, :5])
    with pytest.raises(ArgumentError, match="dropout"):
        nn.MultiHeadAttention(6, 2, key=0, dropout=1.0)
