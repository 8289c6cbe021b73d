"""Shared lower layers, and for each client a head of its own that never leaves it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedcore.autograd.ravel import Spec
from fedcore.settings import Bounds, Settings
from fedsim.algorithms.algorithm import Local, Sent, State, Turnout, Vector
from fedsim.algorithms.fedavg import FedAvg
from fedsim.algorithms.head import head_of

__all__ = ["FedPer", "FedPerOptions"]


@dataclass(frozen=True, kw_only=True, eq=False)
class FedPer(FedAvg):
    """Base layers W_B are averaged; the head W_P of client j is trained with them and stays there.

    `head` (D,): which parameters are the head's. Clients send the others' changes, in their order.
    A client's head begins as the model's own. Source: Arivazhagan et al., "Federated Learning with
    Personalization Layers", 2019, algorithms 1 and 2.
    """

    stateful: ClassVar[bool] = True

    head: NDArray[np.bool_]

    def length(self, dimension: int) -> int:
        return dimension - int(np.count_nonzero(self.head))

    def client(self, local: Local) -> Sent:
        start = self.personal(local.theta, local.state)
        trained = local.train(start)
        moved = (trained.theta - start)[~self.head]
        return Sent(moved, trained.loss, {"head": trained.theta[self.head]})

    def apply(
        self, theta: Vector, mean: Vector, state: State, turnout: Turnout
    ) -> tuple[Vector, State]:
        after = theta.copy()
        after[~self.head] += self.lr * mean
        return after, state

    def personal(self, theta: Vector, state: State) -> Vector:
        if "head" not in state:
            return theta
        own = theta.copy()
        own[self.head] = state["head"]
        return own


@dataclass(frozen=True, kw_only=True)
class FedPerOptions(Settings):
    """FedPer before it is known which model it is for.

    The head is what is called, or lies within what is called, one of `names`; where none is given,
    the last `layers` layers that have parameters.
    """

    lr: Annotated[float, Bounds(above=0, most=1e6)] = 1.0
    layers: Annotated[int, Bounds(least=1, most=10_000)] = 1
    names: Annotated[tuple[str, ...], Bounds(length=(0, 64))] = ()

    def resolve(self, layout: Spec) -> FedPer:
        """The algorithm for a model of this layout. Raises: TaskError for a head that is none."""
        return FedPer(lr=self.lr, head=head_of(layout, layers=self.layers, names=self.names))
