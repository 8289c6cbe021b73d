"""Lanes: the primitives that add, remove and reinterpret a leading axis.

They are primitives like any other, taped and recorded, because an intermediate that was lifted
outside of `bind` would stay stale in a replay and lose its second derivative.
A cotangent is per lane; a lane axis of size 1 means "equal in every lane". Only `lift`'s derivative
sums over lanes.
"""

from __future__ import annotations

from typing import Any

from fedcore.tensor.primitive import Core, Shape, apply, lift_to, primitive
from fedcore.tensor.registry import operations
from fedcore.tensor.tensor import Tensor

__all__ = [
    "align_rank",
    "enter_lane",
    "fold_lane",
    "leave_lane",
    "lift",
    "sum_lanes",
]


def _replace_axes(axis: int, count: int, lengths: Shape, shape: Shape) -> Shape:
    return (*shape[:axis], *lengths, *shape[axis + count :])


def _lift_vjp(g: Any, y: Tensor, x: Tensor, *, axis: int, sizes: Shape) -> Any:
    if not isinstance(g, Tensor):
        return g.sum_lanes(axis=axis, sizes=sizes)
    return sum_lanes(g, axis=axis, sizes=sizes)


def _same_shape(shape: Shape, **_: Any) -> Shape:
    return shape


@primitive(
    batch=Core(0), shape=_same_shape, view=True, factored=True, vjps=(_lift_vjp,), public=False
)
def lift_primitive(xp: Any, x: Any, *, axis: int, sizes: Shape, out: Any = None) -> Any:
    """`x` with size-1 lane axes inserted at `axis`, each standing for so many equal lanes."""
    return x.reshape(_replace_axes(axis, 0, (1,) * len(sizes), x.shape))


@primitive(
    batch=Core(0),
    shape=_same_shape,
    vjps=(lambda g, y, x, *, axis, sizes: lift(g, axis=axis, sizes=sizes),),
    public=False,
)
def sum_lanes_primitive(xp: Any, x: Any, *, axis: int, sizes: Shape, out: Any = None) -> Any:
    """The lanes at `axis` summed; a lane axis of size 1 counts as many times as it stands for."""
    axes = tuple(range(axis, axis + len(sizes)))
    times = 1
    for a, size in zip(axes, sizes, strict=True):
        if x.shape[a] == 1:
            times *= size
    if all(x.shape[a] == 1 for a in axes):
        return xp.multiply(x.reshape(_replace_axes(axis, len(axes), (), x.shape)), times, out=out)
    total = xp.sum(x, axis=axes, out=out)
    return total if times == 1 else xp.multiply(total, times, out=out)


@primitive(
    batch=Core(1),
    shape=lambda shape, **_: shape[1:],
    view=True,
    vjps=(lambda g, y, x, *, axis: leave_lane(g, axis=axis, size=x.shape[0]),),
    public=False,
)
def enter_lane_primitive(xp: Any, x: Any, *, axis: int, out: Any = None) -> Any:
    """The first core axis read as lane `axis`."""
    return x.view()


@primitive(
    batch=Core(0),
    shape=lambda shape, *, axis, size: (size, *shape),
    view=True,
    vjps=(lambda g, y, x, *, axis, size: enter_lane(g, axis=axis),),
    public=False,
)
def leave_lane_primitive(xp: Any, x: Any, *, axis: int, size: int, out: Any = None) -> Any:
    """The last lane, `axis`, read as the first core axis; a size-1 lane is spread to `size`."""
    return xp.broadcast_to(x, _replace_axes(axis, 1, (size,), x.shape))


def _fold_vjp(g: Tensor, y: Tensor, x: Tensor, *, axis: int, size: int, rows: int) -> Tensor:
    return unfold_lane(g, axis=axis, size=size)


@primitive(
    batch=Core(1),
    shape=lambda shape, *, axis, size, rows: (size * shape[0], *shape[1:]),
    view=True,
    vjps=(_fold_vjp,),
    public=False,
)
def fold_lane_primitive(
    xp: Any, x: Any, *, axis: int, size: int, rows: int, out: Any = None
) -> Any:
    """The last lane, `axis`, folded into the first core axis: (.., P, R, k) -> (.., P·R, k)."""
    shape = _replace_axes(axis, 2, (size * rows,), x.shape)
    if x.shape[axis] == size and x.flags.c_contiguous and out is None:
        return x.reshape(shape)
    spread = xp.broadcast_to(x, _replace_axes(axis, 1, (size,), x.shape))
    if out is None:
        return spread.reshape(shape)
    xp.copyto(out.reshape(spread.shape), spread)
    return out


@primitive(
    batch=Core(1),
    shape=lambda shape, *, axis, size: (shape[0] // size, *shape[1:]),
    view=True,
    vjps=(lambda g, y, x, *, axis, size: fold_lane(g, axis=axis, size=size),),
    public=False,
)
def unfold_lane_primitive(xp: Any, x: Any, *, axis: int, size: int, out: Any = None) -> Any:
    """The inverse of folding: (.., P·R, k) with lanes below `axis` -> (.., P, R, k)."""
    return x.reshape(_replace_axes(axis, 1, (size, x.shape[axis] // size), x.shape))


@primitive(
    batch=Core(0),
    shape=lambda shape, *, rank, core: (1,) * (rank - core) + shape,
    view=True,
    vjps=(lambda g, y, x, *, rank, core: _drop_leading(g, rank - core),),
)
def align_rank(xp: Any, x: Any, *, rank: int, core: int, out: Any = None) -> Any:
    """`x` with axes of length 1 inserted before its `core` axes, so that it has `rank` of them."""
    at = x.ndim - core
    return x.reshape(_replace_axes(at, 0, (1,) * (rank - core), x.shape))


@primitive(
    batch=Core(0),
    shape=lambda shape, *, count, core: shape[count:],
    view=True,
    vjps=(lambda g, y, x, *, count, core: align_rank(g, rank=core, core=core - count),),
)
def drop_leading(xp: Any, x: Any, *, count: int, core: int, out: Any = None) -> Any:
    """`x` without its first `count` core axes, which have length 1."""
    at = x.ndim - core
    return x.reshape(_replace_axes(at, count, (), x.shape))


def _drop_leading(g: Tensor, count: int) -> Tensor:
    return drop_leading(g, count=count, core=g.ndim)


# ---- the functions that set the lane count of the result


def lift(x: Tensor, *, axis: int, sizes: Shape) -> Tensor:
    """`x` with size-1 lanes inserted at `axis`; the derivative sums over them."""
    return apply(lift_primitive, [x], {"axis": axis, "sizes": sizes}, x.lanes + len(sizes))


def sum_lanes(x: Tensor, *, axis: int, sizes: Shape) -> Tensor:
    """The lanes from `axis` on summed, one for each of `sizes`."""
    x = lift_to(x, axis + len(sizes))
    return apply(sum_lanes_primitive, [x], {"axis": axis, "sizes": sizes}, x.lanes - len(sizes))


def enter_lane(x: Tensor, *, axis: int) -> Tensor:
    """The first axis of `x` becomes lane `axis`."""
    return apply(enter_lane_primitive, [lift_to(x, axis)], {"axis": axis}, axis + 1)


def leave_lane(x: Tensor, *, axis: int, size: int) -> Tensor:
    """Lane `axis`, the last, becomes the first axis, of length `size`."""
    return apply(leave_lane_primitive, [lift_to(x, axis + 1)], {"axis": axis, "size": size}, axis)


def fold_lane(x: Tensor, *, axis: int, size: int) -> Tensor:
    """Lane `axis`, the last, is folded into the first axis: per-lane rows become rows."""
    x = lift_to(x, axis + 1)
    return apply(fold_lane_primitive, [x], {"axis": axis, "size": size, "rows": x.shape[0]}, axis)


def unfold_lane(x: Tensor, *, axis: int, size: int) -> Tensor:
    """The first axis is split into lane `axis` of `size` and the remaining rows."""
    params = {"axis": axis, "size": size}
    return apply(unfold_lane_primitive, [lift_to(x, axis)], params, axis + 1)


for _operation in (lift, sum_lanes, fold_lane):
    operations.register(_operation.__name__, _operation)
