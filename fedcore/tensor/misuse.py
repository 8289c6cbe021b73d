"""The readable errors of a call that cannot work: what was given, why it fails, the remedy."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from fedcore.errors import (
    ArgumentError,
    CapacityError,
    DeviceError,
    DtypeError,
    FedcoreError,
    ShapeError,
    user_line,
)
from fedcore.tensor.tensor import Tensor, interpreter

if TYPE_CHECKING:
    from fedcore.tensor.primitive import Primitive

__all__ = ["check_ranks", "explained", "misused", "mixed_devices"]


def misused(prim: Primitive, found: str) -> ArgumentError:
    """The error for a call that does not follow the signature of `prim`."""
    return ArgumentError(
        f"{prim.name}: {found}",
        where=user_line(),
        why=f"its signature is {prim.name}{inspect.signature(prim)}",
        fix="pass operands by position and options by name, as the signature shows",
    )


def check_ranks(name: str, ranks: tuple[int, ...], xs: list[Tensor]) -> None:
    """Raise a ShapeError unless each operand has the axes that its rank asks for."""
    for position, (x, rank) in enumerate(zip(xs, ranks, strict=False)):
        if x.data.ndim - x.lanes < rank:
            shapes = ", ".join(str(x.shape) for x in xs)
            raise ShapeError(
                f"{name}: argument {position} has {x.ndim} axes, at least {rank} are needed; "
                f"shapes {shapes}",
                where=user_line(),
                why="the operation works on its last axes",
                fix="insert axes with reshape or expand_dims",
            )


def mixed_devices(name: str, xs: list[Tensor]) -> DeviceError:
    """The error for operands of several array libraries."""
    names = ", ".join(type(x.data).__module__.split(".")[0] for x in xs)
    return DeviceError(
        f"{name}: operands lie on different devices ({names})",
        where=user_line(),
        why="nothing is moved between devices implicitly",
        fix="convert one operand with .numpy() or backend.asarray",
    )


def explained(
    prim: Primitive, xs: list[Tensor], params: dict[str, Any], error: Exception
) -> Exception:
    """The readable error: the shape rule's own if it objects, else the kernel's with the shapes."""
    where = user_line()
    if interpreter.lane_sizes:
        where += f"  (inside vmap: lanes {tuple(interpreter.lane_sizes)})"
    if isinstance(error, FedcoreError):
        error.where = error.where or where
        return error
    shapes = ", ".join(f"{x.shape} {x.dtype}" for x in xs)
    if isinstance(error, MemoryError):
        return CapacityError(
            f"{prim.name}: not enough memory for its result; operands {shapes}",
            where=where,
            why=str(error),
            fix="work on smaller pieces, or in float32; chunk= of vmap bounds the lanes at once",
        )
    try:
        inspect.signature(prim.kernel).bind(None, *xs, **params)
    except TypeError as misfit:
        return misused(prim, str(misfit))
    try:
        prim.shape(*[x.shape for x in xs], **params)
    except FedcoreError as rule:
        if not rule.what.startswith(f"{prim.name}:"):
            rule.what = f"{prim.name}: {rule.what}"
        rule.where = where
        return rule
    except (ValueError, IndexError, TypeError):
        pass
    kind = DtypeError if isinstance(error, TypeError) else ShapeError
    return kind(
        f"{prim.name}: the operands do not fit: {shapes}",
        where=where,
        why=str(error),
        fix="compare the shapes and dtypes with the operation's documentation",
    )
