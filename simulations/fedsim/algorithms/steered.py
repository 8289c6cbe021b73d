"""Steps that an algorithm steers, by vectors in the optimiser's state: one program for all clients.

A recorded program keeps what it is given as arguments and freezes everything else. So a client's
correction, its anchor and what is frozen are parts of the state, even where they change nothing.
"""

from __future__ import annotations

from typing import Any

from fedcore.optim import SGD, Optimizer, State, dense
from fedcore.optim.optimizer import flat, rate_of
from fedcore.tensor.cotangent import Cotangent
from fedcore.tensor.ops.create import zeros_like
from fedcore.tensor.registry import operations
from fedcore.tensor.tensor import Tensor, tensor

__all__ = ["Steered"]


class Steered:
    """`optimizer`, whose gradients have `correction` + `pull`·(θ - `anchor`) added.

    Its state is the optimiser's own, and last correction (D,), anchor (D,), pull (), and frozen
    (D,), of bool: parameters that stay as they are. As `init` makes them without options, they
    change nothing, and steps are those of `optimizer` bit for bit.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        # A step of plain SGD is linear in the gradient. What is added is then a step of its own,
        # and the gradient need not be written down: it stays factored, and its bits the same.
        self._linear = isinstance(optimizer, SGD) and not optimizer.momentum

    @property
    def takes_factored(self) -> bool:
        return self._linear

    @property
    def lr(self) -> float:
        return self.optimizer.lr

    def init(
        self,
        theta: Tensor,
        *,
        correction: Any = None,
        anchor: Any = None,
        pull: float = 0.0,
        frozen: Any = None,
    ) -> State:
        theta = flat(self, theta)
        nothing = zeros_like(theta)
        return (
            *self.optimizer.init(theta),
            nothing if correction is None else tensor(correction),
            zeros_like(theta) if anchor is None else tensor(anchor),
            tensor(theta.dtype.type(pull)),
            nothing != nothing if frozen is None else tensor(frozen),
        )

    def step(
        self, theta: Tensor, gradient: Cotangent, state: State, *, lr: Any = None
    ) -> tuple[Tensor, State]:
        *inner, correction, anchor, pull, frozen = state
        # Of the two zeros, only the positive one can be taken from any number without a trace:
        # hence the differences, and no sums, below.
        back = operations.where(pull > 0.0, (anchor - theta) * pull, 0.0)
        if self._linear:
            after, kept = self.optimizer.step(theta, gradient, tuple(inner), lr=lr)
            after = after - (correction - back) * rate_of(self.optimizer, lr)
        else:
            steered = dense(theta, gradient) - (back - correction)
            after, kept = self.optimizer.step(theta, steered, tuple(inner), lr=lr)
        after = operations.where(frozen, theta, after)
        return after, (*kept, correction, anchor, pull, frozen)
