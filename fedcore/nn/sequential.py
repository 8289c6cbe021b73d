"""`Sequential`: layers and functions, one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fedcore.errors import ArgumentError, FedcoreError, user_line
from fedcore.nn.context import Context
from fedcore.nn.conv import Conv2d
from fedcore.nn.module import Module
from fedcore.nn.pool import MaxPool2d
from fedcore.tensor.ops.activations import relu
from fedcore.tensor.ops.pool import bias_relu_pool
from fedcore.tensor.tensor import Tensor

__all__ = ["Sequential"]


class Sequential(Module):
    """The composition of `layers`: modules, and functions of one tensor such as `nn.relu`.

    Raises: ArgumentError if a layer cannot be called.

    >>> from fedcore.nn.linear import Linear
    >>> Sequential(Linear(4, 3, key=0), abs)
    Sequential(
      layers.0: Linear(weight (4, 3), bias (3,))
      layers.1: abs
    )
    """

    def __init__(self, *layers: Callable[..., Any]) -> None:
        for position, layer in enumerate(layers):
            if not callable(layer) or isinstance(layer, type):
                name = layer.__name__ if isinstance(layer, type) else repr(layer)
                raise ArgumentError(
                    f"Sequential: layer {position} is {name:.80}",
                    where=user_line(),
                    why="each layer is called with the output of the one before",
                    fix="pass modules, made with their arguments, and functions",
                )
        self.layers = layers

    def forward(self, x: Any, ctx: Context) -> Any:
        at = 0
        while at < len(self.layers):
            found = None if ctx.trace is not None else _pooled(self.layers[at : at + 3], x)
            if found is not None:
                x, at = found, at + 3
                continue
            layer = self.layers[at]
            x, at = layer(x, ctx=ctx) if isinstance(layer, Module) else layer(x), at + 1
        return x


def _pooled(layers: Sequence[Callable[..., Any]], x: Any) -> Tensor | None:
    """What a convolution, `relu` and a maximum make of `x` together, if that is what they are.

    `bias_relu_pool` makes the same with a quarter of the work. None also where one would raise,
    which by itself says which it is.
    """
    match layers:
        case [Conv2d() as conv, function, MaxPool2d(padding=0) as pool]:
            if function is not relu or conv.bias is None:
                return None
            try:
                return bias_relu_pool(
                    conv.correlated(x), conv.bias, pool.window, stride=pool.stride
                )
            except FedcoreError:
                return None
    return None
