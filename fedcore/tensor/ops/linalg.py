"""Matrix products: one strictly two-dimensional primitive, batched over what stands before."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fedcore.errors import ShapeError, user_line
from fedcore.tensor import blas
from fedcore.tensor.cotangent import Outer
from fedcore.tensor.dtypes import unify_dtypes
from fedcore.tensor.ops.arguments import operand
from fedcore.tensor.ops.broadcasting import unbroadcast
from fedcore.tensor.ops.shape import reshape, swapaxes
from fedcore.tensor.primitive import Core, Shape, broadcast_shape, primitive
from fedcore.tensor.registry import operations
from fedcore.tensor.scratch import empty
from fedcore.tensor.tensor import Tensor
from fedcore.tensor.transposing import bind_copy

__all__ = ["matmul", "matmul_primitive"]


def _matmul_shape(a: Shape, b: Shape) -> Shape:
    if a[-1] != b[-2]:
        raise ShapeError(
            f"matmul: inner sizes differ: left {a}, right {b}; expected right ({a[-1]}, m)",
            why="the last axis of the left operand meets the last but one of the right",
            fix="transpose an operand with .mT, or check which axis holds the features",
        )
    return (*broadcast_shape(a[:-2], b[:-2]), a[-2], b[-1])


def _matmul_cost(a: Shape, b: Shape) -> int:
    return 2 * math.prod(_matmul_shape(a, b)) * a[-1]


def _right_vjp(g: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Any:
    if b.ndim == 2:
        return Outer.of(a, g)
    return unbroadcast(matmul_primitive(swapaxes(a, -1, -2), g), b)


@primitive(
    batch=Core(2, 2),
    shape=_matmul_shape,
    cost=_matmul_cost,
    onnx="MatMul",
    public=False,
    name="matmul",
    vjps=(
        lambda g, y, a, b: unbroadcast(matmul_primitive(g, swapaxes(b, -1, -2)), a),
        _right_vjp,
    ),
)
def matmul_primitive(xp: Any, a: Any, b: Any, *, out: Any = None) -> Any:
    """The product of the last two axes, stacked over the leading ones.

    Stacked products keep each lane's bits whatever the number of lanes. Single rows that meet one
    shared right operand, as per-example gradients have them, are multiplied in blocks of rows: one
    by one they would read the right operand as often. A row's bits do not depend on the block.
    """
    if a.shape[-1] == 1 and b.shape[-2] == 1:
        return xp.multiply(a, b, out=out)  # inner size 1: 12.8 ms against 24.7 by matmul
    if not _share(a, b):
        return _product(xp, a, b, out)
    rows, right = _rows_and_right(a, b)
    if out is None:
        lead = np.broadcast_shapes(rows.shape[:-2], right.shape[:-2])
        out = xp.empty((*lead, rows.shape[-2], 1, right.shape[-1]), dtype=a.dtype)
    together = blas.rows_together()
    whole = rows.shape[-2] - rows.shape[-2] % together
    result = out[..., 0, :]
    if whole:
        product = _product(
            xp, _blocks(rows[..., :whole, :], together), right[..., None, :, :], None
        )
        result[..., :whole, :] = product.reshape(*product.shape[:-3], whole, -1)
    if whole < rows.shape[-2]:
        padded = _padded(xp, rows[..., whole:, :], together)
        padded[..., : rows.shape[-2] - whole, :] = rows[..., whole:, :]
        result[..., whole:, :] = _product(xp, padded, right, None)[..., : rows.shape[-2] - whole, :]
    return out


def _share(a: Any, b: Any) -> bool:
    """Whether the last leading axis of `a` holds single rows and all meet one right operand."""
    single = a.ndim > 2 and a.shape[-2] == 1 and a.shape[-3] > 1
    shared = b.ndim == 2 or b.shape[-3] == 1
    return bool(single and shared and b.shape[-2] > 0 and b.shape[-1] > 1)


def _rows_and_right(a: Any, b: Any) -> tuple[Any, Any]:
    """Single rows (..., P, 1, k) as (..., P, k), and the operand without the axis they share."""
    return a[..., 0, :], b if b.ndim == 2 else b[..., 0, :, :]


def _blocks(rows: Any, together: int) -> Any:
    return rows.reshape(*rows.shape[:-2], -1, together, rows.shape[-1])


def _padded(xp: Any, rows: Any, together: int) -> Any:
    """Zeros for the last block, in which `rows` come first."""
    return xp.zeros((*rows.shape[:-2], together, rows.shape[-1]), dtype=rows.dtype)


def _product(xp: Any, a: Any, b: Any, out: Any) -> Any:
    if xp is np and _turns(a, b):
        b = np.ascontiguousarray(b)
    if xp is not np or not _pays(a, b):
        return xp.matmul(a, b, out=out)
    if out is None:
        lanes = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        out = np.empty((*lanes, a.shape[-2], b.shape[-1]), dtype=a.dtype)
    blas.gemm(blas.multipliable(a), blas.multipliable(b), out)
    return out


def _pays(a: Any, b: Any) -> bool:
    """Whether our own GEMM is used: below this size its checks cost more than its speed gives."""
    size = a.shape[-2] * a.shape[-1] * b.shape[-1]
    return bool(size >= 250_000 and a.dtype.kind == "f" and a.shape[-2] > 1 and b.shape[-1] > 1)


def _turns(a: Any, b: Any) -> bool:
    """Whether a transposed right operand is copied first, as pays for short sums.

    20×62·(784×62)ᵀ takes 42 µs, the copy 6 and then the product 18.
    """
    transposed = b.strides[-1] != b.itemsize == b.strides[-2]
    size = a.shape[-2] * a.shape[-1] * b.shape[-1]
    return bool(transposed and b.dtype.kind == "f" and b.shape[-2] < 128 and size >= 100_000)


@matmul_primitive.prepared("numpy")
def _prepare(xp: Any, a: Any, b: Any, *, out: Any) -> Callable[[], None] | None:
    if a.shape[-1] == 1:
        return None
    if _share(a, b):
        return _prepare_rows(*_rows_and_right(a, b), out[..., 0, :])
    if not (_turns(a, b) or (_pays(a, b) and blas.is_multipliable(a) and blas.is_multipliable(b))):
        return None
    steps: list[Callable[[], Any]] = []
    _bind(a, b, out, steps)
    return steps[0] if len(steps) == 1 else partial(_run, steps)


def _prepare_rows(rows: Any, right: Any, out: Any) -> Callable[[], None] | None:
    """The products of blocks of rows, into `out` (..., P, m) where it lies row by row."""
    count, together = rows.shape[-2], blas.rows_together()
    whole = count - count % together
    dense = rows.flags.c_contiguous and out.flags.c_contiguous
    if not (dense and rows.dtype.kind == "f" and blas.is_multipliable(right)):
        return None
    steps: list[Callable[[], Any]] = []
    if whole:
        a, to = (_blocks(x[..., :whole, :], together) for x in (rows, out))
        if not np.may_share_memory(to, out) or not np.may_share_memory(a, rows):
            return None
        _bind(a, right[..., None, :, :], to, steps)
    if whole < count:
        padded = _padded(np, rows, together)
        last = empty(np, (*out.shape[:-2], together, out.shape[-1]), out.dtype)
        steps.append(partial(np.copyto, padded[..., : count - whole, :], rows[..., whole:, :]))
        _bind(padded, right, last, steps)
        steps.append(partial(np.copyto, out[..., whole:, :], last[..., : count - whole, :]))
    return partial(_run, steps)


def _bind(a: Any, b: Any, out: Any, steps: list[Callable[[], Any]]) -> None:
    """Append what `_product` does to `steps`."""
    if _turns(a, b):
        turned = empty(np, b.shape, b.dtype)
        steps.append(bind_copy(b, turned))
        b = turned
    if _pays(a, b) and blas.is_multipliable(a) and blas.is_multipliable(b):
        steps.append(blas.bind_gemm(a, b, out))
    else:
        steps.append(partial(np.matmul, a, b, out=out))


def _run(steps: list[Callable[[], Any]]) -> None:
    for step in steps:
        step()


def matmul(a: Any, b: Any) -> Tensor:
    """The matrix product by NumPy's rules: (..., n, k) @ (..., k, m) -> (..., n, m), or 1-D.

    Raises: ShapeError if the inner sizes differ or an operand is 0-d.

    >>> matmul([[1.0, 2.0]], [[3.0], [4.0]]).tolist()
    [[11.0]]
    """
    a, b = operand("matmul", a), operand("matmul", b)
    if a.ndim == 0 or b.ndim == 0:
        raise ShapeError(
            f"matmul: needs axes to multiply over, got shapes {a.shape} and {b.shape}",
            where=user_line(),
            why="a 0-d tensor is a number",
            fix="use * to scale",
        )
    if a.dtype != b.dtype:
        a, b = unify_dtypes("matmul", [a, b])
    if a.shape[-1] != b.shape[max(-2, -b.ndim)]:
        _raise_inner(a, b)
    row, column = a.ndim == 1, b.ndim == 1
    if row:
        a = reshape(a, (1, a.shape[0]))
    if column:
        b = reshape(b, (b.shape[0], 1))
    if b.ndim == 2 and a.ndim > 2:  # one product of all rows; its weight gradient stays factored
        lead = a.shape[:-1]
        y = matmul_primitive(reshape(a, (math.prod(lead), a.shape[-1])), b)
        y = reshape(y, (*lead, b.shape[-1]))
    else:
        rank = max(a.ndim, b.ndim)
        a, b = (
            x if x.ndim == rank else operations.align_rank(x, rank=rank, core=x.ndim)
            for x in (a, b)
        )
        y = matmul_primitive(a, b)
    if row:
        y = reshape(y, (*y.shape[:-2], y.shape[-1]))
    return reshape(y, y.shape[:-1]) if column else y


def _raise_inner(a: Tensor, b: Tensor) -> None:
    try:
        _matmul_shape(
            a.shape if a.ndim > 1 else (1, *a.shape), b.shape if b.ndim > 1 else (*b.shape, 1)
        )
    except ShapeError as error:
        error.what = f"matmul: inner sizes differ: left {a.shape}, right {b.shape}"
        error.where = user_line()
        raise


operations.register("matmul", matmul)
