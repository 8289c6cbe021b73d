"""`Embedding`: a row of numbers for each of a fixed set of items."""

from __future__ import annotations

from fedcore.errors import DtypeError, user_line
from fedcore.nn import init
from fedcore.nn.checks import expect_positive, expect_tensor
from fedcore.nn.context import Context
from fedcore.nn.init import Initializer
from fedcore.nn.keys import init_key
from fedcore.nn.module import Module
from fedcore.tensor.ops.index import embedding
from fedcore.tensor.random import Key
from fedcore.tensor.tensor import Tensor

__all__ = ["Embedding"]


class Embedding(Module):
    """The rows of weight (count, features) that integers choose.

    Shapes: index (...) of integers from 0 to count - 1 -> (..., features).
    Raises: DtypeError for an index that is not of integers, AxisError for one out of
    range, also for a negative one: padding takes a row of its own.
    """

    def __init__(
        self,
        count: int,
        features: int,
        *,
        key: Key | int,
        weight_init: Initializer = init.normal,
    ) -> None:
        expect_positive("Embedding", count=count, features=features)
        self.weight = weight_init((count, features), key=init_key(key).fold("weight"))

    def forward(self, index: Tensor, ctx: Context) -> Tensor:
        expect_tensor(index)
        if index.dtype.kind not in "iu":
            raise DtypeError(
                f"an index of {index.dtype} into the weight {self.weight.shape}",
                where=user_line(),
                why="a row is chosen by its number",
                fix="convert with index.astype('int64')",
            )
        return embedding(self.weight, index)
