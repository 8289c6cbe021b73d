"""Federated averaging, the base line of every comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fedcore.settings import Bounds
from fedsim.algorithms.algorithm import State, Turnout, Vector
from fedsim.algorithms.study import Study

__all__ = ["FedAvg"]


@dataclass(frozen=True, kw_only=True)
class FedAvg(Study):
    """θ ← θ + lr·Σ p_k (θ_k - θ), where p_k is client k's part of the examples.

    Source: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized
    Data", 2017, algorithm 1; with lr = 1 the mean of the clients' models.
    """

    lr: Annotated[float, Bounds(above=0, most=1e6)] = 1.0

    def apply(
        self, theta: Vector, mean: Vector, state: State, turnout: Turnout
    ) -> tuple[Vector, State]:
        return theta + self.lr * mean, state
