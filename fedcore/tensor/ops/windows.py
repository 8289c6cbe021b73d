"""Windows that slide over images: their sizes and borders as users write them, checked once.

Source of the size formula: Dumoulin and Visin, "A guide to convolution arithmetic for deep
learning", 2016, relationship 6, with dilation.
"""

from __future__ import annotations

from numbers import Integral
from typing import Any

from fedcore.errors import ArgumentError, ShapeError, user_line
from fedcore.tensor.primitive import Shape
from fedcore.tensor.tensor import Tensor

__all__ = [
    "Border",
    "Padding",
    "Pair",
    "Size",
    "border_of",
    "expect_images",
    "places",
    "positive_pair",
    "slid",
    "whole_pair",
]

Pair = tuple[int, int]
Border = tuple[Pair, Pair]
Size = int | tuple[int, int]
Padding = int | str | tuple[int, int] | tuple[Pair, Pair]


def whole_pair(value: Any) -> Pair | None:
    """One whole number for both directions, or two; None for anything else.

    >>> whole_pair(2), whole_pair([1, 2]), whole_pair(1.5)
    ((2, 2), (1, 2), None)
    """
    pair = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(pair) != 2 or any(isinstance(n, bool) or not isinstance(n, Integral) for n in pair):
        return None
    first, second = int(pair[0]), int(pair[1])
    return (first, second) if max(abs(first), abs(second)) < 2**31 else None


def positive_pair(name: str, option: str, value: Any) -> Pair:
    """One whole number for both directions, or two.

    Raises: ArgumentError unless they are positive.
    """
    pair = whole_pair(value)
    if pair is None or min(pair) < 1:
        raise ArgumentError(
            f"{name}: {option} is {value!r}",
            where=user_line(),
            why="it is one positive whole number, or one for the height and one for the width",
            fix=f"pass {option}=1, or {option}=(1, 1)",
        )
    return pair


def slid(
    size: int, window: int, *, stride: int = 1, dilation: int = 1, border: Pair = (0, 0)
) -> int:
    """How many places a window takes along one axis; none or fewer if it does not fit.

    >>> slid(28, 5), slid(28, 2, stride=2), slid(28, 3, border=(1, 1))
    (24, 14, 28)
    """
    return (size + sum(border) - dilation * (window - 1) - 1) // stride + 1


def border_of(
    name: str, padding: Any, *, size: Pair, window: Pair, stride: Pair, dilation: Pair
) -> Border:
    """The widths ((top, bottom), (left, right)) that `padding` stands for.

    "valid" is none, "same" gives ceil(size / stride) places, the odd element after the image.
    Raises: ArgumentError if it is not a padding.
    """
    if isinstance(padding, str) and padding == "valid":
        return (0, 0), (0, 0)
    if isinstance(padding, str) and padding == "same":
        pairs = []
        for n, k, s, d in zip(size, window, stride, dilation, strict=True):
            total = max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n)
            pairs.append((total // 2, total - total // 2))
        return pairs[0], pairs[1]
    given = padding if isinstance(padding, tuple | list) else (padding, padding)
    both = [pair for pair in map(whole_pair, given) if pair is not None and min(pair) >= 0]
    if len(given) == len(both) == 2:
        return both[0], both[1]
    raise ArgumentError(
        f"{name}: padding is {padding!r}",
        where=user_line(),
        why="it is a width, one for each direction, ((top, bottom), (left, right)) or a word",
        fix='pass padding=1, padding=((1, 2), (1, 2)), padding="same" or padding="valid"',
    )


def places(
    name: str, shape: Shape, window: Pair, *, stride: Pair, dilation: Pair, border: Border
) -> Pair:
    """How many places the window takes down and across images of `shape` (N, H, W, C).

    Raises: ShapeError if there are none.
    """
    down, across = (
        slid(n, k, stride=s, dilation=d, border=b)
        for n, k, s, d, b in zip(shape[-3:-1], window, stride, dilation, border, strict=True)
    )
    if down < 1 or across < 1:
        reach = tuple(d * (k - 1) + 1 for k, d in zip(window, dilation, strict=True))
        room = tuple(n + sum(b) for n, b in zip(shape[-3:-1], border, strict=True))
        raise ShapeError(
            f"{name}: a window of {window} reaches over {reach}, the padded images are {room}; "
            f"images {shape}",
            where=user_line(),
            why="a window must lie inside the padded image at least once",
            fix="use a smaller window or dilation, more padding, or fewer pooling layers",
        )
    return down, across


def expect_images(name: str, x: Tensor, rank: int = 4) -> None:
    """Raise a ShapeError unless `x` has the axes of a batch of images (N, H, W, C)."""
    if x.ndim != rank:
        axes = "(N, H, W, C)" if rank == 4 else "(N, L, C)"
        raise ShapeError(
            f"{name}: the input has shape {x.shape}, expected {axes}",
            where=user_line(),
            why="a batch of images, or of sequences, with the channels last",
            fix="add the missing axis with reshape, or move the channels with transpose",
        )
