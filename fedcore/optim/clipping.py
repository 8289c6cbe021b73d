"""Clipping of gradients: total functions, so that one bad value cannot spoil a sum of many."""

from __future__ import annotations

from fedcore.optim.optimizer import check_positive
from fedcore.tensor.cotangent import Cotangent, as_array, norm2
from fedcore.tensor.registry import operations
from fedcore.tensor.tensor import Tensor

__all__ = ["clip_by_norm", "clip_by_value"]


def clip_by_norm(gradient: Cotangent, max_norm: float) -> Tensor:
    """The gradient scaled down to a Euclidean norm of at most `max_norm`, in each lane.

    A gradient that holds NaN or infinity gives zero: the result always obeys the bound, up to
    rounding, and finite values cannot overflow on the way.
    Raises: ArgumentError unless `max_norm` is finite and above 0.
    Source: Pascanu et al., "On the difficulty of training recurrent neural networks", 2013,
    algorithm 1.

    >>> from fedcore.tensor.tensor import tensor
    >>> clip_by_norm(tensor([3.0, 4.0]), 1.0).tolist()
    [0.6000000238418579, 0.800000011920929]
    """
    check_positive("clip_by_norm", max_norm=max_norm)
    g = as_array(gradient)
    largest = operations.max(operations.absolute(g))
    finite = operations.isfinite(largest)
    g = operations.where(finite, g, 0.0)
    unit = operations.where(finite & (largest > 0.0), largest, 1.0)
    direction = g / unit  # of a length between 1 and sqrt(D), or 0: its square cannot overflow
    length = operations.astype(operations.sqrt(norm2(direction)), g.dtype)
    length = operations.maximum(length, 1.0)
    allowed = max_norm / length
    return operations.where(unit <= allowed, g, direction * allowed)


def clip_by_value(gradient: Cotangent, limit: float) -> Tensor:
    """The gradient with every coordinate in [-limit, limit]; NaN becomes 0.

    Raises: ArgumentError unless `limit` is finite and above 0.
    """
    check_positive("clip_by_value", limit=limit)
    g = as_array(gradient)
    return operations.clip(operations.where(operations.isnan(g), 0.0, g), -limit, limit)
