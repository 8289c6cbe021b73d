"""Federated averaging whose clients are held near the model that they were sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fedcore.settings import Bounds
from fedsim.algorithms.algorithm import Local, Sent
from fedsim.algorithms.fedavg import FedAvg

__all__ = ["FedProx"]


@dataclass(frozen=True, kw_only=True)
class FedProx(FedAvg):
    """Client k trains on h_k(θ) = F_k(θ) + mu/2·|θ - θ^t|²; the server averages.

    Source: Li et al., "Federated Optimization in Heterogeneous Networks", 2020, algorithm 2.
    """

    mu: Annotated[float, Bounds(least=0, most=1e6)] = 0.01

    def client(self, local: Local) -> Sent:
        trained = local.train(local.theta, anchor=local.theta, pull=self.mu)
        return Sent(trained.theta - local.theta, trained.loss)
