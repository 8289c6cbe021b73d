"""The gated recurrent unit as one primitive: all steps in one kernel, forward and backward."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedcore.errors import ShapeError, user_line
from fedcore.tensor.ops.arguments import operand
from fedcore.tensor.ops.linalg import matmul
from fedcore.tensor.ops.recurrent import (
    backward_is_taped,
    check_scan,
    initial,
    joined,
    part,
    product,
    recurrent_weight,
    scan_cost,
    step,
)
from fedcore.tensor.ops.reduce import sum as sum_
from fedcore.tensor.ops.shape import concatenate, swapaxes
from fedcore.tensor.primitive import Core, Shape, primitive
from fedcore.tensor.registry import operations
from fedcore.tensor.tensor import Tensor

__all__ = ["gru"]

# The trace (T, B, 5H) holds h, the gates r, z, n after their activations, and m: the hidden
# projection that r scales inside n.


def _gru_vjp(
    g: Tensor,
    y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    h0: Tensor,
    *,
    needed: tuple[bool, ...],
) -> list[Any]:
    size = weight.shape[0]
    pulled = _pullback(g, y, weight, h0) if backward_is_taped() else gru_pullback(g, y, weight, h0)
    hidden = part(pulled, 3 * size, 6 * size)
    by_h0 = None
    if needed[3]:
        through = matmul(step(hidden, 0), swapaxes(weight, -1, -2))
        by_h0 = through + part(step(pulled, 0), 6 * size, 7 * size)
    return [
        part(pulled, 0, 3 * size),
        recurrent_weight(part(y, 0, size), h0, hidden) if needed[1] else None,
        sum_(hidden, axis=(0, 1)) if needed[2] else None,
        by_h0,
    ]


def _pullback(g: Tensor, y: Tensor, weight: Tensor, h0: Tensor) -> Tensor:
    """`gru_pullback` as operations, which can be differentiated."""
    size, turned = weight.shape[0], swapaxes(weight, -1, -2)
    steps: list[Tensor] = []
    for t in reversed(range(y.shape[0])):
        (dh, *direct), (_, r, z, n, m) = (
            [part(step(v, t), k * size, (k + 1) * size) for k in range(5)] for v in (g, y)
        )
        before = part(step(y, t - 1), 0, size) if t else h0
        if steps:
            dh = dh + matmul(part(steps[-1], 3 * size, 6 * size), turned)
            dh = dh + part(steps[-1], 6 * size, 7 * size)
        d_n = (direct[2] + dh * (1.0 - z)) * (1.0 - n * n)
        d_r = (direct[0] + d_n * m) * (r * (1.0 - r))
        d_z = (direct[1] + dh * (before - n)) * (z * (1.0 - z))
        d_m = direct[3] + d_n * r
        steps.append(concatenate([d_r, d_z, d_n, d_r, d_z, d_m, dh * z], axis=-1))
    return joined(steps)


def _trace_shape(x: Shape, weight: Shape, *_: Shape) -> Shape:
    return (*x[:-1], 5 * weight[-2])


@primitive(
    batch=Core(3, 2, 1, 2),
    shape=_trace_shape,
    joint_vjp=_gru_vjp,
    onnx="GRU",
    cost=scan_cost,
    name="gru",
    public=False,
)
def gru_primitive(xp: Any, x: Any, weight: Any, bias: Any, h0: Any, *, out: Any = None) -> Any:
    """The trace of all steps from the projected inputs (T, B, 3H)."""
    size = weight.shape[-2]
    operands = ((x, 3), (weight, 2), (bias, 1), (h0, 2))
    lanes = np.broadcast_shapes(*[a.shape[: a.ndim - rank] for a, rank in operands])
    if out is None:
        out = xp.empty((*lanes, *x.shape[-3:-1], 5 * size), dtype=x.dtype)
    projected = xp.empty((*lanes, x.shape[-2], 3 * size), dtype=x.dtype)
    rz, m = projected[..., : 2 * size], projected[..., 2 * size :]
    n, fresh = (xp.empty((*lanes, x.shape[-2], size), dtype=x.dtype) for _ in range(2))
    r, z = rz[..., :size], rz[..., size:]
    h = h0
    for t in range(x.shape[-3]):
        trace, given = out[..., t, :, :], x[..., t, :, :]
        product(xp, h, weight, projected)
        xp.add(projected, bias[..., None, :], out=projected)
        xp.add(rz, given[..., : 2 * size], out=rz)
        xp.multiply(rz, 0.5, out=rz)  # sigmoid(a) = tanh(a / 2) / 2 + 1 / 2
        xp.tanh(rz, out=rz)
        xp.multiply(rz, 0.5, out=rz)
        xp.add(rz, 0.5, out=rz)
        xp.multiply(r, m, out=n)
        xp.add(n, given[..., 2 * size :], out=n)
        xp.tanh(n, out=n)
        trace[..., size : 3 * size] = rz
        trace[..., 3 * size : 4 * size] = n
        trace[..., 4 * size :] = m
        xp.subtract(h, n, out=fresh)
        xp.multiply(fresh, z, out=fresh)
        h = xp.add(fresh, n, out=trace[..., :size])
    return out


@primitive(
    batch=Core(3, 3, 2, 2),
    shape=lambda g, y, weight, h0: (*g[:-1], 7 * weight[-2]),
    public=False,
)
def gru_pullback(xp: Any, g: Any, y: Any, weight: Any, h0: Any, *, out: Any = None) -> Any:
    """From the trace's cotangents those of both projections, and of the state they pass by.

    Shapes: g and y (T, B, 5H); result (T, B, 7H): 3H for the inputs' projection, 3H for the hidden
    one, and H for what reaches h_{t-1} through z.
    """
    size = weight.shape[-2]
    operands = ((g, 3), (y, 3), (weight, 2), (h0, 2))
    lanes = np.broadcast_shapes(*[a.shape[: a.ndim - rank] for a, rank in operands])
    if out is None:
        out = xp.empty((*lanes, *g.shape[-3:-1], 7 * size), dtype=g.dtype)
    turned = xp.swapaxes(weight, -1, -2)
    hidden = xp.empty((*lanes, g.shape[-2], 3 * size), dtype=g.dtype)
    d_r, d_z, d_m = (hidden[..., k * size : (k + 1) * size] for k in range(3))
    dh, d_n, fresh = xp.zeros_like(d_r), xp.empty_like(d_r), xp.empty_like(d_r)
    for t in reversed(range(g.shape[-3])):
        trace, result = y[..., t, :, :], out[..., t, :, :]
        r, z, n, m = (trace[..., k * size : (k + 1) * size] for k in range(1, 5))
        g_h, g_r, g_z, g_n, g_m = (g[..., t, :, k * size : (k + 1) * size] for k in range(5))
        before = y[..., t - 1, :, :size] if t else h0
        xp.add(dh, g_h, out=dh)
        xp.subtract(1, z, out=fresh)
        xp.multiply(dh, fresh, out=d_n)
        xp.add(d_n, g_n, out=d_n)
        xp.multiply(n, n, out=d_z)
        xp.subtract(1, d_z, out=d_z)
        xp.multiply(d_n, d_z, out=d_n)
        xp.subtract(before, n, out=d_z)
        xp.multiply(d_z, dh, out=d_z)
        xp.add(d_z, g_z, out=d_z)
        xp.multiply(d_z, fresh, out=d_z)  # times (1 - z) z
        xp.multiply(d_z, z, out=d_z)
        xp.multiply(d_n, m, out=d_r)
        xp.add(d_r, g_r, out=d_r)
        xp.multiply(d_r, r, out=d_r)
        xp.subtract(1, r, out=fresh)
        xp.multiply(d_r, fresh, out=d_r)
        xp.multiply(d_n, r, out=d_m)
        xp.add(d_m, g_m, out=d_m)
        result[..., : 2 * size] = hidden[..., : 2 * size]
        result[..., 2 * size : 3 * size] = d_n
        result[..., 3 * size : 6 * size] = hidden
        by_z = xp.multiply(dh, z, out=result[..., 6 * size :])
        if t:
            product(xp, hidden, turned, dh)
            xp.add(dh, by_z, out=dh)
    return out


def gru(x: Any, weight: Any, bias: Any, h0: Any = None) -> tuple[Tensor, Tensor]:
    """The hidden states of a gated recurrent unit, and the last one.

    With p_t = h_{t-1} @ weight + bias, and both x and p cut into r, z, n (PyTorch's order):
    r = sigmoid(x_r + p_r), z = sigmoid(x_z + p_z), n = tanh(x_n + r·p_n), and
    h_t = (1 - z)·n + z·h_{t-1}. The reset gate acts after the hidden projection, which is why that
    has its own bias.
    Shapes: x (T, B, 3H), the projected inputs; weight (H, 3H); bias (3H,); h0 (B, H), zeros by
    default; result (T, B, H) and (B, H).
    Source: Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder", 2014, in the
    form of cuDNN and PyTorch. Raises: ShapeError.

    >>> states, h = gru([[[0.0, 0.0, 1.0]]], [[0.0, 0.0, 0.0]], [0.0] * 3)
    >>> states.shape, round(h.item(), 4)
    ((1, 1, 1), 0.3808)
    """
    inputs, w, b = operand("gru", x), operand("gru", weight), operand("gru", bias)
    check_scan("gru", 3, inputs, w)
    h = initial("gru", h0, inputs, w)
    check_scan("gru", 3, inputs, w, h)
    if b.shape != w.shape[1:] or b.dtype != w.dtype:
        raise ShapeError(
            f"gru: bias {b.shape} {b.dtype} for the recurrent weight {w.shape} {w.dtype}",
            where=user_line(),
            why="the hidden projection has one bias a gate and feature",
            fix=f"pass a bias {w.shape[1:]}",
        )
    trace = gru_primitive(inputs, w, b, h)
    states = part(trace, 0, w.shape[0])
    return states, step(states, inputs.shape[0] - 1)


operations.register("gru", gru)
