"""What NumPy's own functions make of tensors, so that none of them drops a derivative in silence.

Its elementwise functions, and with them the operators of its arrays, are the operations of the same
name: `numpy.exp(x)` is `fedcore.exp(x)`. All others read the values as `numpy()` does, which is
refused where a derivative, a lane or a recording would be lost, and return what is NumPy's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fedcore.errors import FedcoreError, MutationError, user_line
from fedcore.tensor.registry import operations

__all__ = ["Interop"]

_RENAMED = {"invert": "bitwise_not", "rint": "round"}
_OF_THE_SHAPE = (np.shape, np.ndim, np.size)


class _OfTheClass:
    """`__array_ufunc__` for NumPy, which asks the class of an operand; None for the operand itself.

    CuPy asks the operand, and leaves `array @ x` to `x.__rmatmul__` only if it finds None.
    """

    def __get__(self, x: Interop | None, owner: type[Interop]) -> Any:
        return _elementwise if x is None else None


class Interop:
    """What `Tensor` inherits for NumPy: no state."""

    __slots__ = ()
    __array_ufunc__ = _OfTheClass()

    def __array_function__(
        self, function: Any, types: Any, args: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        if function in _OF_THE_SHAPE:
            return function._implementation(*args, **options)
        name = f"{function.__module__}.{function.__name__}"
        named = {option: _read(name, value) for option, value in options.items()}
        return function._implementation(*_read(name, args), **named)


def _elementwise(x: Interop, function: Any, method: str, *inputs: Any, **options: Any) -> Any:
    name = function.__name__
    if "out" in options:
        raise MutationError(
            f"numpy.{name} of a tensor has no out=",
            where=user_line(),
            why="an operation gives a new tensor, and an array has no derivative",
            fix="write array = array + x for array += x, or use x.numpy()",
        )
    if method == "__call__" and not options and vars(np).get(name) is function:
        if name == "divmod":
            return operations.floor_divide(*inputs), operations.remainder(*inputs)
        name = _RENAMED.get(name, name)
        if name in operations:
            return getattr(operations, name)(*[_number(x) for x in inputs])
    return getattr(function, method)(*_read(f"numpy.{name}", inputs), **options)


def _number(x: Any) -> Any:
    """NumPy's numbers come as 0-d arrays where they stand left of `==`, `<` and their like."""
    return x[()] if type(x) is np.ndarray and x.ndim == 0 else x


def _read(name: str, given: Any) -> Any:
    """`given` with the values of its tensors, as NumPy's function of that name takes them."""
    if isinstance(given, list | tuple):
        parts = [_read(name, part) for part in given]
        return tuple(parts) if isinstance(given, tuple) else parts
    if not isinstance(given, Interop):
        return given
    x: Any = given
    try:
        return x.numpy()
    except FedcoreError as error:
        error.what = f"{name}: {error.what}"
        raise
