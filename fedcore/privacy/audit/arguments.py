"""What every audit asks of its arguments: one of the wrong numbers would be worse than none."""

from __future__ import annotations

import math
import reprlib

import numpy as np
import numpy.typing as npt

from fedcore.errors import ArgumentError, DtypeError, ShapeError

__all__ = ["require_claim", "require_finite", "require_share"]

Floats = npt.NDArray[np.float64]


def require_claim(epsilon: float, delta: float) -> None:
    """A claim of (epsilon, delta) is one that data could contradict. Raises: ArgumentError."""
    if not (_is_number(epsilon) and 0 <= epsilon < math.inf):
        raise _refused("epsilon", epsilon, "a finite number from 0 up, what the report claims")
    if not (_is_number(delta) and 0 <= delta < 1):
        raise _refused("delta", delta, "a number from 0 to below 1, what the report claims")


def require_share(name: str, value: float) -> None:
    """A confidence or a significance lies between 0 and 1. Raises: ArgumentError."""
    if not (_is_number(value) and 0 < value < 1):
        raise _refused(name, value, "a number between 0 and 1")


def require_finite(name: str, values: npt.ArrayLike, *, dimensions: int, least: int = 1) -> Floats:
    """`values` as float64 of so many dimensions, none of them infinite or NaN.

    Raises: DtypeError, ShapeError, ArgumentError.
    """
    array = np.asarray(values)
    if not (np.issubdtype(array.dtype, np.floating) or np.issubdtype(array.dtype, np.integer)):
        raise DtypeError(
            f"{name} has dtype {array.dtype}",
            why="an audit computes with real numbers",
            fix=f"pass {name} as an array of floats",
        )
    if array.ndim != dimensions or array.size < least:
        raise ShapeError(
            f"{name} has shape {array.shape}",
            why=f"{dimensions} axes and at least {least} numbers are needed",
            fix=f"pass an array of {dimensions} axes",
        )
    result = array.astype(np.float64)
    if not np.isfinite(result).all():
        raise ArgumentError(
            f"{name} holds a number that is infinite or NaN",
            why="no statistic of it would mean anything",
            fix="look for the step that made it, and audit what was released after that is mended",
        )
    return result


def _is_number(value: object) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool)


def _refused(name: str, found: object, wanted: str) -> ArgumentError:
    return ArgumentError(
        f"audit: {name} = {reprlib.repr(found)}",
        why="the verdict would compare with no meaningful bound",
        fix=f"pass {name} as {wanted}",
    )
