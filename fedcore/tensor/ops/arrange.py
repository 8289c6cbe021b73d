"""Rearrangements: sorting, rolling, repeating, splitting, diagonals and triangles.

All but the order of a sort are compositions of views and gathers, which bring the derivatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from fedcore.errors import ArgumentError, AxisError, ShapeError, user_line
from fedcore.tensor.ops.arguments import flag, lengths, operand, whole
from fedcore.tensor.ops.axes import negative_axes, negative_axis
from fedcore.tensor.ops.create import arange
from fedcore.tensor.ops.elementwise import greater_equal, less_equal, where
from fedcore.tensor.ops.index import take, take_along_axis
from fedcore.tensor.ops.reduce import sum as sum_
from fedcore.tensor.ops.shape import (
    broadcast_to,
    concatenate,
    expand_dims,
    flip,
    narrow,
    permute_dims,
    reshape,
)
from fedcore.tensor.primitive import Core, primitive
from fedcore.tensor.registry import operations
from fedcore.tensor.tensor import Tensor

__all__ = [
    "argsort",
    "diagonal",
    "moveaxis",
    "repeat",
    "roll",
    "sort",
    "split",
    "tile",
    "topk",
    "trace",
    "tril",
    "triu",
]


@primitive(batch=Core(1), shape=lambda shape, *, axis: shape, public=False, name="argsort")
def argsort_primitive(xp: Any, x: Any, *, axis: int, out: Any = None) -> Any:
    """The indices that sort along `axis`; equal elements keep their order."""
    order = xp.argsort(x, axis=axis, kind="stable")
    if out is None:
        return order
    xp.copyto(out, order)
    return out


def argsort(x: Any, axis: int = -1, *, descending: bool = False) -> Tensor:
    """The indices that sort along `axis`; equal elements keep their order.

    >>> argsort([3.0, 1.0, 2.0]).tolist()
    [1, 2, 0]
    """
    x = operand("argsort", x)
    at = negative_axis("argsort", axis, x.ndim)
    if not flag("argsort", "descending", descending):
        return argsort_primitive(x, axis=at)
    backwards = flip(argsort_primitive(flip(x, at), axis=at), at)
    places: Tensor = (x.shape[at] - 1) - backwards
    return places


def sort(x: Any, axis: int = -1, *, descending: bool = False) -> Tensor:
    """The elements in order along `axis`; the derivative goes back to where each came from.

    >>> sort([3.0, 1.0, 2.0], descending=True).tolist()
    [3.0, 2.0, 1.0]
    """
    x, descending = operand("sort", x), flag("sort", "descending", descending)
    return take_along_axis(x, argsort(x, axis=axis, descending=descending), axis=axis)


def topk(x: Any, k: int, *, axis: int = -1) -> tuple[Tensor, Tensor]:
    """The `k` largest elements along `axis`, largest first, and their indices.

    Of equal elements the one of lower index comes first. Raises: ArgumentError if there are not so
    many.

    >>> [part.tolist() for part in topk([3.0, 1.0, 2.0], 2)]
    [[3.0, 2.0], [0, 2]]
    """
    x = operand("topk", x)
    at = negative_axis("topk", axis, x.ndim)
    k = whole("topk", "k", k)
    if not 0 <= k <= x.shape[at]:
        raise ArgumentError(
            f"topk: {k} of {x.shape[at]} elements",
            where=user_line(),
            why=f"axis {axis} of {x.shape} has no more",
            fix="ask for at most as many as there are",
        )
    places = narrow(argsort(x, axis=at, descending=True), axis=at, start=0, stop=k)
    return take_along_axis(x, places, axis=at), places


def roll(x: Any, shift: int, axis: int | None = None) -> Tensor:
    """The elements moved `shift` places along `axis`; those that leave come back at the start.

    Without an axis they move in row-major order.

    >>> roll([1, 2, 3], 1).tolist()
    [3, 1, 2]
    """
    x = operand("roll", x)
    if axis is None:
        return reshape(roll(x.flatten(), shift, axis=-1), x.shape)
    at = negative_axis("roll", axis, x.ndim)
    length = x.shape[at]
    cut = -whole("roll", "shift", shift) % length if length else 0
    tail = narrow(x, axis=at, start=cut, stop=length)
    return concatenate([tail, narrow(x, axis=at, start=0, stop=cut)], axis=at)


def moveaxis(x: Any, source: int | Sequence[int], destination: int | Sequence[int]) -> Tensor:
    """The axes `source` moved to the places `destination`; the others keep their order.

    Raises: AxisError unless both name equally many axes, each once.

    >>> moveaxis(arange(24).reshape(2, 3, 4), 0, -1).shape
    (3, 4, 2)
    """
    x = operand("moveaxis", x)
    origins, places = (_each_once("moveaxis", axes, x.ndim) for axes in (source, destination))
    if len(origins) != len(places):
        raise AxisError(
            f"moveaxis: axes {source} to {destination}",
            where=user_line(),
            why=f"{len(origins)} axes do not go to {len(places)} places",
            fix="name a place for each axis",
        )
    order = [axis for axis in range(-x.ndim, 0) if axis not in origins]
    for place, origin in sorted(zip(places, origins, strict=True)):
        order.insert(place + x.ndim, origin)
    return permute_dims(x, order)


def _each_once(name: str, axes: Any, rank: int) -> tuple[int, ...]:
    """Negative axes in the order given."""
    negative_axes(name, axes, rank)
    return tuple(negative_axis(name, a, rank) for a in np.atleast_1d(axes).tolist())


def tile(x: Any, times: Sequence[int]) -> Tensor:
    """The whole of `x` repeated `times[i]` times along axis i; missing leading axes are added.

    >>> tile([1, 2], (2, 2)).tolist()
    [[1, 2, 1, 2], [1, 2, 1, 2]]
    """
    x, times = operand("tile", x), lengths("tile", times, option="times")
    rank = max(x.ndim, len(times))
    shape = (1,) * (rank - x.ndim) + x.shape
    counts = (1,) * (rank - len(times)) + times
    apart = reshape(x, tuple(n for length in shape for n in (1, length)))
    spread = broadcast_to(apart, tuple(n for pair in zip(counts, shape, strict=True) for n in pair))
    return reshape(spread, tuple(c * n for c, n in zip(counts, shape, strict=True)))


def repeat(x: Any, times: int | Sequence[int], axis: int | None = None) -> Tensor:
    """Each element along `axis` repeated `times` times, or `times[i]` times for the i-th.

    Without an axis those of the flattened tensor.

    >>> repeat([1, 2], 2).tolist(), repeat([1, 2], (0, 3)).tolist()
    ([1, 1, 2, 2], [2, 2, 2])
    """
    x = operand("repeat", x)
    if axis is None:
        x, axis = x.flatten(), -1
    at = negative_axis("repeat", axis, x.ndim)
    counts = lengths("repeat", times, option="times")
    if np.ndim(times) == 1:
        if len(counts) != x.shape[at]:
            raise ShapeError(
                f"repeat: {len(counts)} counts for axis {axis} of {x.shape}",
                where=user_line(),
                why="each element needs a count",
                fix="pass one number, or one an element",
            )
        return take(x, np.repeat(np.arange(x.shape[at]), counts), axis=at)
    before = x.ndim + at
    apart = expand_dims(x, before + 1)
    spread = broadcast_to(apart, (*x.shape[: before + 1], *counts, *x.shape[before + 1 :]))
    return reshape(spread, (*x.shape[:before], x.shape[at] * counts[0], *x.shape[before + 1 :]))


def split(x: Any, parts: int | Sequence[int], axis: int = 0) -> list[Tensor]:
    """Views of `x` along `axis`: so many equal parts, or parts of the given lengths.

    Raises: ShapeError if the lengths do not make up the axis.

    >>> [part.tolist() for part in split([1, 2, 3], (1, 2))]
    [[1], [2, 3]]
    """
    x = operand("split", x)
    at = negative_axis("split", axis, x.ndim)
    length = x.shape[at]
    pieces = lengths("split", parts, option="parts")
    if np.ndim(parts) == 0:
        pieces = (length // pieces[0],) * pieces[0] if 0 < pieces[0] <= max(length, 1) else ()
    if sum(pieces) != length or not pieces:
        raise ShapeError(
            f"split: axis {axis} of {x.shape} does not fall into {parts} parts",
            where=user_line(),
            why=f"their lengths must add up to {length}",
            fix="pass lengths that do, or a number that divides it",
        )
    ends = np.cumsum([0, *pieces]).tolist()
    return [narrow(x, axis=at, start=start, stop=stop) for start, stop in pairwise(ends)]


def diagonal(x: Any, *, offset: int = 0) -> Tensor:
    """The diagonal of the last two axes, or the one `offset` above it: (..., n, m) -> (..., k).

    >>> diagonal([[1, 2], [3, 4]]).tolist()
    [1, 4]
    """
    x, offset = _matrix("diagonal", x), whole("diagonal", "offset", offset)
    rows, columns = x.shape[-2:]
    first = offset if offset >= 0 else -offset * columns
    count = max(0, min(rows + min(offset, 0), columns - max(offset, 0)))
    flat = reshape(x, (*x.shape[:-2], rows * columns))
    places = slice(first, first + count * (columns + 1), columns + 1) if count else slice(0, 0)
    return flat[..., places]


def trace(x: Any) -> Tensor:
    """The sum of the diagonal of the last two axes."""
    return sum_(diagonal(_matrix("trace", x)), axis=-1)


def tril(x: Any, *, offset: int = 0) -> Tensor:
    """The last two axes with zeros above the diagonal that is `offset` above the main one."""
    x, offset = _matrix("tril", x), whole("tril", "offset", offset)
    return where(less_equal(_columns(x) - _rows(x), offset), x, 0.0)


def triu(x: Any, *, offset: int = 0) -> Tensor:
    """The last two axes with zeros below the diagonal that is `offset` above the main one."""
    x, offset = _matrix("triu", x), whole("triu", "offset", offset)
    return where(greater_equal(_columns(x) - _rows(x), offset), x, 0.0)


def _rows(x: Tensor) -> Tensor:
    return expand_dims(arange(x.shape[-2], like=x), 1)


def _columns(x: Tensor) -> Tensor:
    return arange(x.shape[-1], like=x)


def _matrix(name: str, x: Any) -> Tensor:
    found = operand(name, x)
    if found.ndim < 2:
        raise ShapeError(
            f"{name}: a tensor of shape {found.shape} has no matrices",
            where=user_line(),
            why="it works on the last two axes",
            fix="insert an axis with expand_dims",
        )
    return found


for _operation in (
    argsort,
    sort,
    topk,
    roll,
    moveaxis,
    tile,
    repeat,
    split,
    diagonal,
    trace,
    tril,
    triu,
):
    operations.register(_operation.__name__, _operation)
