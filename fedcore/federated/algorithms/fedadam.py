"""Server steps by the running mean of a coordinate's squared updates, as Adam takes them."""

from __future__ import annotations

from dataclasses import dataclass

from fedcore.federated.algorithms.adaptive import Adaptive
from fedcore.federated.algorithms.rule import Vector

__all__ = ["FedAdam"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAdam(Adaptive):
    """`Adaptive` with v ← beta2·v + (1 - beta2)·Δ².

    Source: Reddi et al., "Adaptive Federated Optimization", 2021, algorithm 2.
    """

    lr: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.99

    def second(self, before: Vector, square: Vector) -> Vector:
        return self.beta2 * before + (1 - self.beta2) * square
