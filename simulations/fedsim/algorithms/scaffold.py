"""Averaging in which each client corrects for how its gradients differ from everybody's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from fedcore.settings import Bounds
from fedsim.algorithms.algorithm import Local, Sent, State, Turnout, Vector
from fedsim.algorithms.study import Study

__all__ = ["Scaffold"]


@dataclass(frozen=True, kw_only=True)
class Scaffold(Study):
    """Client i, sent (x, c), keeps c_i, its control variate; all are 0 at first.

    It takes K steps y ← y - η_l (g_i(y) - c_i + c) from x, and then, by option II,
    c_i⁺ = c_i - c + (x - y) / (K η_l). It sends Δy = y - x and Δc = c_i⁺ - c_i, and the server
    moves x ← x + lr·mean(Δy) and c ← c + |S|/N·mean(Δc) for the |S| of N clients that report.

    All clients count alike, as in the paper. Source: Karimireddy et al., "SCAFFOLD: Stochastic
    Controlled Averaging for Federated Learning", 2020, algorithm 1.
    """

    weighted: ClassVar[bool] = False
    stateful: ClassVar[bool] = True
    needs_sgd: ClassVar[bool] = True

    lr: Annotated[float, Bounds(above=0, most=1e6)] = 1.0

    def length(self, dimension: int) -> int:
        return 2 * dimension

    def start(self, dimension: int) -> State:
        return {"control": np.zeros(dimension, np.float32)}

    def sent(self, theta: Vector, state: State) -> State:
        return {"control": state["control"]}

    def client(self, local: Local) -> Sent:
        control = local.sent["control"]
        own = local.state.get("control", np.zeros_like(control))
        trained = local.train(local.theta, correction=control - own)
        moved, rate = trained.theta - local.theta, np.float32(trained.steps * local.lr)
        # At a rate of 0 nothing moves, and nothing is learned of the gradients.
        change = -control - moved / rate if rate else np.zeros_like(moved)
        vector = np.concatenate([moved, change])
        return Sent(vector, trained.loss, {"control": own + change})

    def apply(
        self, theta: Vector, mean: Vector, state: State, turnout: Turnout
    ) -> tuple[Vector, State]:
        moved, change = np.split(mean, 2)
        part = turnout.reports / turnout.population
        return theta + self.lr * moved, {"control": state["control"] + part * change}
