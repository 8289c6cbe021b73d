"""Server steps as Adam's, whose second moment moves by an amount that does not depend on itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedcore.federated.algorithms.adaptive import Adaptive
from fedcore.federated.algorithms.rule import Vector

__all__ = ["FedYogi"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FedYogi(Adaptive):
    """`Adaptive` with v ← v - (1 - beta2)·Δ²·sign(v - Δ²).

    Source: Reddi et al., "Adaptive Federated Optimization", 2021, algorithm 2.
    """

    lr: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.99

    def second(self, before: Vector, square: Vector) -> Vector:
        towards: Vector = np.sign(before - square)
        return before - (1 - self.beta2) * square * towards
