"""Arguments as the user writes them, checked in one place so that every error names the operation.

Operands become tensors and options plain Python values, so that what a kernel gets is hashable and
cannot fail inside it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedcore.errors import ArgumentError, DtypeError, FedcoreError, ShapeError, user_line
from fedcore.tensor.tensor import Tensor, tensor

__all__ = [
    "choice",
    "companion",
    "element_type",
    "flag",
    "lengths",
    "operand",
    "operands",
    "real",
    "spreads",
    "whole",
]

_NUMBERS = (bool, int, float, np.bool_, np.integer, np.floating)


def operand(name: str, value: Any, *, dtype: Any = None) -> Tensor:
    """`value` as a tensor, or the error of `tensor` with the operation's name."""
    if type(value) is Tensor and dtype is None:
        return value
    try:
        return tensor(value, dtype=dtype)
    except FedcoreError as error:
        error.what = f"{name}: {error.what}"
        raise


def companion(name: str, value: Any) -> Any:
    """`value` as a tensor, unless it is a number, which takes the dtype of the tensor beside it."""
    plain = type(value) is not Tensor and isinstance(value, _NUMBERS)
    return value if plain else operand(name, value)


def operands(name: str, values: Any) -> list[Tensor]:
    """A list or tuple of tensors, or one tensor read along its first axis.

    Raises: ArgumentError if it is something else or empty.
    """
    if isinstance(values, Tensor | np.ndarray) and values.ndim:
        values = list(values)
    if not isinstance(values, list | tuple) or len(values) == 0:
        raise ArgumentError(
            f"{name}: expected a list of tensors, got {_shown(values)}",
            where=user_line(),
            why="tensors are joined in the order of the list, and it may not be empty",
            fix=f"pass them in brackets, as in {name}([a, b])",
        )
    return [operand(name, x) for x in values]


def whole(name: str, option: str, value: Any, *, least: int | None = None) -> int:
    """`value` as a Python integer, `least` or more.

    Raises: ArgumentError if it is not whole or too small.

    >>> whole("topk", "k", np.int32(3))
    3
    """
    number = _index(value)
    if number is None or abs(number) >= 2**63 or (least is not None and number < least):
        bound = "" if least is None else f" that is {least} or more"
        raise ArgumentError(
            f"{name}: {option} is {_shown(value)}",
            where=user_line(),
            why=f"it is a whole number{bound}",
            fix=f"pass {option} as an int{bound}",
        )
    return number


def real(
    name: str, option: str, value: Any, *, low: float = -math.inf, high: float = math.inf
) -> float:
    """`value` as a Python float from `low` to `high`.

    Raises: ArgumentError if it is no number or out of range.
    """
    if type(value) is float and low <= value <= high:
        return value
    accepted = isinstance(value, int | float | np.integer | np.floating) and value is not True
    number = float(value) if accepted and abs(value) < 1e300 else math.nan
    if accepted and math.isinf(value):
        number = float(value)
    if not low <= number <= high:
        span = "" if (low, high) == (-math.inf, math.inf) else f" from {low:g} to {high:g}"
        raise ArgumentError(
            f"{name}: {option} is {_shown(value)}",
            where=user_line(),
            why=f"it is a number{span}",
            fix=f"pass {option} as a float{span}",
        )
    return number


def flag(name: str, option: str, value: Any) -> bool:
    """`value` as True or False.

    Raises: ArgumentError if it is something else.
    """
    if value is True or value is False:
        return value
    if isinstance(value, np.bool_) or (type(value) is int and value in (0, 1)):
        return bool(value)
    raise ArgumentError(
        f"{name}: {option} is {_shown(value)}",
        where=user_line(),
        why="it is a choice between two",
        fix=f"pass {option}=True or {option}=False",
    )


def lengths(name: str, value: Any, *, option: str = "shape", least: int = 0) -> tuple[int, ...]:
    """A shape as a tuple of Python integers, each `least` or more; one integer is one axis.

    Raises: ShapeError if it is no shape.

    >>> lengths("zeros", 3), lengths("reshape", [2, -1], least=-1)
    ((3,), (2, -1))
    """
    sequence = isinstance(value, tuple | list | range) or (
        isinstance(value, np.ndarray) and value.ndim == 1
    )
    found = []
    for n in value if sequence else (value,):
        number = n if type(n) is int else _index(n)
        if number is None or not least <= number < 2**63:
            break
        found.append(number)
    else:
        return tuple(found)
    raise ShapeError(
        f"{name}: {option} is {_shown(value)}",
        where=user_line(),
        why=f"it is a sequence of whole numbers that are {least} or more",
        fix=f"pass {option} as an int or a tuple of ints",
    )


def spreads(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Whether an operand of `shape` broadcasts to the shape `to` without enlarging it.

    >>> spreads((1, 4), (3, 4)), spreads((3, 4), (1, 4))
    (True, False)
    """
    pairs = zip(reversed(shape), reversed(to), strict=False)
    return len(shape) <= len(to) and all(n in (1, m) for n, m in pairs)


def choice(name: str, option: str, value: Any, known: Sequence[str]) -> str:
    """`value`, which must be one of the `known` words.

    Raises: ArgumentError if it is not.
    """
    if isinstance(value, str) and value in known:
        return value
    words = " or ".join(repr(word) for word in known)
    raise ArgumentError(
        f"{name}: {option} is {_shown(value)}",
        where=user_line(),
        why=f"it is {words}",
        fix="pass one of these words",
    )


def element_type(name: str, value: Any) -> np.dtype[Any]:
    """`value` as a dtype of numbers that a tensor may have.

    Raises: DtypeError if it names none.
    """
    try:
        found: np.dtype[Any] | None = np.dtype(value) if value is not None else None
    except (TypeError, ValueError):
        found = None
    if found is None or found.kind not in "biuf":
        raise DtypeError(
            f"{name}: dtype is {_shown(value)}",
            where=user_line(),
            why="a tensor holds floating numbers, integers or booleans",
            fix="pass for example 'float32', 'int64' or 'bool'",
        )
    return found


def _index(value: Any) -> int | None:
    if isinstance(value, bool | np.bool_):
        return None
    try:
        return operator.index(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _shown(value: Any) -> str:
    """A short form for messages: arrays by shape, everything else by its repr."""
    if isinstance(value, Tensor | np.ndarray):
        return f"a tensor of shape {value.shape} and dtype {value.dtype}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
