"""Shape operations: most are views, so that a replay spends nothing on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fedcore.errors import AxisError, ShapeError, user_line
from fedcore.tensor.dtypes import unify_dtypes
from fedcore.tensor.ops.arguments import lengths, operand, operands, real, spreads
from fedcore.tensor.ops.axes import negative_axes, negative_axis
from fedcore.tensor.ops.broadcasting import unbroadcast
from fedcore.tensor.primitive import Core, Shape, bind, primitive
from fedcore.tensor.registry import operations
from fedcore.tensor.tensor import Axis, Tensor

__all__ = [
    "broadcast_to",
    "concatenate",
    "expand_dims",
    "flip",
    "keep_axes",
    "narrow",
    "pad",
    "permute_dims",
    "reshape",
    "reshape_primitive",
    "squeeze",
    "stack",
    "swapaxes",
]


def _is_permutation(axes: Sequence[int], rank: int) -> bool:
    return sorted(axes) == list(range(-rank, 0))


# ---- views


@primitive(
    batch=Core(0),
    shape=lambda before, *, shape, rank: shape,
    view=True,
    onnx="Reshape",
    factored=False,
    public=False,
    name="reshape",
    vjps=(lambda g, y, x, *, shape, rank: reshape_primitive(g, shape=x.shape, rank=len(shape)),),
)
def reshape_primitive(xp: Any, x: Any, *, shape: Shape, rank: int, out: Any = None) -> Any:
    """The last `rank` axes in another shape; a view where the strides allow it, else a copy."""
    lanes = x.shape[: x.ndim - rank]
    if out is None:
        return x.reshape(lanes + shape)
    xp.copyto(out.reshape(x.shape), x)
    return out


@primitive(
    batch=Core(0),
    shape=lambda shape, *, axes: tuple(shape[a] for a in axes),
    view=True,
    onnx="Transpose",
    public=False,
    name="permute_dims",
    vjps=(lambda g, y, x, *, axes: permute_primitive(g, axes=_inverse(axes)),),
)
def permute_primitive(xp: Any, x: Any, *, axes: tuple[int, ...], out: Any = None) -> Any:
    """The core axes in the order `axes` (negative, all of them)."""
    lanes = x.ndim - len(axes)
    return x.transpose(*range(lanes), *[a + x.ndim for a in axes])


def _inverse(axes: tuple[int, ...]) -> tuple[int, ...]:
    rank = len(axes)
    inverse = [0] * rank
    for i, a in enumerate(axes):
        inverse[a + rank] = i - rank
    return tuple(inverse)


@primitive(
    batch=Core(0),
    shape=lambda before, *, shape: shape,
    view=True,
    onnx="Expand",
    public=False,
    name="expand",
    vjps=(lambda g, y, x, *, shape: unbroadcast(g, x),),
)
def expand_primitive(xp: Any, x: Any, *, shape: Shape, out: Any = None) -> Any:
    """`x` spread to the core `shape` of equal rank, without a copy."""
    return xp.broadcast_to(x, x.shape[: x.ndim - len(shape)] + shape)


@primitive(
    batch=Core(0),
    shape=lambda shape, *, axes: shape,
    view=True,
    public=False,
    name="flip",
    vjps=(lambda g, y, x, *, axes: flip_primitive(g, axes=axes),),
)
def flip_primitive(xp: Any, x: Any, *, axes: tuple[int, ...], out: Any = None) -> Any:
    """The order of the elements along `axes` reversed."""
    return xp.flip(x, axes)


# ---- copies


def _concatenated(*shapes: Shape, axis: int) -> Shape:
    first = list(shapes[0])
    for other in shapes[1:]:
        if len(other) != len(first) or any(
            a != b
            for i, (a, b) in enumerate(zip(first, other, strict=True))
            if i - len(first) != axis
        ):
            raise ShapeError(
                "concatenate: shapes differ off the joined axis: "
                + ", ".join(str(s) for s in shapes),
                where=user_line(),
                why=f"all lengths but that of axis {axis} must be equal",
                fix="reshape or transpose the operands first",
            )
    first[axis] = sum(s[axis] for s in shapes)
    return tuple(first)


def _concatenate_vjp(
    g: Tensor, y: Tensor, *xs: Tensor, axis: int, needed: tuple[bool, ...]
) -> list[Tensor | None]:
    parts: list[Tensor | None] = []
    start = 0
    for x, wanted in zip(xs, needed, strict=True):
        stop = start + x.shape[axis]
        parts.append(narrow(g, axis=axis, start=start, stop=stop) if wanted else None)
        start = stop
    return parts


@primitive(
    batch=Core(1),
    shape=_concatenated,
    joint_vjp=_concatenate_vjp,
    onnx="Concat",
    public=False,
    name="concatenate",
)
def concatenate_primitive(xp: Any, *xs: Any, axis: int, out: Any = None) -> Any:
    """The operands joined along `axis`; their lanes are spread to a common size first."""
    before = xs[0].ndim + axis  # lanes, and core axes that are equal
    common = np.broadcast_shapes(*[x.shape[:before] for x in xs])
    xs = tuple(
        x if x.shape[:before] == common else xp.broadcast_to(x, common + x.shape[before:])
        for x in xs
    )
    return xp.concatenate(xs, axis=axis, out=out)


@concatenate_primitive.prepared("numpy")
def _prepare_concatenate(xp: Any, *xs: Any, axis: int, out: Any) -> Callable[[], None] | None:
    """The same where nothing has to be spread: 0.7 µs against 3.9 for three losses."""
    before = xs[0].ndim + axis
    if any(x.shape[:before] != xs[0].shape[:before] for x in xs):
        return None

    def run() -> None:
        np.concatenate(xs, axis=axis, out=out)

    return run


@primitive(
    batch=Core(1),
    shape=lambda shape, *, axis, start, stop: tuple(
        stop - start if i - len(shape) == axis else n for i, n in enumerate(shape)
    ),
    view=True,
    onnx="Slice",
    vjps=(
        lambda g, y, x, *, axis, start, stop: pad_primitive(
            g,
            widths=tuple(
                (start, x.shape[axis] - stop) if i - x.ndim == axis else (0, 0)
                for i in range(x.ndim)
            ),
            value=0.0,
        ),
    ),
)
def narrow(xp: Any, x: Any, *, axis: int, start: int, stop: int, out: Any = None) -> Any:
    """The elements from `start` to `stop` along the negative `axis`."""
    return x[(..., slice(start, stop), *[slice(None)] * (-1 - axis))]


@primitive(
    batch=Core(1),
    shape=lambda shape, *, widths, value: tuple(
        n + a + b for n, (a, b) in zip(shape, widths, strict=True)
    ),
    onnx="Pad",
    public=False,
    name="pad",
    vjps=(lambda g, y, x, *, widths, value: _unpad(g, x, widths),),
)
def pad_primitive(
    xp: Any, x: Any, *, widths: tuple[tuple[int, int], ...], value: float, out: Any = None
) -> Any:
    """`x` with `widths[i]` elements of `value` before and after along core axis i."""
    lanes = x.ndim - len(widths)
    shape = x.shape[:lanes] + tuple(
        n + a + b for n, (a, b) in zip(x.shape[lanes:], widths, strict=True)
    )
    inside = (..., *[slice(a, a + n) for n, (a, _) in zip(x.shape[lanes:], widths, strict=True)])
    if out is None:
        out = xp.full(shape, value, dtype=x.dtype)
    else:
        out.fill(value)
    out[inside] = x
    return out


def _unpad(g: Tensor, x: Tensor, widths: tuple[tuple[int, int], ...]) -> Tensor:
    for i, (before, after) in enumerate(widths):
        if before or after:
            g = narrow(g, axis=i - len(widths), start=before, stop=before + x.shape[i])
    return g


# ---- what users call


def reshape(x: Any, shape: int | Sequence[int]) -> Tensor:
    """The same elements in another `shape`; one length may be -1.

    Raises: ShapeError if the numbers of elements differ.
    """
    x = operand("reshape", x)
    wanted = lengths("reshape", shape, least=-1)
    known = math.prod(n for n in wanted if n != -1)
    if wanted.count(-1) == 1 and known and x.size % known == 0:
        wanted = tuple(x.size // known if n == -1 else n for n in wanted)
    if math.prod(wanted) != x.size or any(n < 0 for n in wanted):
        raise ShapeError(
            f"reshape: {x.shape} has {x.size} elements, {wanted} does not",
            where=user_line(),
            why="reshaping keeps every element",
            fix="choose lengths whose product is the same; one of them may be -1",
        )
    return x if wanted == x.shape else reshape_primitive(x, shape=wanted, rank=x.ndim)


def permute_dims(x: Any, axes: Sequence[int] | None = None) -> Tensor:
    """The axes in the order `axes`, or reversed."""
    x = operand("permute_dims", x)
    given = tuple(range(x.ndim - 1, -1, -1)) if axes is None else axes
    given = given if isinstance(given, tuple | list | range) else (given,)
    order = tuple(negative_axis("permute_dims", a, x.ndim) for a in given)
    if not _is_permutation(order, x.ndim):
        raise AxisError(
            f"permute_dims: {axes} is no permutation of the {x.ndim} axes of {x.shape}",
            where=user_line(),
            why="each axis must be named once",
            fix="name every axis once",
        )
    return permute_primitive(x, axes=order) if x.ndim > 1 else x


def swapaxes(x: Any, first: int, second: int) -> Tensor:
    """Two axes exchanged."""
    x = operand("swapaxes", x)
    order = list(range(-x.ndim, 0))
    i, j = (negative_axis("swapaxes", a, x.ndim) for a in (first, second))
    order[i], order[j] = order[j], order[i]
    return permute_primitive(x, axes=tuple(order))


def broadcast_to(x: Any, shape: Sequence[int]) -> Tensor:
    """`x` spread to `shape` by NumPy's rules, without a copy."""
    x, wanted = operand("broadcast_to", x), lengths("broadcast_to", shape)
    if not spreads(x.shape, wanted):
        raise ShapeError(
            f"broadcast_to: {x.shape} does not spread to {wanted}",
            where=user_line(),
            why="counted from the end, each length must be 1 or equal",
            fix="reshape the operand first",
        )
    if len(wanted) > x.ndim:
        x = operations.align_rank(x, rank=len(wanted), core=x.ndim)
    return x if x.shape == wanted else expand_primitive(x, shape=wanted)


def keep_axes(x: Tensor, *, axis: tuple[int, ...], rank: int) -> Tensor:
    """`x` with axes of length 1 put back where a reduction to `rank` axes removed them."""
    if not axis:
        return x
    kept = iter(x.shape)
    gone = {a + rank for a in axis}
    shape = tuple(1 if i in gone else next(kept) for i in range(rank))
    return reshape_primitive(x, shape=shape, rank=x.ndim)


def expand_dims(x: Any, axis: int) -> Tensor:
    """`x` with an axis of length 1 inserted at `axis`."""
    x = operand("expand_dims", x)
    at = negative_axis("expand_dims", axis, x.ndim + 1)
    return keep_axes(x, axis=(at,), rank=x.ndim + 1)


def squeeze(x: Any, axis: Axis = None) -> Tensor:
    """Axes of length 1 removed: those named, or all."""
    x = operand("squeeze", x)
    if axis is None:
        gone = {i for i, n in enumerate(x.shape) if n == 1}
    else:
        gone = {a + x.ndim for a in negative_axes("squeeze", axis, x.ndim)}
        if any(x.shape[i] != 1 for i in gone):
            raise ShapeError(
                f"squeeze: axis {axis} of {x.shape} is longer than 1",
                where=user_line(),
                why="only an axis of length 1 holds nothing",
                fix="use reshape, or another axis",
            )
    return reshape(x, tuple(n for i, n in enumerate(x.shape) if i not in gone))


def flip(x: Any, axis: Axis = None) -> Tensor:
    """The order of the elements along `axis`, or along all axes, reversed."""
    x = operand("flip", x)
    return flip_primitive(x, axes=negative_axes("flip", axis, x.ndim))


def concatenate(xs: Sequence[Any], axis: int = 0) -> Tensor:
    """Tensors joined along an axis they have."""
    return _joined(operands("concatenate", xs), axis)


def _joined(parts: list[Tensor], axis: int) -> Tensor:
    parts = unify_dtypes("concatenate", parts)
    at = negative_axis("concatenate", axis, parts[0].ndim)
    _concatenated(*[x.shape for x in parts], axis=at)
    return bind(concatenate_primitive, tuple(parts), {"axis": at})


def stack(xs: Sequence[Any], axis: int = 0) -> Tensor:
    """Tensors of equal shape joined along a new axis."""
    parts = operands("stack", xs)
    if any(x.shape != parts[0].shape for x in parts):
        raise ShapeError(
            "stack: shapes differ: " + ", ".join(str(x.shape) for x in parts),
            where=user_line(),
            why="the parts of the new axis have one shape",
            fix="reshape them, or use concatenate",
        )
    at = negative_axis("stack", axis, parts[0].ndim + 1)
    return _joined([expand_dims(x, at) for x in parts], at)


def pad(x: Any, widths: int | Sequence[tuple[int, int]], *, value: float = 0.0) -> Tensor:
    """`x` with elements of `value` added: as many on all sides, or (before, after) an axis."""
    x, value = operand("pad", x), real("pad", "value", value)
    given = widths if isinstance(widths, list | tuple) else [(widths, widths)] * x.ndim
    pairs = tuple(lengths("pad", pair, option="widths") for pair in given)
    if len(pairs) != x.ndim or any(len(pair) != 2 for pair in pairs):
        raise ShapeError(
            f"pad: widths {widths} do not fit shape {x.shape}",
            where=user_line(),
            why="each axis needs two widths that are not negative",
            fix="pass one (before, after) pair an axis",
        )
    return pad_primitive(x, widths=pairs, value=value)


_public: tuple[Callable[..., Tensor], ...] = (
    reshape,
    permute_dims,
    swapaxes,
    broadcast_to,
    expand_dims,
    squeeze,
    flip,
    concatenate,
    stack,
    pad,
)
for _operation in _public:
    operations.register(_operation.__name__, _operation)
