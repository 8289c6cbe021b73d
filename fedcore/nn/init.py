"""Initial values of parameters, drawn from keyed streams so that a model repeats bit for bit.

A weight's last axis is its outputs and its last but one its inputs; what stands before is the
receptive field: (in, out) for a dense layer, (KH, KW, C, F) for a convolution.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from fedcore.errors import ShapeError, user_line
from fedcore.tensor.backend import current_backend
from fedcore.tensor.random import Key
from fedcore.tensor.tensor import Tensor

__all__ = [
    "Initializer",
    "constant",
    "kaiming_normal",
    "kaiming_uniform",
    "lecun_normal",
    "normal",
    "ones",
    "orthogonal",
    "truncated_normal",
    "uniform",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]

Shape = tuple[int, ...]


class Initializer(Protocol):
    """What makes the first value of a weight of `shape` from a key."""

    def __call__(self, shape: Shape, *, key: Key) -> Tensor: ...


def _float32(values: object) -> Tensor:
    """Drawn on the host, so that a key gives the same values on every device."""
    return Tensor(current_backend().asarray(np.asarray(values, dtype=np.float32)))


def zeros(shape: Shape) -> Tensor:
    """All 0."""
    return constant(shape, 0.0)


def ones(shape: Shape) -> Tensor:
    """All 1."""
    return constant(shape, 1.0)


def constant(shape: Shape, value: float) -> Tensor:
    """All `value`."""
    return _float32(np.full(shape, value))


def uniform(shape: Shape, *, key: Key, bound: float = 0.05) -> Tensor:
    """Uniform in [-bound, bound)."""
    return _float32(key.generator().uniform(-bound, bound, shape))


def normal(shape: Shape, *, key: Key, std: float = 1.0) -> Tensor:
    """Normal with mean 0."""
    return _float32(key.generator().normal(0.0, std, shape))


def truncated_normal(shape: Shape, *, key: Key, std: float = 0.02) -> Tensor:
    """Normal with mean 0, conditioned on at most two standard deviations `std`."""
    draw = key.generator()
    values = draw.standard_normal(shape)
    while (outside := np.abs(values) > 2).any():
        values[outside] = draw.standard_normal(int(outside.sum()))
    return _float32(values * std)


def xavier_uniform(shape: Shape, *, key: Key, gain: float = 1.0) -> Tensor:
    """Uniform with variance gain² · 2 / (fan_in + fan_out).

    Source: Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural
    networks", 2010, equation 16.
    """
    return uniform(shape, key=key, bound=gain * math.sqrt(6.0 / sum(_fans(shape))))


def xavier_normal(shape: Shape, *, key: Key, gain: float = 1.0) -> Tensor:
    """Normal with variance gain² · 2 / (fan_in + fan_out); source as `xavier_uniform`."""
    return normal(shape, key=key, std=gain * math.sqrt(2.0 / sum(_fans(shape))))


def kaiming_uniform(shape: Shape, *, key: Key, gain: float = math.sqrt(2.0)) -> Tensor:
    """Uniform with variance gain² / fan_in; the default gain is that of ReLU.

    Source: He et al., "Delving Deep into Rectifiers", 2015, equation 10.
    """
    return uniform(shape, key=key, bound=gain * math.sqrt(3.0 / _fans(shape)[0]))


def kaiming_normal(shape: Shape, *, key: Key, gain: float = math.sqrt(2.0)) -> Tensor:
    """Normal with variance gain² / fan_in; source as `kaiming_uniform`."""
    return normal(shape, key=key, std=gain / math.sqrt(_fans(shape)[0]))


def lecun_normal(shape: Shape, *, key: Key) -> Tensor:
    """Normal with variance 1 / fan_in.

    Source: LeCun et al., "Efficient BackProp", 1998, equation 16.
    """
    return kaiming_normal(shape, key=key, gain=1.0)


def orthogonal(shape: Shape, *, key: Key, gain: float = 1.0) -> Tensor:
    """Uniformly random with orthonormal rows or columns, seen as a matrix (inputs, outputs).

    Source: Saxe et al., "Exact solutions to the nonlinear dynamics of learning in deep linear
    neural networks", 2014; Mezzadri, "How to generate random matrices from the classical compact
    groups", 2007, for the signs.
    """
    fan_in = _fans(shape)[0]
    rows, columns = max(fan_in, shape[-1]), min(fan_in, shape[-1])
    q, r = np.linalg.qr(key.generator().standard_normal((rows, columns)))
    q = q * np.sign(np.diag(r))
    return _float32((q if fan_in >= shape[-1] else q.T).reshape(shape) * gain)


def _fans(shape: Shape) -> tuple[int, int]:
    """The number of inputs and outputs of one unit."""
    if len(shape) < 2 or 0 in shape:
        raise ShapeError(
            f"init: a weight of shape {shape} has no inputs and outputs",
            where=user_line(),
            why="the scale of these values follows from how many inputs a unit sums",
            fix="pass a shape (..., inputs, outputs), or use normal, uniform or zeros",
        )
    field = math.prod(shape[:-2])
    return field * shape[-2], field * shape[-1]
