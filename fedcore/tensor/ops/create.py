"""Tensors made from nothing but a shape, on the backend of this thread.

They are calls like any other, so that a recorded program makes them anew instead of keeping a
captured array. float32 is the default, as for Python floats.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedcore.errors import ArgumentError, DtypeError, ShapeError, user_line
from fedcore.tensor.backend import current_backend
from fedcore.tensor.ops.arguments import element_type, lengths, operand, real, whole
from fedcore.tensor.ops.reduce import sum as sum_
from fedcore.tensor.primitive import Core, Shape, primitive
from fedcore.tensor.registry import operations
from fedcore.tensor.tensor import Tensor

__all__ = [
    "arange",
    "eye",
    "full",
    "full_like",
    "linspace",
    "ones",
    "ones_like",
    "zeros",
    "zeros_like",
]


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
    return _filled("full", shape, value, dtype)


def _filled(name: str, shape: Any, value: Any, dtype: Any) -> Tensor:
    sizes = lengths(name, shape)
    x = operand(name, value, dtype=None if dtype is None else element_type(name, dtype))
    if x.ndim != 0:
        raise ShapeError(
            f"{name}: shape {sizes} of a value of shape {x.shape}",
            where=user_line(),
            why="one number fills all places",
            fix="use broadcast_to to repeat an array",
        )
    return full_primitive(x, shape=sizes)


def zeros(shape: int | Sequence[int], *, dtype: Any = np.float32) -> Tensor:
    """Zeros.

    >>> zeros((2, 3)).shape
    (2, 3)
    """
    return _filled("zeros", shape, 0, dtype)


def ones(shape: int | Sequence[int], *, dtype: Any = np.float32) -> Tensor:
    """Ones."""
    return _filled("ones", shape, 1, dtype)


def full_like(x: Any, value: Any, *, dtype: Any = None) -> Tensor:
    """`value` in the shape of `x`, with its dtype and on its device; the same in every lane."""
    return _filled_like("full_like", x, value, dtype)


def _filled_like(name: str, x: Any, value: Any, dtype: Any) -> Tensor:
    x = operand(name, x)
    kind = x.dtype if dtype is None else element_type(name, dtype)
    if not isinstance(value, Tensor):
        value = Tensor(x.backend.asarray(operand(name, value, dtype=kind).data))
    return _filled(name, x.shape, value, kind)


def zeros_like(x: Any, *, dtype: Any = None) -> Tensor:
    """Zeros in the shape of `x`."""
    return _filled_like("zeros_like", x, 0, dtype)


def ones_like(x: Any, *, dtype: Any = None) -> Tensor:
    """Ones in the shape of `x`."""
    return _filled_like("ones_like", x, 1, dtype)


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
    first, last = whole("arange", "start", first), whole("arange", "stop", last)
    step, kind = whole("arange", "step", step), element_type("arange", dtype)
    if step == 0:
        raise ArgumentError(
            f"arange: from {first} to {last} in steps of 0",
            where=user_line(),
            why="no number of steps leads there",
            fix="pass a step that is not 0",
        )
    backend = current_backend() if like is None else operand("arange", like).backend
    begin, by = (Tensor(backend.asarray(n, dtype=kind)) for n in (first, step))
    return arange_primitive(begin, by, count=len(range(first, last, step)))


def linspace(start: float, stop: float, num: int = 50, *, dtype: Any = np.float32) -> Tensor:
    """`num` numbers from `start` to `stop` in equal steps, both ends included.

    They are computed in float64 and rounded once. Raises: DtypeError unless `dtype` is floating.

    >>> linspace(0, 1, 5).tolist()
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    first, last = real("linspace", "start", start), real("linspace", "stop", stop)
    count, kind = whole("linspace", "num", num, least=0), element_type("linspace", dtype)
    if kind.kind != "f":
        raise DtypeError(
            f"linspace: dtype is {kind}",
            where=user_line(),
            why="equal steps are no whole numbers",
            fix="pass a floating dtype, or use arange",
        )
    way, parts = last - first, max(count - 1, 1)
    if way / parts or not way:
        steps = _float64_steps(first, way / parts, count)
    else:  # the step is below the smallest number, so shares of the whole way are added instead
        steps = _float64_steps(0.0, 1.0, count) / parts * way + first
    if count > 1:  # the last sum may be off by a rounding
        steps = operations.where(operations.equal(arange(count), count - 1), last, steps)
    return steps.astype(kind)


def _float64_steps(begin: float, step: float, count: int) -> Tensor:
    ends = (Tensor(current_backend().asarray(n, dtype=np.float64)) for n in (begin, step))
    return arange_primitive(*ends, count=count)


def eye(rows: int, columns: int | None = None, *, dtype: Any = np.float32) -> Tensor:
    """The identity matrix (rows, columns), square unless `columns` is given."""
    down = whole("eye", "rows", rows, least=0)
    across = down if columns is None else whole("eye", "columns", columns, least=0)
    hit = operations.equal(
        operations.expand_dims(arange(down), 1), operations.expand_dims(arange(across), 0)
    )
    return operations.cast(hit, dtype=element_type("eye", dtype))


for _operation in (full, zeros, ones, full_like, zeros_like, ones_like, arange, linspace, eye):
    operations.register(_operation.__name__, _operation)
