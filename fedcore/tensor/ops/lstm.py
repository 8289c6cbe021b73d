"""The long short-term memory as one primitive: all steps in one kernel, forward and backward."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedcore.tensor.ops.arguments import operand
from fedcore.tensor.ops.elementwise import tanh
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
from fedcore.tensor.ops.shape import concatenate, swapaxes
from fedcore.tensor.primitive import Core, Shape, primitive
from fedcore.tensor.registry import operations
from fedcore.tensor.tensor import Tensor

__all__ = ["lstm"]

# The trace (T, B, 6H) holds h, c, and the gates i, f, g, o after their activations.


def _lstm_vjp(
    g: Tensor,
    y: Tensor,
    x: Tensor,
    weight: Tensor,
    h0: Tensor,
    c0: Tensor,
    *,
    needed: tuple[bool, ...],
) -> list[Any]:
    size = weight.shape[0]
    pulled = _pullback(g, y, weight, c0) if backward_is_taped() else lstm_pullback(g, y, weight, c0)
    by_x = part(pulled, 0, 4 * size)
    return [
        by_x,
        recurrent_weight(part(y, 0, size), h0, by_x) if needed[1] else None,
        matmul(step(by_x, 0), swapaxes(weight, -1, -2)) if needed[2] else None,
        part(step(pulled, 0), 4 * size, 5 * size) if needed[3] else None,
    ]


def _pullback(g: Tensor, y: Tensor, weight: Tensor, c0: Tensor) -> Tensor:
    """`lstm_pullback` as operations, which can be differentiated."""
    size, turned = weight.shape[0], swapaxes(weight, -1, -2)
    steps: list[Tensor] = []
    for t in reversed(range(y.shape[0])):
        (dh, dc, *direct), (_, c, i, f, u, o) = (
            [part(step(z, t), n * size, (n + 1) * size) for n in range(6)] for z in (g, y)
        )
        before = part(step(y, t - 1), size, 2 * size) if t else c0
        if steps:
            dh = dh + matmul(part(steps[-1], 0, 4 * size), turned)
            dc = dc + part(steps[-1], 4 * size, 5 * size)
        bent = tanh(c)
        dc = dc + dh * o * (1.0 - bent * bent)
        gates = [
            (direct[0] + dc * u) * (i * (1.0 - i)),
            (direct[1] + dc * before) * (f * (1.0 - f)),
            (direct[2] + dc * i) * (1.0 - u * u),
            (direct[3] + dh * bent) * (o * (1.0 - o)),
        ]
        steps.append(concatenate([*gates, dc * f], axis=-1))
    return joined(steps)


def _trace_shape(x: Shape, weight: Shape, *_: Shape) -> Shape:
    return (*x[:-1], 6 * weight[-2])


@primitive(
    batch=Core(3, 2, 2, 2),
    shape=_trace_shape,
    joint_vjp=_lstm_vjp,
    onnx="LSTM",
    cost=scan_cost,
    name="lstm",
    public=False,
)
def lstm_primitive(xp: Any, x: Any, weight: Any, h0: Any, c0: Any, *, out: Any = None) -> Any:
    """The trace of all steps from the projected inputs (T, B, 4H)."""
    size = weight.shape[-2]
    operands = ((x, 3), (weight, 2), (h0, 2), (c0, 2))
    lanes = np.broadcast_shapes(*[a.shape[: a.ndim - rank] for a, rank in operands])
    if out is None:
        out = xp.empty((*lanes, *x.shape[-3:-1], 6 * size), dtype=x.dtype)
    # sigmoid(a) = tanh(a / 2) / 2 + 1 / 2: with these rows one tanh serves all four gates.
    scale, shift = xp.full(4 * size, 0.5, dtype=x.dtype), xp.full(4 * size, 0.5, dtype=x.dtype)
    scale[2 * size : 3 * size] = 1
    shift[2 * size : 3 * size] = 0
    gates = xp.empty((*lanes, x.shape[-2], 4 * size), dtype=x.dtype)
    i, f, g, o = (gates[..., n * size : (n + 1) * size] for n in range(4))
    fresh = xp.empty((*lanes, x.shape[-2], size), dtype=x.dtype)
    h, c = h0, c0
    for t in range(x.shape[-3]):
        trace = out[..., t, :, :]
        product(xp, h, weight, gates)
        xp.add(gates, x[..., t, :, :], out=gates)
        xp.multiply(gates, scale, out=gates)
        xp.tanh(gates, out=gates)
        xp.multiply(gates, scale, out=gates)
        xp.add(gates, shift, out=gates)
        trace[..., 2 * size :] = gates
        xp.multiply(i, g, out=fresh)
        c = xp.multiply(f, c, out=trace[..., size : 2 * size])
        xp.add(c, fresh, out=c)
        xp.tanh(c, out=fresh)
        h = xp.multiply(o, fresh, out=trace[..., :size])
    return out


@primitive(
    batch=Core(3, 3, 2, 2),
    shape=lambda g, y, weight, c0: (*g[:-1], 5 * weight[-2]),
    public=False,
)
def lstm_pullback(xp: Any, g: Any, y: Any, weight: Any, c0: Any, *, out: Any = None) -> Any:
    """From the trace's cotangents those of the gates before activation, and of the cell before.

    Shapes: g and y (T, B, 6H); result (T, B, 5H), 4H for the gates and H for c_{t-1}.
    """
    size = weight.shape[-2]
    operands = ((g, 3), (y, 3), (weight, 2), (c0, 2))
    lanes = np.broadcast_shapes(*[a.shape[: a.ndim - rank] for a, rank in operands])
    if out is None:
        out = xp.empty((*lanes, *g.shape[-3:-1], 5 * size), dtype=g.dtype)
    turned = xp.swapaxes(weight, -1, -2)
    gates = xp.empty((*lanes, g.shape[-2], 4 * size), dtype=g.dtype)
    d_i, d_f, d_g, d_o = (gates[..., n * size : (n + 1) * size] for n in range(4))
    slope = xp.empty_like(gates)
    dh, dc = xp.zeros_like(d_i), xp.zeros_like(d_i)
    bent, fresh = xp.empty_like(d_i), xp.empty_like(d_i)
    tangent = xp.zeros(4 * size, dtype=g.dtype)  # 1 where the gate is a tanh
    tangent[2 * size : 3 * size] = 1
    for t in reversed(range(g.shape[-3])):
        given, trace = g[..., t, :, :], y[..., t, :, :]
        values = trace[..., 2 * size :]
        i, f, u, o = (values[..., n * size : (n + 1) * size] for n in range(4))
        before = y[..., t - 1, :, size : 2 * size] if t else c0
        xp.add(dh, given[..., :size], out=dh)
        xp.add(dc, given[..., size : 2 * size], out=dc)
        xp.tanh(trace[..., size : 2 * size], out=bent)
        xp.multiply(dh, bent, out=d_o)
        xp.multiply(bent, bent, out=bent)
        xp.subtract(1, bent, out=bent)
        xp.multiply(dh, o, out=fresh)
        xp.multiply(fresh, bent, out=fresh)
        xp.add(dc, fresh, out=dc)
        xp.multiply(dc, u, out=d_i)
        xp.multiply(dc, before, out=d_f)
        xp.multiply(dc, i, out=d_g)
        xp.add(gates, given[..., 2 * size :], out=gates)
        # s(1 - s) for a sigmoid s and (1 + s)(1 - s) for a tanh: one formula for all gates.
        xp.add(values, tangent, out=slope)
        xp.multiply(gates, slope, out=gates)
        xp.subtract(1, values, out=slope)
        xp.multiply(gates, slope, out=gates)
        xp.multiply(dc, f, out=dc)
        out[..., t, :, : 4 * size] = gates
        out[..., t, :, 4 * size :] = dc
        if t:
            product(xp, gates, turned, dh)
    return out


def lstm(
    x: Any, weight: Any, h0: Any = None, c0: Any = None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The hidden states of a long short-term memory, and the last hidden and cell state.

    With a_t = x_t + h_{t-1} @ weight cut into i, f, g, o (PyTorch's order):
    c_t = sigmoid(f)·c_{t-1} + sigmoid(i)·tanh(g), h_t = sigmoid(o)·tanh(c_t). Both of PyTorch's
    biases belong to x.
    Shapes: x (T, B, 4H), the projected inputs; weight (H, 4H); h0, c0 (B, H), zeros by default;
    result (T, B, H) and two of (B, H).
    Source: Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997, with the forget gate of Gers
    et al., 2000. Raises: ShapeError.

    >>> states, (h, c) = lstm([[[0.0, 0.0, 1.0, 0.0]]], [[0.0, 0.0, 0.0, 0.0]])
    >>> states.shape, round(c.item(), 4)
    ((1, 1, 1), 0.3808)
    """
    inputs, w = operand("lstm", x), operand("lstm", weight)
    check_scan("lstm", 4, inputs, w)
    h, c = initial("lstm", h0, inputs, w), initial("lstm", c0, inputs, w)
    check_scan("lstm", 4, inputs, w, h, c)
    trace, size = lstm_primitive(inputs, w, h, c), w.shape[0]
    last = step(trace, inputs.shape[0] - 1)
    return part(trace, 0, size), (part(last, 0, size), part(last, size, 2 * size))


operations.register("lstm", lstm)
