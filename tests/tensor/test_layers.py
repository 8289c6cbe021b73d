"""Norms, attention and recurrent networks obey the laws that define them, also at extremes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as arrays

import fedcore as fc
from fedcore.errors import ArgumentError, AxisError, DtypeError, ShapeError
from fedcore.tensor.ops.attention import scaled_dot_product_attention as attention
from fedcore.tensor.ops.gru import gru
from fedcore.tensor.ops.lstm import lstm
from fedcore.tensor.ops.norms import (
    batch_norm,
    batch_norm_training,
    group_norm,
    layer_norm,
    rms_norm,
)
from fedcore.tensor.ops.recurrent import at_length, rnn
from fedcore.tensor.random import Key
from fedcore.tensor.tensor import Tensor, tensor

Array = np.ndarray[Any, Any]
CLOSE: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-12}
IMAGES = arrays.arrays(
    np.float64, st.tuples(*[st.integers(1, 3)] * 3, st.just(6)), elements=st.floats(-5, 5)
)


def draws(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


# ---- norms


def standard(x: Array, axes: tuple[int, ...], eps: float) -> Array:
    mean, var = x.mean(axis=axes, keepdims=True), x.var(axis=axes, keepdims=True)
    return (x - mean) / np.sqrt(var + eps)  # type: ignore[no-any-return]


@given(IMAGES, st.sampled_from([1e-5, 0.1]))
def test_norms_equal_their_formulas(x: Array, eps: float) -> None:
    w, b = draws(6), draws(6, seed=1)
    groups = x.reshape(*x.shape[:-1], 2, 3)
    inside = tuple(i for i in range(1, groups.ndim) if i != groups.ndim - 2)
    cases: list[tuple[Tensor, Array]] = [
        (layer_norm(x, w, b, eps=eps), standard(x, (-1,), eps) * w + b),
        (layer_norm(x, axis=(1, 2, 3), eps=eps), standard(x, (1, 2, 3), eps)),
        (
            group_norm(x, w, b, groups=2, eps=eps),
            standard(groups, inside, eps).reshape(x.shape) * w + b,
        ),
        (rms_norm(x, w, eps=eps), x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps) * w),
        (batch_norm_training(x, w, b, eps=eps)[0], standard(x, (0, 1, 2), eps) * w + b),
    ]
    for found, expected in cases:
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-8, atol=1e-9)


def test_a_normalised_row_has_mean_0_and_variance_1() -> None:
    x = draws(5, 40) * 7.0 + 3.0
    y = layer_norm(x, eps=0.0).numpy()
    np.testing.assert_allclose(y.mean(axis=-1), 0.0, atol=1e-14)
    np.testing.assert_allclose(y.var(axis=-1), 1.0, rtol=1e-12)


def test_evaluation_with_the_batchs_own_statistics_is_training() -> None:
    x, w, b = draws(8, 3, 4), draws(4, seed=1), draws(4, seed=2)
    y, mean, var = batch_norm_training(x, w, b)
    np.testing.assert_allclose(mean.numpy(), x.mean(axis=(0, 1)), **CLOSE)
    np.testing.assert_allclose(var.numpy(), x.var(axis=(0, 1)), **CLOSE)
    np.testing.assert_allclose(batch_norm(x, mean, var, w, b).numpy(), y.numpy(), rtol=1e-9)


NORMS: dict[str, Callable[[Any], Tensor]] = {
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "group_norm": lambda x: group_norm(x, groups=2),
    "batch_norm_training": lambda x: batch_norm_training(x)[0],
}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e15])
def test_norms_of_constant_tiny_and_large_float32_rows_stay_finite(
    name: str, offset: float, scale: float
) -> None:
    x = (draws(3, 4) * scale + offset).astype(np.float32)
    y, slope = fc.value_and_grad(lambda x: (NORMS[name](x) ** 3).sum())(tensor(x))
    assert np.isfinite(y.item())
    assert np.isfinite(slope.numpy()).all()


@pytest.mark.parametrize("name", ["layer_norm", "group_norm", "batch_norm_training"])
def test_the_derivative_of_a_norm_ignores_shifts(name: str) -> None:
    """A shift of all that is averaged does not change the result, so the slopes add up to 0."""
    x, weights = draws(4, 6), draws(4, 6, seed=1)
    slope = fc.grad(lambda x: (NORMS[name](x) * weights).sum())(tensor(x)).numpy()
    axis = 0 if name == "batch_norm_training" else -1
    np.testing.assert_allclose(slope.sum(axis=axis), 0.0, atol=1e-13)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: layer_norm(draws(2, 3), draws(4)), ShapeError, r"layer_norm: weight \(4,\)"),
        (lambda: layer_norm(draws(3), draws(2, 3)), ShapeError, r"layer_norm: weight \(2, 3\)"),
        (lambda: rms_norm([1, 2]), DtypeError, "rms_norm: .*int64"),
        (lambda: rms_norm(draws(2), eps=-1.0), ArgumentError, "rms_norm: eps is -1.0"),
        (lambda: group_norm(draws(2, 5), groups=2), ArgumentError, "2 groups of 5 channels"),
        (
            lambda: batch_norm(draws(2, 3), draws(2), draws(3)),
            ShapeError,
            r"batch_norm: mean \(2,\)",
        ),
        (lambda: batch_norm_training(draws(0, 3)), ShapeError, "no elements"),
    ],
)
def test_what_no_norm_can_take_is_named(
    call: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()


# ---- attention


def loop_attention(q: Array, k: Array, v: Array, seen: Array) -> Array:
    """Query by query: the mean of the values it may see, weighted by the exponentials of scores."""
    y = np.zeros((*q.shape[:-1], v.shape[-1]))
    for place in np.ndindex(q.shape[:-1]):
        *batch, i = place
        keys, values = k[tuple(batch)][seen[i]], v[tuple(batch)][seen[i]]
        if len(keys):
            scores = keys @ q[place] / np.sqrt(q.shape[-1])
            share = np.exp(scores - scores.max())
            y[place] = share @ values / share.sum()
    return y


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.integers(0, 99), st.booleans())
def test_attention_equals_the_loop_with_any_mask(
    queries: int, keys: int, width: int, seed: int, causal: bool
) -> None:
    q, k, v = draws(2, 3, queries, width), draws(2, 3, keys, width, seed=1), draws(2, 3, keys, 2)
    mask = np.random.default_rng(seed).random((queries, keys)) < 0.6
    seen = mask & np.tri(queries, keys, keys - queries, dtype=bool) if causal else mask
    expected = loop_attention(q, k, v, seen)
    found = attention(q, k, v, mask, causal=causal).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    scores = np.where(mask, 0.0, -np.inf)
    found = attention(q, k, v, scores, causal=causal).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_causal_attention_gives_a_prefix_what_it_gives_the_prefix_alone() -> None:
    q, k, v = draws(2, 6, 4), draws(2, 6, 4, seed=1), draws(2, 6, 3, seed=2)
    whole = attention(q, k, v, causal=True).numpy()
    for n in range(1, 7):
        part = attention(q[:, :n], k[:, :n], v[:, :n], causal=True).numpy()
        np.testing.assert_allclose(part, whole[:, :n], rtol=1e-12)


def test_queries_that_see_nothing_give_zeros_and_pass_no_derivative() -> None:
    q, k, v = draws(3, 4), draws(5, 4, seed=1), draws(5, 2, seed=2)
    mask = np.ones((3, 5), bool)
    mask[1] = False
    loss = lambda t: (attention(*t, mask) ** 2).sum()  # noqa: E731
    slopes = fc.grad(loss)((tensor(q), tensor(k), tensor(v)))
    assert attention(q, k, v, mask).numpy()[1].tolist() == [0.0, 0.0]
    assert all(np.isfinite(s.numpy()).all() for s in slopes)
    assert slopes[0].numpy()[1].tolist() == [0.0] * 4
    nothing = fc.grad(lambda t: (attention(*t, ~mask & False) ** 2).sum())(
        (tensor(q), tensor(k), tensor(v))
    )
    assert all((s.numpy() == 0).all() for s in nothing)


def test_attention_drops_probabilities_and_keeps_their_mean() -> None:
    q, k, v = np.zeros((1, 2)), np.zeros((20_000, 2)), np.ones((20_000, 1))
    kept = attention(q, k, v, dropout=0.25, key=Key(0, "test")).item()
    deviation = np.sqrt(0.25 / 0.75 / 20_000)  # of the mean of 20,000 draws of 0 or 1 / 0.75
    assert kept != 1.0
    assert abs(kept - 1.0) < 4 * deviation


# ---- recurrent networks


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))  # type: ignore[no-any-return]


def step_rnn(x: Array, w: Array, h: Array) -> Array:
    return np.tanh(x + h @ w)  # type: ignore[no-any-return]


def step_lstm(x: Array, w: Array, h: Array, c: Array) -> tuple[Array, Array]:
    i, f, g, o = np.split(x + h @ w, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def step_gru(x: Array, w: Array, b: Array, h: Array) -> Array:
    (xr, xz, xn), (pr, pz, pn) = np.split(x, 3, axis=-1), np.split(h @ w + b, 3, axis=-1)
    r, z = sigmoid(xr + pr), sigmoid(xz + pz)
    return (1 - z) * np.tanh(xn + r * pn) + z * h  # type: ignore[no-any-return]


@given(st.integers(1, 5), st.integers(1, 3), st.integers(1, 4))
def test_each_step_of_a_recurrent_network_is_its_cell(steps: int, batch: int, size: int) -> None:
    h, c = draws(batch, size), draws(batch, size, seed=1)
    for gates in (1, 3, 4):
        x, w = draws(steps, batch, gates * size, seed=2), draws(size, gates * size, seed=3)
        b, state, cell, states = draws(gates * size, seed=4), h, c, []
        for t in range(steps):
            if gates == 1:
                state = step_rnn(x[t], w, state)
            elif gates == 3:
                state = step_gru(x[t], w, b, state)
            else:
                state, cell = step_lstm(x[t], w, state, cell)
            states.append(state)
        if gates == 4:
            found, (last, memory) = lstm(x, w, h, c)
            np.testing.assert_allclose(memory.numpy(), cell, **CLOSE)
        else:
            found, last = rnn(x, w, h) if gates == 1 else gru(x, w, b, h)
        np.testing.assert_allclose(found.numpy(), states, **CLOSE)
        np.testing.assert_allclose(last.numpy(), state, **CLOSE)


RUNS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "rnn": lambda x, w: rnn(x, w)[0],
    "lstm": lambda x, w: lstm(x, w)[0],
    "gru": lambda x, w: gru(x, w, np.zeros(w.shape[1], w.dtype))[0],
}
GATES = {"rnn": 1, "lstm": 4, "gru": 3}


@pytest.mark.parametrize("name", RUNS)
def test_a_sequence_continued_from_its_state_is_the_whole_sequence(name: str) -> None:
    x, w = draws(6, 2, 3 * GATES[name]), draws(3, 3 * GATES[name], seed=1)
    if name == "lstm":
        first, state = lstm(x[:4], w)
        second = lstm(x[4:], w, *state)[0]
    elif name == "gru":
        first, h = gru(x[:4], w, np.zeros(9))
        second = gru(x[4:], w, np.zeros(9), h)[0]
    else:
        first, h = rnn(x[:4], w)
        second = rnn(x[4:], w, h)[0]
    joined = fc.concatenate([first, second])
    np.testing.assert_allclose(joined.numpy(), RUNS[name](x, w).numpy(), rtol=1e-12)


@pytest.mark.parametrize("name", RUNS)
def test_a_later_input_has_no_derivative_of_an_earlier_state(name: str) -> None:
    x, w = draws(5, 2, 3 * GATES[name]), draws(3, 3 * GATES[name], seed=1)
    slope = fc.grad(lambda x: RUNS[name](x, w)[2].sum())(tensor(x)).numpy()
    assert (slope[3:] == 0).all()
    assert (slope[:3] != 0).any(axis=(1, 2)).all()


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("size", [1e3, 1e30])
def test_saturated_recurrent_networks_have_finite_derivatives(name: str, size: float) -> None:
    x = (draws(4, 2, 3 * GATES[name]) * size).astype(np.float32)
    w = draws(3, 3 * GATES[name], seed=1).astype(np.float32)
    value, slopes = fc.value_and_grad(lambda pair: (RUNS[name](*pair) ** 2).sum())(
        (tensor(x), tensor(w))
    )
    assert np.isfinite(value.item())
    assert all(np.isfinite(s.numpy()).all() for s in slopes)


def test_the_state_at_a_sequences_own_length_ignores_its_padding() -> None:
    x, w, lengths = draws(5, 3, 12), draws(3, 12, seed=1), np.array([5, 2, 0])
    padded = x.copy()
    padded[2:, 1] = 9.0
    last = at_length(lstm(padded, w)[0], lengths).numpy()
    np.testing.assert_allclose(last[0], lstm(x[:, :1], w)[1][0].numpy()[0], rtol=1e-12)
    np.testing.assert_allclose(last[1], lstm(x[:2, 1:2], w)[1][0].numpy()[0], rtol=1e-12)
    assert last[2].tolist() == [0.0] * 3
    slope = fc.grad(lambda x: at_length(lstm(x, w)[0], lengths).sum())(tensor(padded)).numpy()
    assert (slope[2:, 1] == 0).all()
    assert (slope[:, 2] == 0).all()


@pytest.mark.parametrize("lengths", [[6, 1], [-1, 1]])
def test_a_sequence_is_no_longer_than_its_states(lengths: list[int]) -> None:
    replay = fc.compile(at_length)
    replay(tensor(draws(5, 2, 3)), tensor([5, 0]))
    for call in (at_length, replay):
        with pytest.raises(AxisError, match=r"5 steps, and the lengths lie in"):
            call(tensor(draws(5, 2, 3)), tensor(lengths))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, w: lstm(x[0], w), r"lstm: projected inputs \(2, 12\)"),
        (lambda x, w: lstm(x, w[:2]), r"recurrent weight \(2, 12\)"),
        (lambda x, w: lstm(x[:0], w), r"\(0, 2, 12\)"),
        (lambda x, w: lstm(x, w, np.zeros((3, 3))), r"states \(3, 3\)"),
        (lambda x, w: gru(x, w, np.zeros(9)), "gru: projected inputs"),
        (lambda x, w: lstm(x, w.astype(np.float32)), "lstm: operands of float32 and float64"),
        (lambda x, w: rnn(x, w, activation="sin"), "rnn: activation is 'sin'"),
        (lambda x, w: at_length(x, [1]), r"at_length: states \(5, 2, 12\) with lengths \(1,\)"),
        (lambda x, w: at_length(x, [1.5, 2.0]), "float32"),
    ],
)
def test_what_no_network_can_take_is_named(
    call: Callable[[Array, Array], Any], message: str
) -> None:
    with pytest.raises((ShapeError, DtypeError, ArgumentError), match=message):
        call(draws(5, 2, 12), draws(3, 12))
