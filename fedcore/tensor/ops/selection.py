"""Indexing as NumPy's: a key becomes slices, which are a view, and at most one gather.

The integer arrays of a key are merged into one index along one axis, so that every key has the
derivative and the lanes of the gather. They may differ from lane to lane; shapes may not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedcore.errors import ArgumentError, AxisError, DtypeError, ShapeError, TraceError, user_line
from fedcore.tensor.ops.arguments import operand, spreads
from fedcore.tensor.ops.create import arange
from fedcore.tensor.ops.elementwise import cast, minimum
from fedcore.tensor.ops.gather import (
    Ranges,
    paste,
    put,
    scatter_sum,
    slice_axes,
    take_rows,
    unslice,
    wrap_index,
)
from fedcore.tensor.ops.shape import broadcast_to, permute_dims, reshape
from fedcore.tensor.primitive import Shape, broadcast_shape
from fedcore.tensor.registry import operations
from fedcore.tensor.tensor import Tensor, interpreter

__all__ = ["Selection", "add_at", "as_index", "index", "set"]


@dataclass(frozen=True, slots=True)
class Selection:
    """What a key selects: ranges of the axes, then one gather along `axis` of the merged shape.

    `sliced` is the shape after slicing, with None as 1 and without the axes of integers; `order`
    brings the indexed axes to the front if they are apart; `merged` has one axis in their place.
    """

    shape: Shape
    ranges: Ranges
    sliced: Shape
    order: tuple[int, ...] | None = None
    merged: Shape = ()
    axis: int = 0
    index: Tensor | None = None

    def gather(self, x: Tensor) -> Tensor:
        """The elements of `x` that the key names."""
        if any(cut != (0, n, 1) for cut, n in zip(self.ranges, self.shape, strict=True)):
            x = slice_axes(x, ranges=self.ranges)
        x = reshape(x, self.sliced)
        if self.index is None:
            return x
        if self.order is not None:
            x = permute_dims(x, self.order)
        return take_rows(reshape(x, self.merged), self.index, axis=self.axis, rank=self.index.ndim)

    def scatter(self, v: Tensor) -> Tensor:
        """The adjoint: `v`, shaped like what is selected, added into zeros of the whole shape."""
        if self.index is not None:
            length = self.merged[self.axis]
            v = scatter_sum(v, self.index, axis=self.axis, rank=self.index.ndim, length=length)
            if self.order is not None:
                v = reshape(v, tuple(self.sliced[i] for i in self.order))
                v = permute_dims(v, tuple(int(i) for i in np.argsort(self.order)))
        v = reshape(v, tuple(count for _, count, _ in self.ranges))
        return unslice(v, ranges=self.ranges, shape=self.shape)

    @property
    def selected(self) -> Shape:
        """The shape of what is selected."""
        if self.index is None:
            return self.sliced
        at = len(self.merged) + self.axis
        return (*self.merged[:at], *self.index.shape, *self.merged[at + 1 :])


def selection(shape: Shape, key: Any, like: Tensor) -> Selection:
    """The key's meaning for `shape`; its arrays go to the device of `like`.

    Raises: AxisError if there are too many indices or one is out of range, DtypeError if an index
    is neither integer nor boolean, TraceError for a mask whose values are not known.
    """
    items = _expanded(shape, key, like)
    ellipsis = 0
    fancy = any(isinstance(item, Tensor) for item in items)
    ranges: list[tuple[int, int, int]] = []
    sliced: list[int] = []
    found: list[tuple[int, Tensor | int]] = []  # place in `sliced` and index of each indexed axis
    for item in items:
        if item is None:
            sliced.append(1)
            continue
        if item is ...:
            ellipsis = len(sliced)
            continue
        axis = len(ranges)
        length = shape[axis]
        if isinstance(item, slice):
            start, stop, step = _bounds(item, length)
            count = len(range(start, stop, step))
            ranges.append((start, count, step) if count else (0, 0, 1))
            sliced.append(count)
        elif isinstance(item, int):
            place = _wrapped(item, length, axis)
            if fancy:  # as NumPy: beside an array an integer is an array too
                found.append((len(sliced), place))
                sliced.append(length)
            ranges.append((0, length, 1) if fancy else (place, 1, 1))
        else:
            found.append((len(sliced), wrap_index(item, length=length, axis=axis)))
            ranges.append((0, length, 1))
            sliced.append(length)
    if not found:
        return Selection(shape, tuple(ranges), tuple(sliced))
    return _merged(shape, tuple(ranges), tuple(sliced), found, ellipsis)


def _merged(
    shape: Shape,
    ranges: Ranges,
    sliced: Shape,
    found: list[tuple[int, Tensor | int]],
    ellipsis: int,
) -> Selection:
    places = [place for place, _ in found]
    flat: Any = 0
    for place, indices in found:  # the row-major position in the merged axis
        flat = indices if place == places[0] else flat * sliced[place] + indices
    core = broadcast_shape(*[i.shape for _, i in found if isinstance(i, Tensor)])
    total = math.prod(sliced[place] for place in places)
    rest = [i for i in range(len(sliced)) if i not in places]
    together = places == list(range(places[0], places[-1] + 1))
    if places[0] < ellipsis <= places[-1]:
        together = False  # as NumPy: an ellipsis parts its neighbours even where it spans no axis
    first = places[0] if together else 0
    merged = [sliced[i] for i in rest]
    merged.insert(first, total)
    return Selection(
        shape,
        ranges,
        sliced,
        None if together else (*places, *rest),
        tuple(merged),
        first - len(merged),
        broadcast_to(flat, core),
    )


def _expanded(shape: Shape, key: Any, like: Tensor) -> list[Any]:
    """The items of a key: an ellipsis with its slices, masks and integer arrays as tensors."""
    given = [_item(k, like) for k in (key if isinstance(key, tuple) else (key,))]
    used = sum(len(k) if isinstance(k, tuple) else k is not None and k is not ... for k in given)
    ellipses = sum(k is ... for k in given)
    if used > len(shape) or ellipses > 1:
        raise AxisError(
            f"index: {used} indices for a tensor of shape {shape}"
            if ellipses < 2
            else "index: more than one ellipsis",
            where=user_line(),
            why=f"it has {len(shape)} axes",
            fix="name each axis at most once, and use ... at most once",
        )
    if not ellipses:
        given.append(...)
    items: list[Any] = []
    for k in given:
        if k is ...:
            items += [..., *[slice(None)] * (len(shape) - used)]
        elif isinstance(k, tuple):
            at = sum(item is not None and item is not ... for item in items)
            _check_mask(k, shape[at : at + len(k)])
            items += [_on(like, places) for places in k[0].nonzero()]
        else:
            items.append(k)
    return items


def _item(item: Any, like: Tensor) -> Any:
    """One entry of a key: None, ..., a slice, an int, an integer tensor, or a tuple for a mask.

    The mask stands first in its tuple, which is as long as the mask has axes.
    """
    if item is None or item is ... or isinstance(item, slice):
        return item
    if isinstance(item, int | np.integer) and not isinstance(item, bool):
        return int(item)
    if isinstance(item, list) and operand("index", item).size == 0:
        return as_index(item, like)
    array = item if isinstance(item, Tensor) else operand("index", item)
    if array.dtype.kind != "b":
        return as_index(array if isinstance(item, Tensor) else _on(like, array.data), like)
    if array.ndim == 0:
        raise _no_index(array)
    if array.lanes or (isinstance(item, Tensor) and interpreter.recorder is not None):
        raise TraceError(
            f"index: the values of a mask of shape {array.shape} are not known here",
            where=user_line(),
            why="the number of selected elements, so the shape, would depend on them",
            fix="use where(mask, x, 0.0), or multiply by the mask",
        )
    return (array.data, *[None] * (array.ndim - 1))


def _check_mask(mask: tuple[Any, ...], lengths: Shape) -> None:
    if mask[0].shape != lengths:
        raise ShapeError(
            f"index: a mask of shape {mask[0].shape} meets axes of lengths {lengths}",
            where=user_line(),
            why="a mask says of every element whether it is selected",
            fix="make the mask from the tensor itself, for example x > 0",
        )


def as_index(indices: Any, like: Tensor) -> Tensor:
    """Integer indices as an int64 tensor; what is no tensor goes to the device of `like`.

    Raises: DtypeError if they are not integers.
    """
    if not isinstance(indices, Tensor):
        given = operand("index", indices)
        indices = given if given.size else Tensor(np.zeros(given.shape, dtype=np.int64))
        indices = _on(like, indices.data)
    if indices.dtype.kind not in "iu":
        raise _no_index(indices)
    if (
        indices.dtype == np.uint64
    ):  # what int64 cannot hold would become negative: count from the end
        indices = minimum(indices, np.iinfo(np.int64).max)
    return indices if indices.dtype == np.int64 else cast(indices, dtype=np.dtype(np.int64))


def _no_index(array: Tensor) -> DtypeError:
    return DtypeError(
        f"index: a {array.dtype} of shape {array.shape} is no index",
        where=user_line(),
        why="an index is an integer, a slice, or an array of integers or booleans",
        fix="convert it with astype('int64'), or use where",
    )


def _on(like: Tensor, array: Any) -> Tensor:
    return Tensor(like.backend.asarray(array))


def _bounds(item: slice, length: int) -> tuple[int, int, int]:
    try:
        return item.indices(length)
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"index: {item} is no slice of an axis of length {length}",
            where=user_line(),
            why=str(error),
            fix="use whole numbers, and a step that is not 0",
        ) from error


def _wrapped(place: int, length: int, axis: int) -> int:
    if not -length <= place < length:
        raise AxisError(
            f"index {place} is out of range for axis {axis} of length {length}",
            where=user_line(),
            why="there is no element at that place",
            fix=f"use an index from {-length} to {length - 1}" if length else "the axis is empty",
        )
    return place % length


# ---- what users call


def index(x: Any, key: Any) -> Tensor:
    """`x[key]` by NumPy's rules: integers, slices, ..., None, integer arrays and constant masks.

    Inside `vmap` an integer array may differ from lane to lane. Slices are views.
    Raises: AxisError if an index is out of range, TraceError for a mask that is not constant.

    >>> index([[1.0, 2.0], [3.0, 4.0]], (0, -1)).item()
    2.0
    """
    x = operand("index", x)
    return selection(x.shape, key, x).gather(x)


def add_at(x: Any, key: Any, v: Any) -> Tensor:
    """`x` with `v` added at `x[key]`; where an element is named twice, it is added twice.

    >>> add_at([0.0, 0.0], [1, 1], [2.0, 3.0]).tolist()
    [0.0, 5.0]
    """
    x = operand("add_at", x)
    chosen = selection(x.shape, key, x)
    added: Tensor = x + chosen.scatter(_fitted("add_at", x, v, chosen.selected))
    return added


def set(x: Any, key: Any, v: Any) -> Tensor:
    """`x` with `v` in place of `x[key]`; where an element is named twice, the last value counts.

    >>> set([0.0, 0.0], 0, 5.0).tolist()
    [5.0, 0.0]
    """
    x = operand("set", x)
    chosen = selection(x.shape, key, x)
    v = _fitted("set", x, v, chosen.selected)
    if chosen.index is None:
        v = reshape(v, tuple(count for _, count, _ in chosen.ranges))
        return paste(x, v, ranges=chosen.ranges)
    places = chosen.gather(reshape(arange(x.size, like=x), x.shape)).flatten()
    return reshape(put(x.flatten(), places, v.flatten(), unique=False), x.shape)


def _fitted(name: str, x: Tensor, v: Any, shape: Shape) -> Tensor:
    """`v` in the dtype of `x`, spread to `shape`."""
    if not isinstance(v, Tensor):
        given = operand(name, v)
        fits = given.dtype.kind != "f" or x.dtype.kind == "f"  # whole numbers are not cut off
        v = _on(like=x, array=operand(name, v, dtype=x.dtype).data) if fits else given
    if v.dtype != x.dtype:
        raise DtypeError(
            f"{name}: values of {v.dtype} for a tensor of {x.dtype}",
            where=user_line(),
            why="the result keeps one dtype",
            fix=f"convert them with astype({str(x.dtype)!r})",
        )
    while v.ndim > len(shape) and v.shape[0] == 1:
        v = reshape(v, v.shape[1:])
    if not spreads(v.shape, shape):
        raise ShapeError(
            f"{name}: values {v.shape} for elements {shape} of a tensor {x.shape}",
            where=user_line(),
            why="the values have the shape of what the key selects, or spread to it",
            fix="compare with the shape of x[key]",
        )
    return broadcast_to(v, shape)


operations.register("index", index)
operations.register("add_at", add_at)
operations.register("set", set)
