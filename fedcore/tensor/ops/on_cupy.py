"""Primitives that CuPy computes otherwise than NumPy: by our own kernels, or without what it lacks.

Everything else runs the kernel of NumPy on CuPy's module. What the host would have to wait for is
not checked: an index out of range is wrapped or left out, a label that is no class gives NaN.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fedcore.tensor.cuda import rows, special
from fedcore.tensor.cuda.windows import Windows, fold, gather_maxima, route_to_maxima, unfold
from fedcore.tensor.ops.activations import erf, relu
from fedcore.tensor.ops.gather import put, row_positions, scatter_sum, wrap_index
from fedcore.tensor.ops.linalg import matmul_primitive
from fedcore.tensor.ops.patches import add_patches, patches_of
from fedcore.tensor.ops.pool_primitives import (
    bias_relu_pool_primitive,
    max_pool,
    max_pool_gather,
    max_pool_gradient,
)
from fedcore.tensor.ops.reduce import Axes, cumsum_primitive, min_primitive
from fedcore.tensor.ops.rows import row_norms2, scale_rows
from fedcore.tensor.ops.softmax import (
    softmax_cross_entropy,
    softmax_cross_entropy_pullback,
    softmax_pullback,
)
from fedcore.tensor.ops.windows import Pair, slid

__all__: list[str] = []


def _given(xp: Any, y: Any, out: Any) -> Any:
    """`y`, in `out` if that is given."""
    if out is None:
        return y
    xp.copyto(out, y)
    return out


# ---- what CuPy writes into `out` otherwise than NumPy


@min_primitive.on("cupy")
def _min(xp: Any, x: Any, *, axis: Axes, keepdims: bool, out: Any = None) -> Any:
    """CuPy 14.2 takes a given result of `min` for its dtype, and fails."""
    return _given(xp, xp.min(x, axis=axis, keepdims=keepdims), out)


@cumsum_primitive.on("cupy")
def _cumsum(xp: Any, x: Any, *, axis: int, out: Any = None) -> Any:
    """CuPy's own fills `out`, but returns another array."""
    return _given(xp, xp.cumsum(x, axis=axis), out)


@matmul_primitive.on("cupy")
def _matmul(xp: Any, a: Any, b: Any, *, out: Any = None) -> Any:
    """CuPy spreads no product over the lanes that only `out` has."""
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    if out is not None and out.shape[:-2] != lead:
        return _given(xp, matmul_primitive.kernel(xp, a, b), out)
    return matmul_primitive.kernel(xp, a, b, out=out)


# ---- windows of images


def _windows(size: Any, window: Pair, stride: Pair, dilation: Pair = (1, 1)) -> Windows:
    down, across = (
        slid(n, k, stride=s, dilation=d)
        for n, k, s, d in zip(size, window, stride, dilation, strict=True)
    )
    return Windows((size[0], size[1]), (down, across), window, stride, dilation=dilation)


@patches_of.on("cupy")
def _patches(
    xp: Any, x: Any, *, window: Pair, stride: Pair, dilation: Pair, out: Any = None
) -> Any:
    y = unfold(xp, x, _windows(x.shape[-3:-1], window, stride, dilation))
    return _given(xp, y.reshape(*y.shape[:-3], math.prod(y.shape[-3:])), out)


@add_patches.on("cupy")
def _add_patches(
    xp: Any, x: Any, *, size: Pair, window: Pair, stride: Pair, dilation: Pair, out: Any = None
) -> Any:
    parts = x.reshape(*x.shape[:-1], *window, x.shape[-1] // math.prod(window))
    return _given(xp, fold(xp, parts, _windows(size, window, stride, dilation)), out)


@max_pool.on("cupy")
def _max_pool(xp: Any, x: Any, *, window: Pair, stride: Pair, out: Any = None) -> Any:
    return _given(xp, gather_maxima(xp, x, x, _windows(x.shape[-3:-1], window, stride)), out)


@max_pool_gather.on("cupy")
def _max_pool_gather(
    xp: Any, h: Any, x: Any, *, window: Pair, stride: Pair, out: Any = None
) -> Any:
    return _given(xp, gather_maxima(xp, h, x, _windows(x.shape[-3:-1], window, stride)), out)


@max_pool_gradient.on("cupy")
def _max_pool_gradient(
    xp: Any, g: Any, x: Any, *, window: Pair, stride: Pair, out: Any = None
) -> Any:
    return _given(xp, route_to_maxima(xp, g, x, _windows(x.shape[-3:-1], window, stride)), out)


@bias_relu_pool_primitive.on("cupy")
def _bias_relu_pool(xp: Any, z: Any, b: Any, *, window: Pair, stride: Pair, out: Any = None) -> Any:
    top = gather_maxima(xp, z, z, _windows(z.shape[-3:-1], window, stride))
    out = xp.add(top, b[..., None, None, None, :], out=out)
    return xp.maximum(out, 0, out=out)


# ---- rows at places that may repeat


@wrap_index.on("cupy")
def _wrap_index(xp: Any, index: Any, *, length: int, axis: int, out: Any = None) -> Any:
    return xp.remainder(index, max(length, 1), out=out)


@scatter_sum.on("cupy")
def _scatter_sum(
    xp: Any, g: Any, index: Any, *, axis: int, rank: int, length: int, out: Any = None
) -> Any:
    after, lanes = -1 - axis, index.ndim - rank
    before = g.ndim - rank - after
    tail = g.shape[g.ndim - after :]
    joined = index.shape[:lanes] + (1,) * (before - lanes)
    own = np.broadcast_shapes(g.shape[:before], joined)
    places = own + g.shape[before : before + rank]
    positions = xp.broadcast_to(row_positions(xp, index, lanes, own, length), places)
    values = xp.broadcast_to(g, places + tail)
    total = xp.zeros((*own, length, *tail), dtype=g.dtype)
    count, width = math.prod(places), math.prod(tail)
    rows.add_rows(
        xp,
        positions.reshape(count),
        values.reshape(count, width),
        total.reshape(math.prod(own) * length, width),
    )
    return _given(xp, total, out)


@put.on("cupy")
def _put(xp: Any, x: Any, index: Any, v: Any, *, unique: bool, out: Any = None) -> Any:
    lanes = np.broadcast_shapes(x.shape[:-1], index.shape[:-1], v.shape[:-1])
    length, count = x.shape[-1], index.shape[-1]
    written = xp.empty((*lanes, length), dtype=x.dtype)
    xp.copyto(written, x)
    places = (*lanes, count)
    positions = row_positions(xp, index, index.ndim - 1, lanes, length)
    rows.put_rows(
        xp,
        xp.broadcast_to(positions, places).reshape(math.prod(places)),
        xp.broadcast_to(v, places).reshape(math.prod(places), 1),
        written.reshape(math.prod(lanes) * length, 1),
    )
    return _given(xp, written, out)


# ---- elements and rows


@relu.on("cupy")
def _relu(xp: Any, x: Any, *, out: Any = None) -> Any:
    return xp.maximum(x, 0, out=out)


@erf.on("cupy")
def _erf(xp: Any, x: Any, *, out: Any = None) -> Any:
    return _given(xp, special.erf(xp, x), out)


@row_norms2.on("cupy")
def _row_norms2(xp: Any, x: Any, *, out: Any = None) -> Any:
    return xp.sum(xp.square(x.astype(np.float64)), axis=-1, out=out)


@scale_rows.on("cupy")
def _scale_rows(xp: Any, x: Any, c: Any, *, out: Any = None) -> Any:
    factors = c[..., None]
    scaled = xp.where(factors == 0, 0, xp.multiply(x, factors)).astype(x.dtype)
    return _given(xp, scaled, out)


@softmax_pullback.on("cupy")
def _softmax_pullback(xp: Any, y: Any, g: Any, *, out: Any = None) -> Any:
    mean = xp.sum(xp.multiply(y, g), axis=-1, keepdims=True)
    out = xp.subtract(g, mean, out=out)
    return xp.multiply(out, y, out=out)


@softmax_cross_entropy.on("cupy")
def _cross_entropy(xp: Any, x: Any, labels: Any, *, smoothing: float, out: Any = None) -> Any:
    losses = softmax_cross_entropy.kernel(xp, x, labels, smoothing=smoothing, out=out)
    xp.copyto(losses, math.nan, where=_is_no_class(xp, labels, x.shape[-1]))
    return losses


@softmax_cross_entropy_pullback.on("cupy")
def _cross_entropy_pullback(
    xp: Any, g: Any, x: Any, labels: Any, *, smoothing: float, out: Any = None
) -> Any:
    slopes = softmax_cross_entropy_pullback.kernel(xp, g, x, labels, smoothing=smoothing, out=out)
    xp.copyto(slopes, math.nan, where=_is_no_class(xp, labels, x.shape[-1])[..., None])
    return slopes


def _is_no_class(xp: Any, labels: Any, classes: int) -> Any:
    return xp.logical_or(labels < 0, labels >= classes)
