"""Recurrent layers over sequences (N, T, features), with a weight for inputs and one for states."""

from __future__ import annotations

from collections.abc import Callable

from fedcore.errors import ArgumentError, ShapeError, user_line
from fedcore.nn import init
from fedcore.nn.checks import (
    expect_channels,
    expect_dtype,
    expect_positive,
    expect_rank,
    expect_tensor,
)
from fedcore.nn.context import Context
from fedcore.nn.keys import init_key
from fedcore.nn.module import Module
from fedcore.tensor.ops.gru import gru
from fedcore.tensor.ops.linalg import matmul
from fedcore.tensor.ops.lstm import lstm
from fedcore.tensor.ops.recurrent import rnn
from fedcore.tensor.ops.shape import concatenate
from fedcore.tensor.random import Key
from fedcore.tensor.tensor import Tensor

__all__ = ["GRU", "LSTM", "RNN", "every_step", "last_step"]


class Recurrent(Module):
    """The parameters that all recurrent layers share, for a number of gates side by side.

    Every gate's input weight is drawn by `xavier_uniform` and its state weight by `orthogonal`.
    """

    gates: int

    def __init__(self, features: int, hidden: int, *, key: Key | int) -> None:
        expect_positive(type(self).__name__, features=features, hidden=hidden)
        own = init_key(key)
        self.input_weight = self._drawn(init.xavier_uniform, features, hidden, own.fold("input"))
        self.state_weight = self._drawn(init.orthogonal, hidden, hidden, own.fold("state"))
        self.bias = init.zeros((self.gates * hidden,))

    def _drawn(self, draw: Callable[..., Tensor], rows: int, hidden: int, key: Key) -> Tensor:
        parts = [draw((rows, hidden), key=key.fold(gate)) for gate in range(self.gates)]
        return concatenate(parts, axis=1)

    def _projected(self, x: Tensor, *states: Tensor | None) -> Tensor:
        """What the inputs add to every gate, time first: (N, T, features) -> (T, N, gates H).

        The first states are checked here, where the layer is known.
        """
        for state in states:
            if state is not None:
                expect_tensor(state)
                expect_dtype(state, self.state_weight)
        expect_rank(x, rank=3, layout="(N, T, features)")
        expect_channels(x, self.input_weight, self.input_weight.shape[0])
        if x.shape[1] == 0:
            raise ShapeError(
                f"a sequence without steps: {x.shape}",
                where=user_line(),
                why="a recurrent layer has no last state before the first step",
                fix="pass sequences of at least one step",
            )
        return matmul(x, self.input_weight).transpose(1, 0, 2) + self.bias


class RNN(Recurrent):
    """h_t = activation(x_t @ input_weight + h_{t-1} @ state_weight + bias).

    Called as layer(x) or layer(x, h0). Gives all states and the last one. `activation` is "tanh" or
    "relu".
    Shapes: x (N, T, features), h0 (N, hidden), zeros by default -> (N, T, hidden), (N, hidden).
    Source: Elman, "Finding Structure in Time", 1990.
    """

    gates = 1

    def __init__(
        self, features: int, hidden: int, *, key: Key | int, activation: str = "tanh"
    ) -> None:
        super().__init__(features, hidden, key=key)
        if activation not in ("tanh", "relu"):
            raise ArgumentError(
                f"RNN: activation is {activation!r:.80}",
                where=user_line(),
                why="the recurrence knows two",
                fix="pass 'tanh' or 'relu'",
            )
        self.activation = activation

    def forward(
        self, x: Tensor, h0: Tensor | None = None, *, ctx: Context
    ) -> tuple[Tensor, Tensor]:
        states, last = rnn(
            self._projected(x, h0), self.state_weight, h0, activation=self.activation
        )
        return states.transpose(1, 0, 2), last


class LSTM(Recurrent):
    """A long short-term memory; the gates stand in the order input, forget, cell, output.

    Called as layer(x), layer(x, h0) or layer(x, h0, c0). Gives all hidden states, and the last
    hidden and cell state. The forget gate starts at a bias of 1, so that it begins by remembering.
    Shapes: x (N, T, features), h0 and c0 (N, hidden), zeros by default -> (N, T, hidden),
    ((N, hidden), (N, hidden)).
    Source: Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997; Jozefowicz et al., "An
    Empirical Exploration of Recurrent Network Architectures", 2015, for the bias.
    """

    gates = 4

    def __init__(self, features: int, hidden: int, *, key: Key | int) -> None:
        super().__init__(features, hidden, key=key)
        nothing, remember = init.zeros((hidden,)), init.ones((hidden,))
        self.bias = concatenate([nothing, remember, nothing, nothing], axis=0)

    def forward(
        self, x: Tensor, h0: Tensor | None = None, c0: Tensor | None = None, *, ctx: Context
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        states, last = lstm(self._projected(x, h0, c0), self.state_weight, h0, c0)
        return states.transpose(1, 0, 2), last


class GRU(Recurrent):
    """A gated recurrent unit; the gates stand in the order reset, update, new.

    Called as layer(x) or layer(x, h0). Gives all states and the last one. The reset gate acts after
    the product with the state, which has a bias of its own.
    Shapes: x (N, T, features), h0 (N, hidden), zeros by default -> (N, T, hidden), (N, hidden).
    Source: Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder", 2014.
    """

    gates = 3

    def __init__(self, features: int, hidden: int, *, key: Key | int) -> None:
        super().__init__(features, hidden, key=key)
        self.state_bias = init.zeros((3 * hidden,))

    def forward(
        self, x: Tensor, h0: Tensor | None = None, *, ctx: Context
    ) -> tuple[Tensor, Tensor]:
        states, last = gru(self._projected(x, h0), self.state_weight, self.state_bias, h0)
        return states.transpose(1, 0, 2), last


def every_step(result: tuple[Tensor, object]) -> Tensor:
    """The states after all steps of what a recurrent layer gave: what another one on top reads.

    Shapes: ((N, T, hidden), ...) -> (N, T, hidden).
    """
    return result[0]


def last_step(result: tuple[Tensor, object]) -> Tensor:
    """The state after the last step of what a recurrent layer gave: what a classifier reads.

    Shapes: ((N, T, hidden), ...) -> (N, hidden).
    """
    return result[0][:, -1]
