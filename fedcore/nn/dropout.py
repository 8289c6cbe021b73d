"""`Dropout`: in training each element is zeroed by chance and the others scaled up."""

from __future__ import annotations

from fedcore.nn.checks import expect_fraction, expect_tensor
from fedcore.nn.context import Context
from fedcore.nn.module import Module
from fedcore.tensor.ops.random import dropout
from fedcore.tensor.tensor import Tensor

__all__ = ["Dropout"]


class Dropout(Module):
    """x with each element 0 with probability `rate`, else x / (1 - rate); x itself in evaluation.

    The mask depends on the context's key, the layer's path and the number of the draw alone. Inside
    vmap every lane has the same mask unless the key is mapped.
    Raises: ArgumentError unless 0 <= rate < 1, or in training without a key.
    Source: Srivastava et al., "Dropout", 2014.
    """

    def __init__(self, rate: float) -> None:
        expect_fraction("Dropout", rate=rate)
        self.rate = rate

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        expect_tensor(x)
        if not ctx.training or self.rate == 0:
            return x
        return dropout(x, ctx.key(self), rate=self.rate)
