"""`SGD`: steps against the gradient, with momentum if asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from fedcore.errors import ArgumentError, user_line
from fedcore.optim.optimizer import (
    State,
    check_at_least_zero,
    check_fraction,
    check_size,
    dense,
    flat,
    parts_of,
    rate_of,
)
from fedcore.tensor.cotangent import Cotangent
from fedcore.tensor.ops.create import zeros_like
from fedcore.tensor.ops.update import add_scaled
from fedcore.tensor.tensor import Tensor

__all__ = ["SGD"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SGD:
    """Stochastic gradient descent: v = momentum·v + g; theta -= lr·v, with g += weight_decay·theta.

    With `nesterov` the step is lr·(g + momentum·v). The state is (v,), or () without momentum.
    Raises: ArgumentError for a value out of range, or nesterov without momentum.
    Source: Sutskever et al., "On the importance of initialization and momentum in deep learning",
    2013, in the form that PyTorch documents for torch.optim.SGD.

    >>> from fedcore.tensor.tensor import tensor
    >>> theta, state = SGD(lr=0.5).step(tensor([1.0]), tensor([0.5]), ())
    >>> theta.tolist(), state
    ([0.75], ())
    """

    takes_factored: ClassVar[bool] = True

    lr: float
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_at_least_zero("SGD", lr=self.lr, weight_decay=self.weight_decay)
        check_fraction("SGD", momentum=self.momentum)
        if self.nesterov and self.momentum == 0:
            raise ArgumentError(
                "SGD: nesterov=True with momentum 0",
                where=user_line(),
                why="Nesterov's step looks ahead along the momentum",
                fix="pass momentum=0.9, or nesterov=False",
            )

    def init(self, theta: Tensor) -> State:
        theta = flat(self, theta)
        return (zeros_like(theta),) if self.momentum else ()

    def step(
        self, theta: Tensor, gradient: Cotangent, state: State, *, lr: Any = None
    ) -> tuple[Tensor, State]:
        rate, theta = rate_of(self, lr), flat(self, theta)
        if not self.momentum:  # the gradient may stay factored: it is never written down
            check_size(theta, gradient)
            if self.weight_decay:
                theta = theta * (1.0 - rate * self.weight_decay)
            return add_scaled(theta, gradient, -rate), ()
        g = dense(theta, gradient)
        if self.weight_decay:
            g = g + theta * self.weight_decay
        velocity = parts_of(self, state, theta.shape)[0] * self.momentum + g
        direction = g + velocity * self.momentum if self.nesterov else velocity
        return theta - direction * rate, (velocity,)
