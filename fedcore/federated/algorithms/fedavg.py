"""Federated averaging: the server takes the mean of what its clients have trained."""

from __future__ import annotations

from dataclasses import dataclass

from fedcore.federated.algorithms.rule import Rule, ServerState, Vector

__all__ = ["FedAvg"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAvg(Rule):
    """θ ← θ + lr·Δ; with lr = 1, the mean of the clients' models.

    Source: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized
    Data", 2017, algorithm 1.
    """

    lr: float = 1.0

    def apply(self, theta: Vector, delta: Vector, state: ServerState) -> tuple[Vector, ServerState]:
        return theta + self.lr * delta, state
