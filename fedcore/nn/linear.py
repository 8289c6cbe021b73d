"""`Linear`: an affine map of the last axis."""

from __future__ import annotations

from fedcore.nn import init
from fedcore.nn.checks import expect_channels, expect_positive
from fedcore.nn.context import Context
from fedcore.nn.init import Initializer
from fedcore.nn.keys import init_key
from fedcore.nn.module import Module
from fedcore.tensor.random import Key
from fedcore.tensor.registry import operations
from fedcore.tensor.tensor import Tensor

__all__ = ["Linear"]


class Linear(Module):
    """x @ weight + bias, with weight (in_features, out_features) and bias (out_features,).

    Shapes: x (..., in_features) -> (..., out_features).
    Raises: ArgumentError for sizes below 1, ShapeError if the last axis of x is another.

    >>> Linear(3, 2, key=0)
    Linear(weight (3, 2), bias (2,))
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        key: Key | int,
        bias: bool = True,
        weight_init: Initializer = init.xavier_uniform,
    ) -> None:
        expect_positive("Linear", in_features=in_features, out_features=out_features)
        self.weight = weight_init((in_features, out_features), key=init_key(key).fold("weight"))
        self.bias = init.zeros((out_features,)) if bias else None

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        expect_channels(x, self.weight, self.weight.shape[0])
        y = operations.matmul(x, self.weight)
        return y if self.bias is None else y + self.bias
