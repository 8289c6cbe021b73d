"""Gathering by name: elements, rows and embeddings at an array of indices, and their sums back."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedcore.errors import AxisError, ShapeError, user_line
from fedcore.tensor.ops.arguments import element_type, operand, whole
from fedcore.tensor.ops.axes import negative_axis
from fedcore.tensor.ops.bounds import bounded
from fedcore.tensor.ops.create import arange
from fedcore.tensor.ops.elementwise import cast, equal
from fedcore.tensor.ops.gather import scatter_sum, take_rows, wrap_index
from fedcore.tensor.ops.selection import add_at, as_index, index
from fedcore.tensor.ops.shape import expand_dims, reshape
from fedcore.tensor.primitive import Core, primitive
from fedcore.tensor.registry import operations
from fedcore.tensor.tensor import Tensor

__all__ = ["embedding", "one_hot", "scatter_add", "scatter_rows", "take", "take_along_axis"]


def _places(indices: Any, x: Tensor, axis: int) -> Tensor:
    """The indices as a tensor, checked and counted from the start of the negative `axis`."""
    return wrap_index(as_index(indices, x), length=x.shape[axis], axis=x.ndim + axis)


def take(x: Any, indices: Any, axis: int | None = None) -> Tensor:
    """The elements at `indices` along `axis`, or of the flattened `x`.

    Shapes: x (a, n, b), indices (r...) -> (a, r..., b). Raises: AxisError if one is out of range.
    """
    x = operand("take", x)
    if axis is None:
        x, axis = x.flatten(), -1
    at = negative_axis("take", axis, x.ndim)
    places = _places(indices, x, at)
    return take_rows(x, places, axis=at, rank=places.ndim)


def take_along_axis(x: Any, indices: Any, axis: int = -1) -> Tensor:
    """For each place of `indices` the element of `x` at that index along `axis`.

    Shapes: x and indices have the same rank and equal lengths (or 1) off `axis`.
    """
    x = operand("take_along_axis", x)
    indices = as_index(indices, x)
    at = negative_axis("take_along_axis", axis, x.ndim) + x.ndim
    if indices.ndim != x.ndim:
        raise ShapeError(
            f"take_along_axis: indices of shape {indices.shape} for a tensor of shape {x.shape}",
            where=user_line(),
            why="both must have the same number of axes",
            fix="use take, or insert axes with expand_dims",
        )
    pairs = enumerate(zip(indices.shape, x.shape, strict=True))
    if any(n != m and 1 not in (n, m) for i, (n, m) in pairs if i != at):
        raise ShapeError(
            f"take_along_axis: indices {indices.shape} for a tensor {x.shape}, axis {axis}",
            where=user_line(),
            why="off the axis the lengths must be equal, or one of them 1",
            fix="expand or cut the indices",
        )
    key: list[Tensor] = []
    for i in range(x.ndim):
        if i == at:
            key.append(indices)
        else:
            lengths = tuple(x.shape[i] if j == i else 1 for j in range(x.ndim))
            key.append(reshape(arange(x.shape[i], like=x), lengths))
    return index(x, tuple(key))


def scatter_add(x: Any, indices: Any, v: Any, *, axis: int = 0) -> Tensor:
    """`x` with `v` added at `indices` along `axis`; equal indices add up.

    Shapes: x (a, n, b), indices (r...), v (a, r..., b) -> (a, n, b).
    """
    x = operand("scatter_add", x)
    before = x.ndim + negative_axis("scatter_add", axis, x.ndim)
    return add_at(x, (*[slice(None)] * before, as_index(indices, x)), v)


def scatter_rows(indices: Any, g: Any, *, count: int) -> Tensor:
    """Rows added into zeros: indices (R,), g (R, m) -> (count, m). Equal indices add up."""
    g = operand("scatter_rows", g)
    places = wrap_index(as_index(indices, g), length=count, axis=0)
    return scatter_sum(g, places, axis=-2, rank=1, length=count)


def one_hot(indices: Any, count: int, *, dtype: Any = np.float32) -> Tensor:
    """A one at each index and zeros elsewhere: (r...) -> (r..., count).

    Raises: AxisError for an index out of range, also for a negative one.
    """
    indices, count = operand("one_hot", indices), whole("one_hot", "count", count, least=0)
    kind = element_type("one_hot", dtype)
    indices = bounded(
        as_index(indices, indices),
        low=0,
        high=count - 1,
        error=AxisError,
        what=f"one_hot: there are {count} classes, and the indices",
        why=f"a class is a whole number from 0 to {count - 1}: -1, a common sign for what is "
        "missing, would be the last one",
        fix="number the classes from 0, and give what is missing a class of its own",
    )
    hit = equal(expand_dims(indices, -1), arange(count, like=indices))
    return cast(hit, dtype=kind)


@primitive(batch=Core(0), shape=lambda shape, *, count: shape, public=False)
def item_numbers(xp: Any, index: Any, *, count: int, out: Any = None) -> Any:
    """The index, checked to hold numbers below `count` and none that counts from the end.

    The check is part of the kernel, so that a replay makes it too. On a GPU it would wait for the
    device; there the index wraps, as that of `take` does.
    """
    if xp is np and index.size and (index.min() < 0 or index.max() >= count):
        raise AxisError(
            f"embedding: the indices lie in [{index.min()}, {index.max()}], and there are {count} "
            "rows",
            why=f"an item is a whole number from 0 to {count - 1}: -1, a common sign for padding, "
            "would be the last one",
            fix="give padding a row of its own, such as row 0, and weight 0 in the loss",
        )
    return xp.remainder(index, max(count, 1), out=out)


def embedding(weight: Any, indices: Any) -> Tensor:
    """The rows of `weight` at `indices`; the derivative stays factored as `Rows`.

    Shapes: weight (n, m), indices (r...) from 0 to n - 1 -> (r..., m).
    Raises: AxisError for an index out of range, also for a negative one.
    """
    weight = operand("embedding", weight)
    if weight.ndim != 2:
        raise ShapeError(
            f"embedding: the weight has shape {weight.shape}",
            where=user_line(),
            why="each row is the vector of one word",
            fix="pass a weight (words, width)",
        )
    numbers = item_numbers(as_index(indices, weight), count=weight.shape[0])
    return take_rows(weight, numbers, axis=-2, rank=numbers.ndim)


for _operation in (take, take_along_axis, scatter_add, scatter_rows, one_hot, embedding):
    operations.register(_operation.__name__, _operation)
