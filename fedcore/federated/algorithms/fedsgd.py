"""One step a round: clients send gradients at the model they were sent, and the server steps.

Where records are protected, this is the noisy step of DP-SGD: each holder sends a sum of clipped
per-example gradients with its share of noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedcore.federated.algorithms.rule import Rule, ServerState, Vector

__all__ = ["FedSGD"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FedSGD(Rule):
    """v ← momentum·v + Δ; θ ← θ + lr·v, where Δ is a mean gradient, downhill.

    Source: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized
    Data", 2017, section 2; Abadi et al., "Deep Learning with Differential Privacy", 2016,
    algorithm 1; the momentum as in `fedcore.optim.SGD`.
    """

    keeps: ClassVar[tuple[str, ...]] = ("velocity",)

    lr: float = 0.1
    momentum: float = 0.0

    def apply(self, theta: Vector, delta: Vector, state: ServerState) -> tuple[Vector, ServerState]:
        velocity = self.momentum * state["velocity"] + delta
        return theta + self.lr * velocity, {"velocity": velocity}
