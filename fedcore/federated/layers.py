"""The layers that a task may name, and how many numbers each holds before any is made.

A model arrives as names and plain options. Each name stands for one function here, whose signature
says which options there are, of which types; nothing else can be called.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from fedcore import nn
from fedcore.errors import ArgumentError
from fedcore.tensor.random import Key

__all__ = ["ACTIVATIONS", "COUNTS", "LAYERS", "layer_size"]

Size = int | tuple[int, ...]
Padding = int | str | tuple[Any, ...]


def linear(*, inputs: int, outputs: int, bias: bool = True, key: Key) -> nn.Module:
    return nn.Linear(inputs, outputs, bias=bias, key=key)


def conv1d(
    *,
    inputs: int,
    outputs: int,
    kernel_size: int,
    stride: int = 1,
    padding: Padding = 0,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = True,
    key: Key,
) -> nn.Module:
    return nn.Conv1d(
        inputs,
        outputs,
        kernel_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=bias,
        key=key,
    )


def conv2d(
    *,
    inputs: int,
    outputs: int,
    kernel_size: Size,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    bias: bool = True,
    key: Key,
) -> nn.Module:
    return nn.Conv2d(
        inputs,
        outputs,
        kernel_size,  # type: ignore[arg-type]
        stride=stride,  # type: ignore[arg-type]
        padding=padding,
        dilation=dilation,  # type: ignore[arg-type]
        groups=groups,
        bias=bias,
        key=key,
    )


def embedding(*, count: int, features: int, key: Key) -> nn.Module:
    return nn.Embedding(count, features, key=key)


def rnn(*, features: int, hidden: int, activation: str = "tanh", key: Key) -> nn.Module:
    return nn.RNN(features, hidden, activation=activation, key=key)


def lstm(*, features: int, hidden: int, key: Key) -> nn.Module:
    return nn.LSTM(features, hidden, key=key)


def gru(*, features: int, hidden: int, key: Key) -> nn.Module:
    return nn.GRU(features, hidden, key=key)


def attention(
    *,
    features: int,
    heads: int,
    bias: bool = True,
    causal: bool = False,
    dropout: float = 0.0,
    key: Key,
) -> nn.Module:
    return nn.MultiHeadAttention(
        features, heads, bias=bias, causal=causal, dropout=dropout, key=key
    )


def transformer_encoder(
    *,
    features: int,
    heads: int,
    hidden: int,
    activation: str = "gelu",
    causal: bool = False,
    dropout: float = 0.0,
    key: Key,
) -> nn.Module:
    if activation not in ACTIVATIONS:
        raise ArgumentError(
            f"transformer_encoder: activation is {activation!r:.80}",
            why="it names a function of one tensor",
            fix=f"take one of {', '.join(ACTIVATIONS)}",
        )
    return nn.TransformerEncoderBlock(
        features,
        heads,
        hidden,
        activation=ACTIVATIONS[activation],
        causal=causal,
        dropout=dropout,
        key=key,
    )


def batch_norm(*, channels: int, momentum: float = 0.1, eps: float = 1e-5) -> nn.Module:
    return nn.BatchNorm(channels, momentum=momentum, eps=eps)


def layer_norm(*, features: int, eps: float = 1e-5) -> nn.Module:
    return nn.LayerNorm(features, eps=eps)


def rms_norm(*, features: int, eps: float = 1e-5) -> nn.Module:
    return nn.RMSNorm(features, eps=eps)


def group_norm(*, groups: int, channels: int, eps: float = 1e-5) -> nn.Module:
    return nn.GroupNorm(groups, channels, eps=eps)


def max_pool1d(*, window: int = 2, stride: int | None = None, padding: Padding = 0) -> nn.Module:
    return nn.MaxPool1d(window, stride=stride, padding=padding)


def avg_pool1d(*, window: int = 2, stride: int | None = None, padding: Padding = 0) -> nn.Module:
    return nn.AvgPool1d(window, stride=stride, padding=padding)


def max_pool2d(*, window: Size = 2, stride: Size | None = None, padding: Padding = 0) -> nn.Module:
    return nn.MaxPool2d(window, stride=stride, padding=padding)  # type: ignore[arg-type]


def avg_pool2d(*, window: Size = 2, stride: Size | None = None, padding: Padding = 0) -> nn.Module:
    return nn.AvgPool2d(window, stride=stride, padding=padding)  # type: ignore[arg-type]


def dropout(*, rate: float) -> nn.Module:
    return nn.Dropout(rate)


def leaky_relu(*, slope: float = 0.01) -> Callable[..., Any]:
    return partial(nn.leaky_relu, slope=slope)


def reshape(*, shape: tuple[int, ...]) -> Callable[..., Any]:
    return partial(_reshaped, shape=shape)


def _reshaped(x: Any, *, shape: tuple[int, ...]) -> Any:
    return x.reshape(x.shape[0], *shape)


def _plain(function: Callable[..., Any]) -> Callable[..., Callable[..., Any]]:
    """The layer that is a function itself and has no options."""

    def layer() -> Callable[..., Any]:
        return function

    return layer


ACTIVATIONS: Final[Mapping[str, Callable[..., Any]]] = {
    "elu": nn.elu,
    "gelu": nn.gelu,
    "hardswish": nn.hardswish,
    "relu": nn.relu,
    "selu": nn.selu,
    "sigmoid": nn.sigmoid,
    "silu": nn.silu,
    "softplus": nn.softplus,
    "tanh": nn.tanh,
}
"""Functions of one tensor, by name."""

LAYERS: Final[Mapping[str, Callable[..., Any]]] = {
    "attention": attention,
    "avg_pool1d": avg_pool1d,
    "avg_pool2d": avg_pool2d,
    "batch_norm": batch_norm,
    "conv1d": conv1d,
    "conv2d": conv2d,
    "dropout": dropout,
    "embedding": embedding,
    "every_step": _plain(nn.every_step),
    "flatten": _plain(nn.flatten),
    "global_avg_pool": nn.GlobalAvgPool,
    "global_max_pool": nn.GlobalMaxPool,
    "group_norm": group_norm,
    "gru": gru,
    "last_step": _plain(nn.last_step),
    "layer_norm": layer_norm,
    "leaky_relu": leaky_relu,
    "linear": linear,
    "lstm": lstm,
    "max_pool1d": max_pool1d,
    "max_pool2d": max_pool2d,
    "reshape": reshape,
    "rms_norm": rms_norm,
    "rnn": rnn,
    "transformer_encoder": transformer_encoder,
    **{name: _plain(function) for name, function in ACTIVATIONS.items()},
}
"""What makes a layer, by the kind that a task names; those with parameters take a `key`."""


COUNTS: Final = frozenset(
    {
        "channels",
        "count",
        "dilation",
        "features",
        "groups",
        "heads",
        "hidden",
        "inputs",
        "kernel_size",
        "outputs",
        "stride",
        "window",
    }
)
"""Options of layers that are a number of things, or for each axis one: from 1."""


def layer_size(kind: str, options: Mapping[str, Any]) -> int:
    """At most how many numbers a layer holds, parameters and state, from its options alone.

    >>> layer_size("linear", {"inputs": 64, "outputs": 10, "bias": True})
    650
    """
    return max(0, int(_SIZES[kind](options))) if kind in _SIZES else 0


def _conv1d_size(options: Mapping[str, Any]) -> int:
    return _weights(options, options["kernel_size"])


def _conv2d_size(options: Mapping[str, Any]) -> int:
    kernel = options["kernel_size"]
    area = kernel**2 if isinstance(kernel, int) else math.prod(kernel)
    return _weights(options, area)


def _weights(options: Mapping[str, Any], area: int) -> int:
    return int(
        area * (options["inputs"] // max(1, options["groups"])) * options["outputs"]
        + options["outputs"]
    )


def _recurrent_size(gates: int) -> Callable[[Mapping[str, Any]], int]:
    return lambda options: gates * options["hidden"] * (options["features"] + options["hidden"] + 2)


def _attention_size(options: Mapping[str, Any]) -> int:
    return 4 * int(options["features"] ** 2 + options["features"])


_SIZES: Final[Mapping[str, Callable[[Mapping[str, Any]], int]]] = {
    "attention": _attention_size,
    "batch_norm": lambda options: 5 * options["channels"],
    "conv1d": _conv1d_size,
    "conv2d": _conv2d_size,
    "embedding": lambda options: options["count"] * options["features"],
    "group_norm": lambda options: 2 * options["channels"],
    "gru": _recurrent_size(3),
    "layer_norm": lambda options: 2 * options["features"],
    "linear": lambda options: (options["inputs"] + options["bias"]) * options["outputs"],
    "lstm": _recurrent_size(4),
    "rms_norm": lambda options: options["features"],
    "rnn": _recurrent_size(1),
    "transformer_encoder": lambda options: (
        _attention_size(options)
        + options["hidden"] * (2 * options["features"] + 1)
        + 5 * options["features"]
    ),
}
