"""A model as one flat vector: parameters are views, a gradient is assembled into one buffer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedcore.errors import ShapeError
from fedcore.tensor.cotangent import Pieces
from fedcore.tensor.primitive import Core, Shape, bind, primitive
from fedcore.tensor.registry import operations
from fedcore.tensor.tensor import Tensor

__all__ = ["assemble", "leaf"]


def _leaf_shape(vector: Shape, *, offset: int, shape: Shape) -> Shape:
    if offset + math.prod(shape) > vector[0]:
        raise ShapeError(
            f"leaf: a vector of {vector[0]} has no {shape} at {offset}",
            why="the model has more parameters than the vector",
            fix="use the vector that ravel made for this model",
        )
    return shape


@primitive(
    batch=Core(1),
    shape=_leaf_shape,
    view=True,
    factored=True,
    vjps=(lambda g, y, x, *, offset, shape: Pieces({(offset, shape): g}, size=x.shape[0]),),
)
def leaf(xp: Any, x: Any, *, offset: int, shape: Shape, out: Any = None) -> Any:
    """The parameter of `shape` that starts at `offset` of the flat vector: a view."""
    return x[..., offset : offset + math.prod(shape)].reshape((*x.shape[:-1], *shape))


def _assemble_vjp(
    g: Tensor,
    y: Tensor,
    *parts: Tensor,
    needed: tuple[bool, ...],
    offsets: tuple[int, ...],
    ranks: tuple[int, ...],
    size: int,
) -> list[Tensor | None]:
    return [
        leaf(g, offset=offset, shape=part.shape) if wanted else None
        for part, offset, wanted in zip(parts, offsets, needed, strict=True)
    ]


@primitive(
    batch=Core(0),
    shape=lambda *shapes, offsets, ranks, size: (size,),
    joint_vjp=_assemble_vjp,
    public=False,
    name="assemble",
)
def assemble_primitive(
    xp: Any,
    *parts: Any,
    offsets: tuple[int, ...],
    ranks: tuple[int, ...],
    size: int,
    out: Any = None,
) -> Any:
    """The parts written at their offsets into one vector; what they leave is zero."""
    lanes = np.broadcast_shapes(
        *[p.shape[: p.ndim - rank] for p, rank in zip(parts, ranks, strict=True)]
    )
    if out is None:
        out = xp.empty((*lanes, size), dtype=parts[0].dtype)
    position = 0
    for part, offset, rank in zip(parts, offsets, ranks, strict=True):
        if offset > position:
            out[..., position:offset] = 0
        shape = part.shape[part.ndim - rank :]
        position = offset + math.prod(shape)
        xp.copyto(out[..., offset:position].reshape((*lanes, *shape)), part)
    if position < size:
        out[..., position:] = 0
    return out


def assemble(parts: Sequence[Tensor], *, offsets: tuple[int, ...], size: int) -> Tensor:
    """One vector of `size` with the parts at their offsets, ascending and without overlap."""
    ranks = tuple(part.ndim for part in parts)
    return bind(
        assemble_primitive, tuple(parts), {"offsets": offsets, "ranks": ranks, "size": size}
    )


operations.register("assemble", assemble)
