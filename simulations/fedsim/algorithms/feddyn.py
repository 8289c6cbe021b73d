"""Averaging whose clients bend their losses until they agree on where the minimum is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from fedcore.settings import Bounds
from fedsim.algorithms.algorithm import Local, Sent, State, Turnout, Vector
from fedsim.algorithms.study import Study

__all__ = ["FedDyn"]


@dataclass(frozen=True, kw_only=True)
class FedDyn(Study):
    """Client k keeps the gradient g_k of its loss where it last ended; 0 at first.

    From θ^{t-1} it goes to θ_k, the minimum of L_k(θ) - ⟨g_k, θ⟩ + alpha/2·|θ - θ^{t-1}|², or as
    near as its steps lead, and there g_k ← g_k - alpha (θ_k - θ^{t-1}). The server keeps
    h ← h - alpha·1/m Σ_P (θ_k - θ^{t-1}) for the clients P of m that report, and sends
    θ^t = 1/|P| Σ_P θ_k - h / alpha.

    All clients count alike. Source: Acar et al., "Federated Learning Based on Dynamic
    Regularization", 2021, algorithm 1.
    """

    weighted: ClassVar[bool] = False
    stateful: ClassVar[bool] = True

    alpha: Annotated[float, Bounds(least=1e-9, most=1e6)] = 0.01

    def start(self, dimension: int) -> State:
        return {"h": np.zeros(dimension, np.float32)}

    def client(self, local: Local) -> Sent:
        theta = local.theta
        slope = local.state.get("gradient", np.zeros_like(theta))
        trained = local.train(theta, correction=-slope, anchor=theta, pull=self.alpha)
        moved = trained.theta - theta
        return Sent(moved, trained.loss, {"gradient": slope - self.alpha * moved})

    def apply(
        self, theta: Vector, mean: Vector, state: State, turnout: Turnout
    ) -> tuple[Vector, State]:
        h: Vector = state["h"] - self.alpha * turnout.reports / turnout.population * mean
        return theta + mean - h / self.alpha, {"h": h}
