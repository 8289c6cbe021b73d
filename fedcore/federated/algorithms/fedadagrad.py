"""Server steps that only ever shrink: the squares of a coordinate's updates add up."""

from __future__ import annotations

from dataclasses import dataclass

from fedcore.federated.algorithms.adaptive import Adaptive
from fedcore.federated.algorithms.rule import Vector

__all__ = ["FedAdagrad"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAdagrad(Adaptive):
    """`Adaptive` with v ← v + Δ².

    Source: Reddi et al., "Adaptive Federated Optimization", 2021, algorithm 2.
    """

    lr: float = 0.1
    beta1: float = 0.0

    def second(self, before: Vector, square: Vector) -> Vector:
        return before + square
