"""Axes as the user writes them, checked and turned into the negative ones that kernels take."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedcore.errors import AxisError, user_line
from fedcore.tensor.tensor import Axis

__all__ = ["negative_axes", "negative_axis"]


def negative_axis(name: str, axis: Any, rank: int) -> int:
    """`axis` counted from the end of `rank` core axes.

    Raises: AxisError if there is no such axis.

    >>> negative_axis("sum", 0, 3)
    -3
    """
    if type(axis) is not int:
        axis = int(axis) if isinstance(axis, np.integer) else _refused(name, axis, rank)
    if not -rank <= axis < rank:
        _refused(name, axis, rank)
    return axis if axis < 0 else axis - rank  # type: ignore[no-any-return]


def negative_axes(name: str, axis: Axis, rank: int) -> tuple[int, ...]:
    """`axis` (None for all, one, or several) as sorted distinct negative axes."""
    if axis is None:
        return tuple(range(-rank, 0))
    given = axis if isinstance(axis, tuple | list) else (axis,)
    found = sorted(negative_axis(name, a, rank) for a in given)
    if len(set(found)) != len(found):
        raise AxisError(
            f"{name}: axis {axis} names an axis twice",
            where=user_line(),
            why="each axis can be reduced once",
            fix="name each axis once",
        )
    return tuple(found)


def _refused(name: str, axis: Any, rank: int) -> Any:
    raise AxisError(
        f"{name}: there is no axis {axis!r:.80}",
        where=user_line(),
        why=f"the operand has {rank} axes",
        fix=f"use an axis from {-rank} to {rank - 1}" if rank else "drop the axis argument",
    )
