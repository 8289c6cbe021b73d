"""Undoing broadcasting in derivatives: core axes are summed, lanes never."""

from __future__ import annotations

from fedcore.tensor.registry import operations
from fedcore.tensor.tensor import Tensor

__all__ = ["unbroadcast"]


def unbroadcast(g: Tensor, x: Tensor) -> Tensor:
    """The cotangent `g` summed over the core axes along which `x` was broadcast.

    Lanes are left alone: a shared parameter inside `vmap` gets one gradient per lane, and only
    lifting, where the value was spread, sums them.
    """
    shape = x.shape
    if g.shape == shape:
        return g
    extra = g.ndim - x.ndim
    axes = tuple(range(-g.ndim, -x.ndim)) + tuple(
        i - x.ndim for i, size in enumerate(shape) if size == 1 and g.shape[extra + i] != 1
    )
    if axes:
        g = operations.sum(g, axis=axes, keepdims=True)
    return operations.drop_leading(g, count=extra, core=g.ndim) if extra else g
