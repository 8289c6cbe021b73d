"""`Sequential`: layers and functions, one after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedcore.errors import ArgumentError, user_line
from fedcore.nn.context import Context
from fedcore.nn.module import Module

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
        for layer in self.layers:
            x = layer(x, ctx=ctx) if isinstance(layer, Module) else layer(x)
        return x
