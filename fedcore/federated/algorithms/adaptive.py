"""What the adaptive algorithms share: a step scaled by the size of each coordinate's past updates.

Source: Reddi et al., "Adaptive Federated Optimization", 2021, algorithm 2: no correction of bias,
and tau where Adam has epsilon; the second moment starts at tau².
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedcore.federated.algorithms.rule import Rule, ServerState, Vector

__all__ = ["Adaptive"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptive(Rule):
    """m ← beta1·m + (1 - beta1)·Δ; v ← `second`(v, Δ²); θ ← θ + lr·m / (√v + tau)."""

    keeps: ClassVar[tuple[str, ...]] = ("first", "second")

    lr: float
    beta1: float
    tau: float = 1e-3

    def start(self, dimension: int) -> ServerState:
        return {
            "first": np.zeros(dimension, np.float32),
            "second": np.full(dimension, self.tau**2, np.float32),
        }

    @abstractmethod
    def second(self, before: Vector, square: Vector) -> Vector:
        """The second moment after an update of these squares, each (D,)."""

    def apply(self, theta: Vector, delta: Vector, state: ServerState) -> tuple[Vector, ServerState]:
        first: Vector = self.beta1 * state["first"] + (1 - self.beta1) * delta
        second: Vector = self.second(state["second"], delta * delta)
        scale = np.sqrt(second)
        scale += np.float32(self.tau)
        step: Vector = self.lr * first
        step /= scale
        return theta + step, {"first": first, "second": second}
