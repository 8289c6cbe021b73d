"""What layers ask of their arguments and inputs, with messages that show both shapes."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import TypeGuard

from fedcore.errors import ArgumentError, DtypeError, ShapeError, user_line
from fedcore.tensor.tensor import Tensor

__all__ = [
    "expect_channels",
    "expect_dtype",
    "expect_epsilon",
    "expect_fraction",
    "expect_positive",
    "expect_rank",
    "expect_tensor",
]


def expect_positive(layer: str, **sizes: object) -> None:
    """Raise an ArgumentError unless every size is an integer of at least 1."""
    for name, size in sizes.items():
        if not isinstance(size, Integral) or isinstance(size, bool) or size < 1:
            raise ArgumentError(
                f"{layer}: {name} is {size!r:.80}",
                where=user_line(),
                why="it counts something of which there is at least one",
                fix="pass an integer of at least 1",
            )


def expect_fraction(layer: str, **values: object) -> None:
    """Raise an ArgumentError unless every value lies in [0, 1)."""
    for name, value in values.items():
        if not (_is_number(value) and 0 <= value < 1):
            raise ArgumentError(
                f"{layer}: {name} is {value!r:.80}",
                where=user_line(),
                why="it is a share that leaves something over",
                fix="pass a number with 0 <= value < 1",
            )


def expect_tensor(x: object) -> None:
    """Raise a DtypeError unless x is a tensor; arrays have become tensors by then."""
    if not isinstance(x, Tensor):
        raise DtypeError(
            f"expected a tensor or an array, found a {type(x).__name__}",
            where=user_line(),
            why="the layer computes with numbers",
            fix="make one with fedcore.tensor(values)",
        )


def expect_rank(x: Tensor, *, rank: int, layout: str) -> None:
    """Raise a ShapeError unless x has `rank` axes, such as the four of "(N, H, W, C)"."""
    expect_tensor(x)
    if x.ndim != rank:
        raise ShapeError(
            f"expected an input {layout}, found shape {x.shape}",
            where=user_line(),
            why=f"the layer works on {rank} axes, channels last",
            fix="insert or merge axes with reshape; one example needs a batch axis of length 1",
        )


def expect_channels(x: Tensor, weight: Tensor, count: int) -> None:
    """Raise a ShapeError unless the last axis of x has `count`, a DtypeError for other dtypes."""
    expect_tensor(x)
    if x.ndim == 0 or x.shape[-1] != count:
        raise ShapeError(
            f"expected {count} in the last axis, found an input {x.shape}; weight {weight.shape}",
            where=user_line(),
            why="the last axis of the input meets the weight",
            fix=f"reshape the input to (..., {count}), or make the layer for its last axis",
        )
    expect_dtype(x, weight)


def expect_dtype(x: Tensor, weight: Tensor) -> None:
    """Raise a DtypeError unless x is of the dtype of the weight that it meets."""
    if x.dtype.kind in "biu":
        raise DtypeError(
            f"the input is {x.dtype}, and the layer computes in {weight.dtype}",
            where=user_line(),
            why="only floating numbers meet a weight; how integers are scaled is yours to say",
            fix=f"convert it: x.astype({str(weight.dtype)!r}), for images of bytes "
            f"x.astype({str(weight.dtype)!r}) / 255",
        )
    if x.dtype != weight.dtype:
        raise DtypeError(
            f"the input is {x.dtype}, the weight {weight.dtype}",
            where=user_line(),
            why="mixing precisions would silently turn float32 work into float64",
            fix=f"convert the input with x.astype({str(weight.dtype)!r})",
        )


def expect_epsilon(layer: str, eps: object) -> None:
    """Raise an ArgumentError unless `eps`, added to a variance, is finite and above 0."""
    if not (_is_number(eps) and 0 < eps < math.inf):
        raise ArgumentError(
            f"{layer}: eps is {eps!r:.80}",
            where=user_line(),
            why="it keeps a division by a vanishing variance finite",
            fix="pass a small positive number such as 1e-5",
        )


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool)
