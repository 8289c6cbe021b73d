"""Tensors made from nothing but a shape, on the backend of this thread.

They are calls like any other, so that a recorded program makes them anew instead of keeping a
captured array. float32 is the default, as for Python floats.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedcore.errors import ShapeError, user_line
from fedcore.tensor.backend import current_backend
from fedcore.tensor.ops.reduce import sum_
from fedcore.tensor.primitive import Core, Shape, primitive
from fedcore.tensor.registry import operations
from fedcore.tensor.tensor import Tensor, tensor

__all__ = ["arange", "eye", "full", "full_like", "ones", "ones_like", "zeros", "zeros_like"]


@primitive(
    batch=Core(0),
    shape=lambda before, *, shape: shape,
    onnx="Expand",
    public=False,
    name="full",
    vjps=(lambda g, y, x, *, shape: sum_(g),),
)
def full_primitive(xp: Any, x: Any, *, shape: Shape, out: Any = None) -> Any:
    """An array of `shape` with the 0-d `x` in every place."""
    if out is None:
        out = xp.empty(x.shape + shape, dtype=x.dtype)
    xp.copyto(out, x.reshape(x.shape + (1,) * len(shape)))
    return out


@primitive(
    batch=Core(0, 0),
    shape=lambda start, step, *, count: (count,),
    onnx="Range",
    public=False,
    name="arange",
)
def arange_primitive(xp: Any, start: Any, step: Any, *, count: int, out: Any = None) -> Any:
    """The numbers start, start + step, ... (`count` of them)."""
    places = xp.arange(count, dtype=start.dtype)
    return xp.add(start[..., None], places * step[..., None], out=out)


def full(shape: int | Sequence[int], value: Any, *, dtype: Any = None) -> Tensor:
    """A tensor of `shape` with `value`, a number or a 0-d tensor, in every place.

    Raises: ShapeError if a length is negative or `value` is not 0-d.
    """
    lengths = (shape,) if isinstance(shape, int) else tuple(int(n) for n in shape)
    x = tensor(value, dtype=dtype)
    if any(n < 0 for n in lengths) or x.ndim != 0:
        raise ShapeError(
            f"full: shape {lengths} of a value of shape {x.shape}",
            where=user_line(),
            why="lengths are not negative, and one number fills all places",
            fix="use expand to repeat an array",
        )
    return full_primitive(x, shape=lengths)


def zeros(shape: int | Sequence[int], *, dtype: Any = np.float32) -> Tensor:
    """Zeros.

    >>> zeros((2, 3)).shape
    (2, 3)
    """
    return full(shape, 0, dtype=np.dtype(dtype))


def ones(shape: int | Sequence[int], *, dtype: Any = np.float32) -> Tensor:
    """Ones."""
    return full(shape, 1, dtype=np.dtype(dtype))


def full_like(x: Any, value: Any, *, dtype: Any = None) -> Tensor:
    """`value` in the shape of `x`, with its dtype and on its device; the same in every lane."""
    x = tensor(x)
    kind = np.dtype(dtype or x.dtype)
    if not isinstance(value, Tensor):
        value = Tensor(x.backend.asarray(value, dtype=kind))
    return full(x.shape, value, dtype=kind)


def zeros_like(x: Any, *, dtype: Any = None) -> Tensor:
    """Zeros in the shape of `x`."""
    return full_like(x, 0, dtype=dtype)


def ones_like(x: Any, *, dtype: Any = None) -> Tensor:
    """Ones in the shape of `x`."""
    return full_like(x, 1, dtype=dtype)


def arange(
    start: int,
    stop: int | None = None,
    step: int = 1,
    *,
    dtype: Any = np.int64,
    like: Tensor | None = None,
) -> Tensor:
    """The whole numbers from `start` (0 if it stands alone) to before `stop`.

    They lie on the device of `like`, or on the backend of this thread.

    >>> arange(2, 8, 3).tolist()
    [2, 5]
    """
    first, last = (0, start) if stop is None else (start, stop)
    backend = current_backend() if like is None else like.backend
    begin, by = (Tensor(backend.asarray(n, dtype=np.dtype(dtype))) for n in (first, step))
    return arange_primitive(begin, by, count=len(range(first, last, step)))


def eye(rows: int, columns: int | None = None, *, dtype: Any = np.float32) -> Tensor:
    """The identity matrix (rows, columns), square unless `columns` is given."""
    across = operations.expand_dims(arange(rows if columns is None else columns), 0)
    return operations.cast(
        operations.equal(operations.expand_dims(arange(rows), 1), across), dtype=np.dtype(dtype)
    )


for _operation in (full, zeros, ones, full_like, zeros_like, ones_like, arange, eye):
    operations.register(_operation.__name__, _operation)
