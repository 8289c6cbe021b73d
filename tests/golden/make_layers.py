"""Write layers.npz: PyTorch's dense, normalising, embedding and recurrent layers, with gradients.

Run with an interpreter that has PyTorch: python -m tests.golden.make_layers
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedcore import nn
from tests.golden.case import Case, layer_case, normal, write
from tests.golden.layouts import channels_first, channels_last, dense_weight

FILE = Path(__file__).with_name("layers.npz")
Shape = tuple[int, ...]
STEPS = 3


def linear(x: Shape, features: int, *, bias: bool = True) -> Case:
    """An affine map of the last axis."""
    layer = nn.Linear(x[-1], features, key=0, bias=bias)

    def theirs(torch: Any, v: Mapping[str, Any]) -> Any:
        weight = dense_weight(v["weight"])
        return torch.nn.functional.linear(v["x"], weight, v["bias"] if bias else None)

    return layer_case(layer, theirs, call=_of_x, x=normal("x", *x))


def batch_norm(x: Shape, *, momentum: float = 0.1, eps: float = 1e-5) -> Case:
    """`STEPS` batches (steps, N, ..., C) in training, the running statistics after the last, and
    the first batch in evaluation with these."""
    layer = nn.BatchNorm(x[-1], momentum=momentum, eps=eps)

    def call(layer: Any, v: Mapping[str, Any]) -> Any:
        outputs, state = [], nn.ravel_state(layer)[0].astype(v["x"].dtype)
        for step in range(STEPS):
            ctx = nn.Context(layer, training=True, state=state)
            outputs.append(layer(v["x"][step], ctx=ctx))
            state = ctx.state
        evaluated = layer(v["x"][0], ctx=nn.Context(layer, state=state))
        return [*outputs, state.reshape(2, x[-1]), evaluated]

    def theirs(torch: Any, v: Mapping[str, Any]) -> Any:
        mean, var = torch.zeros(x[-1]).double(), torch.ones(x[-1]).double()

        def one(batch: Any, training: bool) -> Any:
            y = torch.nn.functional.batch_norm(
                channels_first(batch), mean, var, v["weight"], v["bias"], training, momentum, eps
            )
            return channels_last(y)

        outputs = [one(v["x"][step], True) for step in range(STEPS)]
        state = torch.stack([mean, var])
        return [*outputs, state.requires_grad_(), one(v["x"][0], False)]

    return layer_case(layer, theirs, call=call, x=normal("x", STEPS, *x) * 2.0 + 1.0)


def layer_norm(x: Shape, *, eps: float = 1e-5) -> Case:
    """Over the last axis."""

    def theirs(torch: Any, v: Mapping[str, Any]) -> Any:
        return torch.nn.functional.layer_norm(v["x"], x[-1:], v["weight"], v["bias"], eps)

    layer = nn.LayerNorm(x[-1], eps=eps)
    return layer_case(layer, theirs, call=_of_x, x=normal("x", *x) * 2.0 + 1.0)


def rms_norm(x: Shape, *, eps: float = 1e-5) -> Case:
    """Over the last axis."""

    def theirs(torch: Any, v: Mapping[str, Any]) -> Any:
        return torch.nn.functional.rms_norm(v["x"], x[-1:], v["weight"], eps)

    return layer_case(nn.RMSNorm(x[-1], eps=eps), theirs, call=_of_x, x=normal("x", *x))


def group_norm(x: Shape, groups: int, *, eps: float = 1e-5) -> Case:
    """Over the positions of an example and the channels of a group."""

    def theirs(torch: Any, v: Mapping[str, Any]) -> Any:
        rows = channels_first(v["x"])
        y = torch.nn.functional.group_norm(rows, groups, v["weight"], v["bias"], eps)
        return channels_last(y)

    layer = nn.GroupNorm(groups, x[-1], eps=eps)
    return layer_case(layer, theirs, call=_of_x, x=normal("x", *x) * 2.0 + 1.0)


def embedding(count: int, features: int, index: Shape) -> Case:
    """Rows of which some are chosen several times, and some never."""
    chosen = np.floor(np.abs(normal("index", *index)) * count / 2).astype(np.int64) % count

    def theirs(torch: Any, v: Mapping[str, Any]) -> Any:
        return torch.nn.functional.embedding(torch.tensor(chosen), v["weight"])

    layer = nn.Embedding(count, features, key=0)
    return layer_case(layer, theirs, call=lambda layer, v: layer(chosen))


def recurrent(kind: str, x: Shape, hidden: int, *, states: bool = True) -> Case:
    """`kind` is "rnn_tanh", "rnn_relu", "lstm" or "gru"; `states` gives initial ones.

    PyTorch adds two biases in all three. One is redundant but in the GRU, whose reset gate acts on
    the second alone.
    """
    name, _, activation = kind.partition("_")
    options = {"activation": activation} if activation else {}
    layer: Any = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[name](
        x[-1], hidden, key=0, **options
    )
    initial = ("h0", "c0") if name == "lstm" else ("h0",)
    given = {state: normal(state, x[0], hidden) for state in initial} if states else {}

    def theirs(torch: Any, v: Mapping[str, Any]) -> Any:
        nothing = torch.zeros(x[0], hidden).double()
        return scan(torch, kind, v, v["x"], [v.get(state, nothing) for state in initial])

    def call(layer: Any, v: Mapping[str, Any]) -> Any:
        return layer(v["x"], *[v[state] for state in given])

    return layer_case(layer, theirs, call=call, x=normal("x", *x), **given)


def scan(torch: Any, kind: str, v: Mapping[str, Any], x: Any, first: list[Any]) -> list[Any]:
    """PyTorch's recurrent layer with our parameters: all states (N, T, H), and the last ones."""
    weights = [
        dense_weight(v["input_weight"]),
        dense_weight(v["state_weight"]),
        v["bias"],
        v.get("state_bias", torch.zeros_like(v["bias"])),
    ]
    begin = [state[None] for state in first]
    states, *last = getattr(torch, kind)(
        x,
        begin if kind == "lstm" else begin[0],
        weights,
        has_biases=True,
        num_layers=1,
        dropout=0.0,
        train=True,
        bidirectional=False,
        batch_first=True,
    )
    return [states, *[state[0] for state in last]]


def _of_x(layer: Any, v: Mapping[str, Any]) -> Any:
    return layer(v["x"])


CASES: Mapping[str, Case] = {
    "linear": linear((5, 4), 3),
    "linear_positions": linear((2, 3, 4), 2),
    "linear_no_bias": linear((5, 4), 3, bias=False),
    "batch_norm": batch_norm((6, 3)),
    "batch_norm_images": batch_norm((2, 3, 2, 3), momentum=0.3, eps=1e-3),
    "layer_norm": layer_norm((2, 3, 5)),
    "layer_norm_eps": layer_norm((4, 3), eps=0.1),
    "rms_norm": rms_norm((2, 3, 5)),
    "group_norm": group_norm((2, 3, 2, 4), 2),
    "group_norm_instance": group_norm((2, 5, 3), 3),
    "group_norm_one": group_norm((3, 4), 1, eps=0.01),
    "embedding": embedding(6, 3, (2, 5)),
    "rnn_tanh": recurrent("rnn_tanh", (3, 5, 2), 3),
    "rnn_relu": recurrent("rnn_relu", (3, 5, 2), 3, states=False),
    "lstm": recurrent("lstm", (3, 5, 2), 3),
    "lstm_zero_states": recurrent("lstm", (2, 4, 3), 2, states=False),
    "gru": recurrent("gru", (3, 5, 2), 3),
    "gru_zero_states": recurrent("gru", (2, 4, 3), 2, states=False),
}

if __name__ == "__main__":
    write(FILE, CASES)
