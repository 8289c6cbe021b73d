"""`vmap`: a function of one example, or of one client, applied to many at once.

Inside, every array has one more leading lane axis, of size P or 1; there is no batch-dimension
bookkeeping. The same mechanism trains many clients, takes per-example gradients, and nests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from fedcore.autograd.tree import flatten, map_tree, unflatten
from fedcore.errors import ArgumentError, ShapeError, user_line
from fedcore.tensor.ops.lanes import enter_lane, leave_lane
from fedcore.tensor.registry import operations
from fedcore.tensor.tensor import Tensor, interpreter, tensor

__all__ = [
    "InAxes",
    "axes_of",
    "check_chunk",
    "lane_count",
    "lanes_between",
    "map_arguments",
    "open_lane",
    "slices_of",
    "to_front",
    "vmap",
]

InAxes = int | None | Sequence[int | None]


@contextmanager
def open_lane(size: int) -> Iterator[int]:
    """Open a lane of `size` in this thread; gives its position."""
    position = len(interpreter.lane_sizes)
    interpreter.lane_sizes = [*interpreter.lane_sizes, size]
    try:
        yield position
    finally:
        interpreter.lane_sizes = interpreter.lane_sizes[:position]


def axes_of(name: str, in_axes: InAxes, count: int) -> tuple[int | None, ...]:
    """`in_axes` as one entry an argument."""
    axes: tuple[Any, ...] = (in_axes,) * count
    if isinstance(in_axes, list | tuple):
        axes = tuple(in_axes)
    if any(not isinstance(axis, int | None) or isinstance(axis, bool) for axis in axes):
        raise ArgumentError(
            f"{name}: in_axes is {in_axes!r}",
            where=user_line(),
            why="an axis is a whole number",
            fix="give an axis, None, or a tuple of these for each argument",
        )
    if len(axes) != count:
        raise ArgumentError(
            f"{name}: in_axes has {len(axes)} entries for {count} arguments",
            where=user_line(),
            why="each argument is mapped over one axis, or over none",
            fix="give one entry an argument: an axis, or None",
        )
    if all(axis is None for axis in axes):
        raise ArgumentError(
            f"{name}: no argument is mapped",
            where=user_line(),
            why="the number of lanes comes from a mapped argument",
            fix="give at least one argument an axis in in_axes",
        )
    return axes


def check_chunk(name: str, chunk: int | None) -> None:
    """Raise an ArgumentError unless `chunk` is None or a number of lanes."""
    if chunk is None or (isinstance(chunk, int) and not isinstance(chunk, bool) and chunk >= 1):
        return
    raise ArgumentError(
        f"{name}: chunk is {chunk!r}",
        where=user_line(),
        why="a slice is a whole number of lanes, at least one",
        fix="pass 1 or more, or None for all lanes at once",
    )


def map_arguments(
    args: tuple[Any, ...], axes: tuple[int | None, ...], each: Callable[[Tensor, int], Any]
) -> list[Any]:
    """`args` with `each(leaf, axis)` in place of every leaf of a mapped argument."""

    def mapped(arg: Any, axis: int) -> Any:
        return map_tree(lambda x: each(tensor(x), axis), arg)

    return [
        arg if axis is None else mapped(arg, axis) for arg, axis in zip(args, axes, strict=True)
    ]


def lane_count(name: str, args: tuple[Any, ...], axes: tuple[int | None, ...]) -> int:
    """The common length of the mapped axes.

    Raises: ShapeError if they disagree or an axis is missing.
    """
    sizes: dict[int, str] = {}
    for position, (arg, axis) in enumerate(zip(args, axes, strict=True)):
        if axis is None:
            continue
        for leaf in flatten(arg)[0]:
            shape = tensor(leaf).shape
            if not -len(shape) <= axis < len(shape):
                raise ShapeError(
                    f"{name}: argument {position} of shape {shape} has no axis {axis}",
                    where=user_line(),
                    why="a mapped argument needs the axis that becomes the lane",
                    fix="pass an array with that axis, or None in in_axes",
                )
            sizes.setdefault(shape[axis], f"argument {position} has {shape[axis]}")
    if not sizes:
        raise ShapeError(
            f"{name}: the mapped arguments hold no arrays",
            where=user_line(),
            why="the number of lanes comes from a mapped array",
            fix="map an argument that holds at least one array",
        )
    if len(sizes) != 1:
        raise ShapeError(
            f"{name}: the mapped axes differ: " + ", ".join(sizes.values()),
            where=user_line(),
            why="every lane needs one slice of each mapped argument",
            fix="pass arrays of one length, or None in in_axes for what is shared",
        )
    return next(iter(sizes))


def to_front(x: Tensor, axis: int) -> Tensor:
    """`x` with `axis` moved to the front, also in memory.

    Sums go along the fastest axis of memory: were that the lanes, then a lane's bits would depend
    on how many lanes there are, and so on `chunk`.
    """
    at = axis % x.ndim
    if at != 0:
        x = operations.permute_dims(x, (at, *[i for i in range(x.ndim) if i != at]))
    steps = [abs(step) for step in x.data.strides[x.lanes :]]
    if x.shape[0] > 1 and steps[0] < max(steps):
        x = operations.reshape(operations.reshape(x, (x.size,)), x.shape)
    return x


def vmap(
    function: Callable[..., Any], in_axes: InAxes = 0, *, chunk: int | None = None
) -> Callable[..., Any]:
    """`function` mapped over an axis of its arguments; outputs gain a first axis.

    `in_axes` is an axis, None, or a tuple of these for each argument; None shares an argument.
    `chunk` runs at most so many lanes at a time, in slices of about equal size, to bound the memory
    at work. It does not change the bits of a lane, unless the lane is alone in its slice and
    multiplies a single row, or convolves one image, by what all lanes share.
    A random operation inside draws the same numbers in every lane unless its key is mapped.
    Raises: ShapeError if the mapped lengths differ, ArgumentError if nothing is mapped.

    >>> vmap(lambda x, w: (x * w).sum(), (0, None))(tensor([[1.0, 2.0], [3.0, 4.0]]), 2.0).tolist()
    [6.0, 14.0]
    """
    check_chunk("vmap", chunk)

    def call(*args: Any) -> Any:
        axes = axes_of("vmap", in_axes, len(args))
        size = lane_count("vmap", args, axes)
        fronted = tuple(map_arguments(args, axes, to_front))
        if chunk is None or chunk >= size:
            return _run(function, fronted, axes, size)
        slices = [
            _run(function, lanes_between(fronted, axes, start, stop), axes, stop - start)
            for start, stop in slices_of(size, chunk)
        ]
        return map_tree(lambda *xs: operations.concatenate(xs, axis=0), *slices)

    return call


def slices_of(size: int, chunk: int) -> list[tuple[int, int]]:
    """The bounds of as few slices of at most `chunk` lanes as hold `size`, evenly cut.

    >>> slices_of(7, 3)
    [(0, 2), (2, 4), (4, 7)]
    """
    count = -(-size // chunk)
    return list(pairwise(size * i // count for i in range(count + 1)))


def lanes_between(
    args: tuple[Any, ...], axes: tuple[int | None, ...], start: int, stop: int
) -> tuple[Any, ...]:
    """`args` with the lanes from `start` to `stop` of the mapped ones, whose lanes stand first."""
    return tuple(
        map_arguments(
            args,
            axes,
            lambda x, _: operations.narrow(x, axis=-x.ndim, start=start, stop=stop),
        )
    )


def _run(
    function: Callable[..., Any], args: tuple[Any, ...], axes: tuple[int | None, ...], size: int
) -> Any:
    with open_lane(size) as lane:
        entered = map_arguments(args, axes, lambda x, _: enter_lane(x, axis=lane))
        out = function(*entered)
        leaves, structure = flatten(out)
        return unflatten(structure, [leave_lane(tensor(y), axis=lane, size=size) for y in leaves])
