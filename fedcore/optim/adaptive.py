"""Optimisers that scale every coordinate by the size of its past gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from fedcore.optim.optimizer import (
    State,
    check_at_least_zero,
    check_fraction,
    check_positive,
    dense,
    flat,
    parts_of,
    rate_of,
)
from fedcore.tensor.cotangent import Cotangent
from fedcore.tensor.ops.create import full_like, zeros_like
from fedcore.tensor.registry import operations
from fedcore.tensor.tensor import Tensor

__all__ = ["Adagrad", "Adam", "AdamW", "RMSprop", "Yogi"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adam:
    """Adam with bias correction; weight decay is added to the gradient. State: (count, m, v).

    Raises: ArgumentError for a value out of range.
    Source: Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015, algorithm 1.
    """

    takes_factored: ClassVar[bool] = True

    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check_moments(self)

    def init(self, theta: Tensor) -> State:
        return _moments(flat(self, theta), 0.0)

    def step(
        self, theta: Tensor, gradient: Cotangent, state: State, *, lr: Any = None
    ) -> tuple[Tensor, State]:
        theta = flat(self, theta)
        g = dense(theta, gradient)
        if self.weight_decay:
            g = g + theta * self.weight_decay
        direction, state = _adam_direction(self, g, state)
        return theta - direction * rate_of(self, lr), state


@dataclass(frozen=True, slots=True, kw_only=True)
class AdamW:
    """Adam whose weight decay shrinks the parameters directly, by lr·weight_decay a step.

    Raises: ArgumentError for a value out of range.
    Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019, algorithm 2.
    """

    takes_factored: ClassVar[bool] = True

    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        _check_moments(self)

    def init(self, theta: Tensor) -> State:
        return _moments(flat(self, theta), 0.0)

    def step(
        self, theta: Tensor, gradient: Cotangent, state: State, *, lr: Any = None
    ) -> tuple[Tensor, State]:
        rate, theta = rate_of(self, lr), flat(self, theta)
        direction, state = _adam_direction(self, dense(theta, gradient), state)
        return theta - (direction + theta * self.weight_decay) * rate, state


@dataclass(frozen=True, slots=True, kw_only=True)
class Yogi:
    """Adam whose second moment moves by a bounded step, so that rare large gradients fade slowly.

    v -= (1 - beta2)·sign(v - g²)·g², started at `initial`, with no bias correction, as in federated
    Yogi. State: (count, m, v).
    Raises: ArgumentError for a value out of range.
    Source: Zaheer et al., "Adaptive Methods for Nonconvex Optimization", 2018, algorithm 2; Reddi
    et al., "Adaptive Federated Optimization", 2021, algorithm 2.
    """

    takes_factored: ClassVar[bool] = True

    lr: float = 1e-2
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-3
    initial: float = 1e-6
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check_moments(self)
        check_at_least_zero("Yogi", initial=self.initial)

    def init(self, theta: Tensor) -> State:
        return _moments(flat(self, theta), self.initial)

    def step(
        self, theta: Tensor, gradient: Cotangent, state: State, *, lr: Any = None
    ) -> tuple[Tensor, State]:
        theta = flat(self, theta)
        count, m, v = parts_of(self, state, (), theta.shape, theta.shape)
        g = dense(theta, gradient)
        if self.weight_decay:
            g = g + theta * self.weight_decay
        m = m * self.beta1 + g * (1.0 - self.beta1)
        square = g * g
        v = v - operations.sign(v - square) * square * (1.0 - self.beta2)
        step = m / (operations.sqrt(v) + self.eps)
        return theta - step * rate_of(self, lr), (count + 1.0, m, v)


@dataclass(frozen=True, slots=True, kw_only=True)
class RMSprop:
    """Steps scaled by a decaying mean of squared gradients. State: (v,), with momentum (v, u).

    Raises: ArgumentError for a value out of range.
    Source: Tieleman and Hinton, "Lecture 6.5: RMSprop", 2012, in the form that PyTorch documents
    for torch.optim.RMSprop.
    """

    takes_factored: ClassVar[bool] = True

    lr: float = 1e-2
    alpha: float = 0.99
    eps: float = 1e-8
    momentum: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_at_least_zero("RMSprop", lr=self.lr, weight_decay=self.weight_decay)
        check_fraction("RMSprop", alpha=self.alpha, momentum=self.momentum)
        check_positive("RMSprop", eps=self.eps)

    def init(self, theta: Tensor) -> State:
        theta = flat(self, theta)
        # two arrays: a replay may own and overwrite the memory of each
        return tuple(zeros_like(theta) for _ in range(2 if self.momentum else 1))

    def step(
        self, theta: Tensor, gradient: Cotangent, state: State, *, lr: Any = None
    ) -> tuple[Tensor, State]:
        rate, theta = rate_of(self, lr), flat(self, theta)
        g = dense(theta, gradient)
        if self.weight_decay:
            g = g + theta * self.weight_decay
        past = parts_of(self, state, *[theta.shape] * (2 if self.momentum else 1))
        v = past[0] * self.alpha + g * g * (1.0 - self.alpha)
        direction = g / (operations.sqrt(v) + self.eps)
        if not self.momentum:
            return theta - direction * rate, (v,)
        velocity = past[1] * self.momentum + direction
        return theta - velocity * rate, (v, velocity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adagrad:
    """Steps scaled by the sum of all squared gradients, started at `initial`. State: (v,).

    Raises: ArgumentError for a value out of range.
    Source: Duchi et al., "Adaptive Subgradient Methods for Online Learning and Stochastic
    Optimization", 2011, in the diagonal form.
    """

    takes_factored: ClassVar[bool] = True

    lr: float = 1e-2
    eps: float = 1e-10
    initial: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_at_least_zero(
            "Adagrad", lr=self.lr, initial=self.initial, weight_decay=self.weight_decay
        )
        check_positive("Adagrad", eps=self.eps)

    def init(self, theta: Tensor) -> State:
        return (full_like(flat(self, theta), self.initial),)

    def step(
        self, theta: Tensor, gradient: Cotangent, state: State, *, lr: Any = None
    ) -> tuple[Tensor, State]:
        theta = flat(self, theta)
        g = dense(theta, gradient)
        if self.weight_decay:
            g = g + theta * self.weight_decay
        v = parts_of(self, state, theta.shape)[0] + g * g
        direction = g / (operations.sqrt(v) + self.eps)
        return theta - direction * rate_of(self, lr), (v,)


def _check_moments(optimizer: Adam | AdamW | Yogi) -> None:
    name = type(optimizer).__name__
    check_at_least_zero(name, lr=optimizer.lr, weight_decay=optimizer.weight_decay)
    check_fraction(name, beta1=optimizer.beta1, beta2=optimizer.beta2)
    check_positive(name, eps=optimizer.eps)


def _moments(theta: Tensor, second: float) -> State:
    """No steps yet, as a 0-d tensor, and both moments."""
    return zeros_like(theta.sum()), zeros_like(theta), full_like(theta, second)


def _adam_direction(rule: Adam | AdamW, g: Tensor, state: State) -> tuple[Tensor, State]:
    count, m, v = parts_of(rule, state, (), g.shape, g.shape)
    count = count + 1.0
    m = m * rule.beta1 + g * (1.0 - rule.beta1)
    v = v * rule.beta2 + g * g * (1.0 - rule.beta2)
    root = operations.sqrt(v / _unbiased(rule.beta2, count)) + rule.eps
    return m / root / _unbiased(rule.beta1, count), (count, m, v)


def _unbiased(beta: float, count: Tensor) -> Tensor | float:
    """1 - beta^count, through expm1: in float32 1 - 0.999 has but four digits left."""
    return -operations.expm1(count * math.log(beta)) if beta else 1.0
