"""Recurrent layers step as their equations say, carry states on, and learn what lies far back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fedcore as fc
from fedcore import nn
from fedcore.errors import FedcoreError

DRAW = np.random.default_rng(0)
X = DRAW.standard_normal((3, 5, 4)).astype(np.float32)
H, C = (DRAW.standard_normal((3, 2)).astype(np.float32) for _ in range(2))
LAYERS = {"RNN": nn.RNN, "LSTM": nn.LSTM, "GRU": nn.GRU}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def steps(layer: Any, x: np.ndarray, h: np.ndarray, c: np.ndarray) -> np.ndarray:
    """All states, one step at a time in double precision."""
    w, u, b = (
        getattr(layer, name).numpy().astype(float)
        for name in ("input_weight", "state_weight", "bias")
    )
    h, c, states = h.astype(float), c.astype(float), []
    for t in range(x.shape[1]):
        z = x[:, t] @ w + b
        if isinstance(layer, nn.RNN):
            z = z + h @ u
            h = np.tanh(z) if layer.activation == "tanh" else np.maximum(z, 0)
        elif isinstance(layer, nn.LSTM):
            i, f, g, o = np.split(z + h @ u, 4, axis=1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        else:
            (r, z_, n), (ur, uz, un) = (
                np.split(z, 3, axis=1),
                np.split(h @ u + layer.state_bias.numpy(), 3, axis=1),
            )
            update = sigmoid(z_ + uz)
            h = (1 - update) * np.tanh(n + sigmoid(r + ur) * un) + update * h
        states.append(h)
    return np.stack(states, axis=1)


def shifted(layer: Any) -> Any:
    """The layer with biases other than zero."""
    theta, rebuild = fc.ravel(layer)
    return rebuild(theta + 0.3 * DRAW.standard_normal(theta.size).astype(np.float32))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("given", [False, True])
def test_the_states_are_those_of_the_equations(name: str, given: bool) -> None:
    layer = shifted(LAYERS[name](4, 2, key=0))
    start = [H, C][: 2 if name == "LSTM" else 1] if given else []
    states, last = layer(X, *start)
    zeros = np.zeros((3, 2))
    expected = steps(layer, X, H if given else zeros, C if given else zeros)
    # five steps of single precision
    np.testing.assert_allclose(states, expected, rtol=1e-4, atol=1e-5)
    final = last[0] if name == "LSTM" else last
    np.testing.assert_array_equal(final, states.numpy()[:, -1])
    np.testing.assert_array_equal(nn.last_step((states, last)), final)
    np.testing.assert_array_equal(nn.every_step((states, last)), states)


def test_a_relu_recurrence_is_another() -> None:
    layer = shifted(nn.RNN(4, 2, key=0, activation="relu"))
    expected = steps(layer, X, np.zeros((3, 2)), C)
    np.testing.assert_allclose(layer(X)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_two_halves_of_a_sequence_are_the_whole(name: str) -> None:
    layer = shifted(LAYERS[name](4, 2, key=0))
    whole = layer(X)[0].numpy()
    first, last = layer(X[:, :3])
    second, _ = layer(X[:, 3:], *(last if isinstance(last, tuple) else (last,)))
    halves = np.concatenate([first.numpy(), second.numpy()], axis=1)
    np.testing.assert_allclose(halves, whole, rtol=1e-5, atol=1e-6)  # the same steps, batched anew


def test_the_forget_gate_begins_by_remembering() -> None:
    assert nn.LSTM(4, 2, key=0).bias.tolist() == [0, 0, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("name", LAYERS)
def test_state_weights_of_each_gate_are_orthogonal(name: str) -> None:
    layer = LAYERS[name](4, 3, key=0)
    for gate in np.split(layer.state_weight.numpy(), layer.gates, axis=1):
        np.testing.assert_allclose(gate @ gate.T, np.eye(3), atol=1e-5)  # single precision


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(
    ("start", "message"),
    [
        (np.zeros((3, 5), np.float32), r"\(3, 5\)"),
        (np.zeros((2, 2), np.float32), r"\(2, 2\)"),
        (np.zeros(2, np.float32), r"\(2,\)"),
        (np.zeros((3, 2)), "float64"),
        ("zeros", "str"),
    ],
)
def test_a_first_state_that_does_not_fit_is_refused(name: str, start: Any, message: str) -> None:
    with pytest.raises(FedcoreError, match=f"{name}: .*{message}"):
        LAYERS[name](4, 2, key=0)(X, start)


@pytest.mark.parametrize("name", LAYERS)
def test_a_sequence_without_steps_is_refused(name: str) -> None:
    with pytest.raises(FedcoreError, match="without steps"):
        LAYERS[name](4, 2, key=0)(X[:, :0])
