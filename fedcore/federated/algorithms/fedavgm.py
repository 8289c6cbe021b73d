"""Federated averaging with a memory: mean updates that agree add up from round to round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedcore.federated.algorithms.rule import Rule, ServerState, Vector

__all__ = ["FedAvgM"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FedAvgM(Rule):
    """v ← momentum·v + Δ; θ ← θ + lr·v.

    Source: Hsu et al., "Measuring the Effects of Non-Identical Data Distribution for Federated
    Visual Classification", 2019, section 4.3.
    """

    keeps: ClassVar[tuple[str, ...]] = ("velocity",)

    lr: float = 1.0
    momentum: float = 0.9

    def apply(self, theta: Vector, delta: Vector, state: ServerState) -> tuple[Vector, ServerState]:
        velocity = self.momentum * state["velocity"] + delta
        return theta + self.lr * velocity, {"velocity": velocity}
