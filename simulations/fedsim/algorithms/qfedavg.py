"""Averaging that attends to clients by their loss, so that fewer are served badly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from fedcore.settings import Bounds
from fedsim.algorithms.algorithm import Local, Sent, State, Turnout, Vector
from fedsim.algorithms.study import Study

__all__ = ["QFedAvg"]

_LEAST_LOSS = 1e-10  # below it F^(q-1) has no meaning, and at 0 no value


@dataclass(frozen=True, kw_only=True)
class QFedAvg(Study):
    """w ← w - Σ Δ_k / Σ h_k minimises Σ p_k/(q+1)·F_k(w)^(q+1): with q = 0, federated averaging.

    Client k trains from w to w̄_k at a rate η = 1/L, and with Δw_k = L (w - w̄_k)
    Δ_k = F_k^q Δw_k and h_k = q F_k^(q-1) |Δw_k|² + L F_k^q, where F_k is its loss at w.

    Here both are sent divided by -L and L, which cancels, and count by the client's examples; the
    paper draws clients by p_k and counts them alike, which is the same in the mean.
    Source: Li et al., "Fair Resource Allocation in Federated Learning", 2020, algorithm 2.
    """

    scalars: ClassVar[int] = 1
    measures: ClassVar[bool] = True

    q: Annotated[float, Bounds(least=0, most=100)] = 1.0

    def client(self, local: Local) -> Sent:
        trained = local.train(local.theta)
        moved = trained.theta - local.theta
        loss = max(local.loss(local.theta), _LEAST_LOSS)
        square = float(np.sum(np.square(moved, dtype=np.float64)))
        bend = self.q * loss ** (self.q - 1) * square / local.lr if square else 0.0
        attention = loss**self.q
        vector = np.append(attention * moved, np.float32(bend + attention))
        return Sent(vector, trained.loss)

    def apply(
        self, theta: Vector, mean: Vector, state: State, turnout: Turnout
    ) -> tuple[Vector, State]:
        # Powers of losses all near 0 are 0 in float32: there is nothing left to attend to.
        return theta + mean[:-1] / mean[-1] if mean[-1] > 0 else theta, state
