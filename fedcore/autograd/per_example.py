"""Clipped sums of per-example gradients: what DP-SGD adds noise to, never as B gradients.

The examples are lanes, so each parameter's cotangent holds one part per example; dense layers stay
factored. The norms come first, then one weighted sum over the lanes: for a dense layer one product.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fedcore.autograd.lanes import (
    InAxes,
    axes_of,
    check_chunk,
    lane_count,
    lanes_between,
    map_arguments,
    open_lane,
    slices_of,
    to_front,
)
from fedcore.autograd.tape import value_and_factored_grad, zeros_like
from fedcore.errors import ArgumentError, user_line
from fedcore.tensor.cotangent import (
    Cotangent,
    accumulate,
    as_array,
    norm2,
    settled,
    weighted_sum,
)
from fedcore.tensor.ops.elementwise import astype, isfinite, sqrt, where
from fedcore.tensor.ops.lanes import enter_lane, leave_lane
from fedcore.tensor.registry import operations
from fedcore.tensor.tensor import Tensor, interpreter, tensor

__all__ = ["clipped_sum", "factored_clipped_sum"]

# A norm is raised by so many eps: half of 64 roundings for each of two row norms, 4 of the product.
_ROUNDINGS = 36.0


def clipped_sum(
    loss: Callable[..., Any],
    *,
    clip_norm: Any,
    in_axes: InAxes = 0,
    chunk: int | None = None,
) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """A function that clips each example's gradient to `clip_norm` and adds them up.

    `loss(theta, *example)` is the loss of one example at a flat theta (D,). The result, called with
    theta and arrays whose first axis (or that of `in_axes`, which is for these arrays) holds B
    examples, is (sum (D,), norms before clipping (B,), losses (B,)). `clip_norm` is in the units of
    the gradient and may be a 0-d tensor. A gradient whose norm is not finite in its dtype counts as
    zero, and its norm is given as it was. `chunk` limits how many examples are worked on at once,
    and so orders the sum: its last bits may change. Of no examples, which Poisson sampling can
    draw, the sum is zero.

    Guarantee, for float32 and clip_norm from 1e-20 to 1e20: the sum of one example is at most
    `clip_norm` long as it is returned, its own rounding included, whatever the scale of the
    gradient. Norms are raised for that: by 4.3e-6 of themselves, and where R > 1 rows of a weight's
    gradient are added as products, by (R + 8) 2^-24 and in quadrature 2^-10 of the norm that these
    rows had if none cancelled. Up to that a gradient that is no longer than `clip_norm` is added as
    it is. The sum of several is rounded to float32 as they are added, by at most B R 2^-24 of the
    sum of their terms' lengths, for each example at most 1024 `clip_norm`; so neighbouring sums
    differ by `clip_norm` and the rounding of both. In float64 all this holds while squares stay in
    range, to D 2^-53.

    Raises: ArgumentError if clip_norm is not one positive, finite number. Where it cannot be read,
    as an argument of a compiled function or of `vmap`, such a clip_norm makes the sum zero.
    Source: Abadi et al., "Deep Learning with Differential Privacy", 2016, algorithm 1.

    >>> f = clipped_sum(lambda theta, x: (theta * x).sum(), clip_norm=2.5)
    >>> total, norms, _ = f(tensor([0.0, 0.0]), tensor([[3.0, 4.0], [0.0, 0.5]]))
    >>> [round(v, 4) for v in total.tolist()], norms.tolist()
    ([1.5, 2.5], [5.0, 0.5])
    """
    factored = factored_clipped_sum(loss, clip_norm=clip_norm, in_axes=in_axes, chunk=chunk)

    def call(theta: Any, *examples: Any) -> tuple[Tensor, Tensor, Tensor]:
        total, norms, losses = factored(theta, *examples)
        return as_array(total), norms, losses

    return call


def factored_clipped_sum(
    loss: Callable[..., Any],
    *,
    clip_norm: Any,
    in_axes: InAxes = 0,
    chunk: int | None = None,
) -> Callable[..., tuple[Cotangent, Tensor, Tensor]]:
    """As `clipped_sum`, but the sum stays factored: `add_scaled` takes it as it is.

    A step then adds the products of dense layers straight to theta, rounded as theta is.
    """
    clip_norm = _checked(clip_norm)
    check_chunk("clipped_sum", chunk)

    def call(theta: Any, *examples: Any) -> tuple[Cotangent, Tensor, Tensor]:
        axes = axes_of("clipped_sum", in_axes, len(examples))
        size = lane_count("clipped_sum", examples, axes)
        fronted = tuple(map_arguments(examples, axes, to_front))
        if size == 0:
            none = operations.narrow(tensor(theta), axis=-1, start=0, stop=0)
            return zeros_like(tensor(theta)), none, none
        total: Any = None
        norms, losses = [], []
        for start, stop in slices_of(size, chunk or size):
            whole = stop - start == size
            part = fronted if whole else lanes_between(fronted, axes, start, stop)
            partial_sum, n, v = _clip(loss, theta, part, axes, stop - start, clip_norm)
            total = partial_sum if total is None else accumulate(total, partial_sum)
            norms.append(n)
            losses.append(v)
        join = operations.concatenate
        return (
            total,
            norms[0] if len(norms) == 1 else join(norms),
            losses[0] if len(losses) == 1 else join(losses),
        )

    return call


def _clip(
    loss: Callable[..., Any],
    theta: Any,
    examples: tuple[Any, ...],
    axes: tuple[int | None, ...],
    size: int,
    clip_norm: Any,
) -> tuple[Cotangent, Tensor, Tensor]:
    with open_lane(size) as lane:
        entered = map_arguments(examples, axes, lambda x, _: enter_lane(x, axis=lane))
        value, gradient = value_and_factored_grad(loss)(theta, *entered)
        gradient = settled(gradient)
        dtype = tensor(theta).dtype
        length = sqrt(norm2(gradient))
        norm = astype(length, dtype)
        counts = isfinite(norm)
        raised = where(counts, length, 1.0) * (1.0 + _ROUNDINGS * float(np.finfo(dtype).eps))
        if isinstance(clip_norm, Tensor):
            clip_norm = astype(clip_norm, np.float64)
            counts = counts & (clip_norm > 0.0) & isfinite(clip_norm)
            clip_norm = where(counts, clip_norm, 1.0)
        factor = where(counts, clip_norm / operations.maximum(raised, clip_norm), 0.0)
        total = weighted_sum(gradient, factor, axis=lane, size=size)
        return (
            total,
            leave_lane(norm, axis=lane, size=size),
            leave_lane(value, axis=lane, size=size),
        )


def _checked(clip_norm: Any) -> Any:
    """`clip_norm` as a Python number, or as a tensor whose value a replay or a lane may change."""
    if isinstance(clip_norm, np.integer | np.floating):
        clip_norm = clip_norm.item()
    if isinstance(clip_norm, int | float):
        given, valid = str(clip_norm), 0 < clip_norm < math.inf
    else:
        clip_norm = tensor(clip_norm)
        if clip_norm.shape:
            given, valid = f"of shape {clip_norm.shape}", False
        elif clip_norm.lanes or interpreter.recorder is not None:
            return clip_norm
        else:
            given, valid = str(clip_norm.item()), 0 < clip_norm.item() < math.inf
    if not valid:
        raise ArgumentError(
            f"clipped_sum: clip_norm is {given}",
            where=user_line(),
            why="a clipping norm is one positive length",
            fix="pass a positive, finite number",
        )
    return clip_norm
