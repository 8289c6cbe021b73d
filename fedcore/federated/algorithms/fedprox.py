"""Federated averaging whose clients are held near the model that they were sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fedcore.federated.algorithms.rule import Rule, ServerState, Vector
from fedcore.optim import Optimizer, State, dense
from fedcore.tensor.cotangent import Cotangent
from fedcore.tensor.tensor import Tensor

__all__ = ["FedProx", "Proximal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FedProx(Rule):
    """Clients add mu/2·|θ - θ_sent|² to their loss; the server averages: θ ← θ + lr·Δ.

    Source: Li et al., "Federated Optimization in Heterogeneous Networks", 2020, algorithm 2.
    """

    mu: float = 0.01
    lr: float = 1.0

    def local(self, optimizer: Optimizer) -> Optimizer:
        return Proximal(optimizer, self.mu)

    def apply(self, theta: Vector, delta: Vector, state: ServerState) -> tuple[Vector, ServerState]:
        return theta + self.lr * delta, state


class Proximal:
    """`optimizer`, whose gradients are pulled back by mu·(θ - where it began).

    Its state is the optimiser's own, and last the beginning, (D,).
    """

    takes_factored = False

    def __init__(self, optimizer: Optimizer, mu: float) -> None:
        self.optimizer, self.mu = optimizer, mu

    @property
    def lr(self) -> float:
        return self.optimizer.lr

    def init(self, theta: Tensor) -> State:
        # A copy, for a compiled step may write over the parameters that it is given.
        return (*self.optimizer.init(theta), theta * 1.0)

    def step(
        self, theta: Tensor, gradient: Cotangent, state: State, *, lr: Any = None
    ) -> tuple[Tensor, State]:
        *inner, beginning = state
        pulled = dense(theta, gradient) + (theta - beginning) * self.mu
        theta, after = self.optimizer.step(theta, pulled, tuple(inner), lr=lr)
        return theta, (*after, beginning)
