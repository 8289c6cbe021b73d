"""What recurrent networks share, and the simplest of them: one primitive for all steps.

The projection of the inputs is an ordinary product outside; the primitive takes its result, time
first, (T, B, gates), so that each step is one block of memory. Its output is its trace: whatever
the derivative needs is packed beside the hidden states, and backward recomputes nothing.

The derivative runs over the steps in one kernel, which yields the cotangents of the projected
inputs; that of the recurrent weight stays factored, with T·B rows. Where the backward pass itself
is taped, for a second derivative, the same recursion runs as operations instead.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fedcore.errors import AxisError, DtypeError, ShapeError, user_line
from fedcore.tensor.cotangent import Outer
from fedcore.tensor.ops.activations import where_positive
from fedcore.tensor.ops.arguments import choice, operand
from fedcore.tensor.ops.bounds import bounded
from fedcore.tensor.ops.elementwise import where
from fedcore.tensor.ops.linalg import matmul, matmul_primitive
from fedcore.tensor.ops.reduce import sum as sum_
from fedcore.tensor.ops.selection import as_index
from fedcore.tensor.ops.shape import concatenate, expand_dims, narrow, reshape, swapaxes
from fedcore.tensor.primitive import Core, Shape, primitive
from fedcore.tensor.registry import operations
from fedcore.tensor.tensor import Tensor, interpreter

__all__ = [
    "at_length",
    "backward_is_taped",
    "check_scan",
    "initial",
    "joined",
    "part",
    "product",
    "recurrent_weight",
    "rnn",
    "scan_cost",
    "step",
]

# ---- for kernels


def product(xp: Any, rows: Any, weight: Any, out: Any) -> Any:
    """(.., B, k) @ (.., k, m) into `out`, with the bits of `matmul`."""
    kernel = matmul_primitive.kernels.get(xp.__name__, matmul_primitive.kernel)
    return kernel(xp, rows, weight, out=out)


def backward_is_taped() -> bool:
    """Whether derivatives of the derivative may be wanted, so that it must run as operations."""
    return not interpreter.tape_paused


# ---- for derivatives, in operations


def step(x: Tensor, t: int) -> Tensor:
    """Step `t` of (T, B, k): (B, k)."""
    return reshape(narrow(x, axis=-3, start=t, stop=t + 1), x.shape[1:])


def part(x: Tensor, start: int, stop: int) -> Tensor:
    """The features from `start` to `stop`."""
    return narrow(x, axis=-1, start=start, stop=stop)


def joined(steps: list[Tensor]) -> Tensor:
    """Steps (B, k), the last first, as (T, B, k)."""
    return concatenate([expand_dims(x, 0) for x in reversed(steps)], axis=0)


def recurrent_weight(states: Tensor, first: Tensor, pulled: Tensor) -> Outer:
    """The weight's cotangent: the states before each step against what reached their products."""
    earlier = narrow(states, axis=-3, start=0, stop=states.shape[0] - 1)
    before = concatenate([expand_dims(first, 0), earlier], axis=0)
    rows = pulled.shape[0] * pulled.shape[1]
    return Outer.of(
        reshape(before, (rows, before.shape[-1])), reshape(pulled, (rows, pulled.shape[-1]))
    )


# ---- for what users call


def check_scan(name: str, gates: int, x: Tensor, weight: Tensor, *states: Tensor) -> None:
    """Raise unless x (T, B, gates·H), weight (H, gates·H) and states (B, H) fit, and T > 0."""
    size = weight.shape[0] if weight.ndim else 0
    dtypes = {x.dtype, weight.dtype, *[state.dtype for state in states]}
    if len(dtypes) > 1 or x.dtype.kind != "f":
        raise DtypeError(
            f"{name}: operands of " + " and ".join(sorted(str(d) for d in dtypes)),
            where=user_line(),
            why="the steps are computed in one floating dtype",
            fix="convert them, for example with astype('float32')",
        )
    fits = weight.shape == (size, gates * size) and x.ndim == 3 and x.shape[0] > 0
    fits = fits and x.shape[2] == gates * size
    if not fits or any(state.shape != (x.shape[1], size) for state in states):
        shapes = ", ".join(str(state.shape) for state in states)
        raise ShapeError(
            f"{name}: projected inputs {x.shape}, recurrent weight {weight.shape}, states {shapes}",
            where=user_line(),
            why=f"with H features the inputs are (T, B, {gates}H), T > 0, the weight "
            f"(H, {gates}H) and each state (B, H)",
            fix="put time first and project the inputs before the scan",
        )


def initial(name: str, state: Any, x: Tensor, weight: Tensor) -> Tensor:
    """`state`, or zeros (B, H) where it is None."""
    if state is not None:
        return operand(name, state)
    size = weight.shape[0]
    return operations.zeros_like(part(step(x, 0), 0, size))


def at_length(states: Any, lengths: Any) -> Tensor:
    """The state after each sequence's own last step; zeros for length 0.

    Padding after a sequence does not reach its earlier states, so this is all that variable lengths
    need, and the padded steps get derivative 0.
    Shapes: states (T, B, H), lengths (B,) of whole numbers; result (B, H).
    Raises: ShapeError if they do not fit, DtypeError for lengths that are not whole numbers,
    AxisError for a length below 0 or above T.

    >>> at_length([[[1.0]], [[2.0]], [[3.0]]], [2]).tolist()
    [[2.0]]
    """
    h, n = operand("at_length", states), operand("at_length", lengths)
    if h.ndim != 3 or n.shape != h.shape[1:2]:
        raise ShapeError(
            f"at_length: states {h.shape} with lengths {n.shape}",
            where=user_line(),
            why="each of the B sequences (T, B, H) has one length",
            fix="put time first and pass one whole number a sequence",
        )
    n = bounded(
        as_index(n, h),
        low=0,
        high=h.shape[0],
        error=AxisError,
        what=f"at_length: there are {h.shape[0]} steps, and the lengths",
        why="a sequence has from 0 to all of the steps",
        fix="count the steps of each sequence without its padding",
    )
    last = expand_dims(operations.arange(1, h.shape[0] + 1, like=h), 1) == expand_dims(n, 0)
    return sum_(where(expand_dims(last, 2), h, 0.0), axis=0)


# ---- the plain recurrent network


def _slope(y: Tensor, g: Tensor, activation: str) -> Tensor:
    """`g` times the activation's derivative, from its value `y`."""
    return where_positive(y, g) if activation == "relu" else g * (1.0 - y * y)


def _rnn_vjp(
    g: Tensor,
    y: Tensor,
    x: Tensor,
    weight: Tensor,
    first: Tensor,
    *,
    activation: str,
    needed: tuple[bool, ...],
) -> list[Any]:
    turned = swapaxes(weight, -1, -2)
    if backward_is_taped():
        pulled: list[Tensor] = []
        for t in reversed(range(y.shape[0])):
            carried = step(g, t) + matmul(pulled[-1], turned) if pulled else step(g, t)
            pulled.append(_slope(step(y, t), carried, activation))
        by_x = joined(pulled)
    else:
        by_x = rnn_pullback(g, y, weight, activation=activation)
    return [
        by_x,
        recurrent_weight(y, first, by_x) if needed[1] else None,
        matmul(step(by_x, 0), turned) if needed[2] else None,
    ]


def _rnn_shape(x: Shape, *_: Shape, activation: str) -> Shape:
    return x


def scan_cost(x: Shape, weight: Shape, *_: Shape, **__: Any) -> int:
    """The FLOPs of the products of every step's states with the weight."""
    steps, batch = x[:2]
    return 2 * steps * batch * weight[0] * weight[1]


@primitive(
    batch=Core(3, 2, 2),
    shape=_rnn_shape,
    joint_vjp=_rnn_vjp,
    onnx="RNN",
    cost=scan_cost,
    name="rnn",
    public=False,
)
def rnn_primitive(
    xp: Any, x: Any, weight: Any, first: Any, *, activation: str, out: Any = None
) -> Any:
    """The states h_t = activation(x_t + h_{t-1} @ weight)."""
    if out is None:
        lanes = np.broadcast_shapes(x.shape[:-3], weight.shape[:-2], first.shape[:-2])
        out = xp.empty(lanes + x.shape[-3:], dtype=x.dtype)
    h = first
    for t in range(x.shape[-3]):
        now = out[..., t, :, :]
        fresh = xp.empty(now.shape, dtype=x.dtype)
        product(xp, h, weight, fresh)
        xp.add(fresh, x[..., t, :, :], out=fresh)
        h = xp.maximum(fresh, 0, out=now) if activation == "relu" else xp.tanh(fresh, out=now)
    return out


@primitive(
    batch=Core(3, 3, 2),
    shape=_rnn_shape,
    public=False,
)
def rnn_pullback(xp: Any, g: Any, y: Any, weight: Any, *, activation: str, out: Any = None) -> Any:
    """The cotangents of the projected inputs of `rnn`, from those of its states."""
    if out is None:
        lanes = np.broadcast_shapes(g.shape[:-3], y.shape[:-3], weight.shape[:-2])
        out = xp.empty(lanes + g.shape[-3:], dtype=g.dtype)
    turned = xp.swapaxes(weight, -1, -2)
    carried = xp.zeros((*out.shape[:-3], *out.shape[-2:]), dtype=g.dtype)
    slope = xp.empty_like(carried)
    for t in reversed(range(g.shape[-3])):
        xp.add(carried, g[..., t, :, :], out=carried)
        state = y[..., t, :, :]
        if activation == "relu":
            xp.multiply(carried, state > 0, out=carried)
        else:
            xp.multiply(state, state, out=slope)
            xp.subtract(1, slope, out=slope)
            xp.multiply(carried, slope, out=carried)
        out[..., t, :, :] = carried
        if t:
            product(xp, out[..., t, :, :], turned, carried)
    return out


def rnn(x: Any, weight: Any, h0: Any = None, *, activation: str = "tanh") -> tuple[Tensor, Tensor]:
    """The states h_t = activation(x_t + h_{t-1} @ weight), and the last one.

    `activation` is "tanh" or "relu". Both of PyTorch's biases belong to x.
    Shapes: x (T, B, H), the projected inputs; weight (H, H); h0 (B, H), zeros by default; result
    (T, B, H) and (B, H). Source: Elman, "Finding Structure in Time", 1990.
    Raises: ShapeError, ArgumentError.

    >>> rnn([[[1.0]], [[1.0]]], [[2.0]], activation="relu")[0].tolist()
    [[[1.0]], [[3.0]]]
    """
    choice("rnn", "activation", activation, ("tanh", "relu"))
    inputs, w = operand("rnn", x), operand("rnn", weight)
    check_scan("rnn", 1, inputs, w)
    h = initial("rnn", h0, inputs, w)
    check_scan("rnn", 1, inputs, w, h)
    states = rnn_primitive(inputs, w, h, activation=activation)
    return states, step(states, inputs.shape[0] - 1)


for _operation in (rnn, at_length):
    operations.register(_operation.__name__, _operation)
