"""A model of its own for each client, tied to the one that all train together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from fedcore.settings import Bounds
from fedsim.algorithms.algorithm import Local, Sent, State, Vector
from fedsim.algorithms.fedavg import FedAvg

__all__ = ["Ditto"]


@dataclass(frozen=True, kw_only=True)
class Ditto(FedAvg):
    """Beside the global w, which is federated averaging's, client k trains v_k, and keeps it.

    v_k ← v_k - η (∇F_k(v_k) + lam (v_k - w)), where w is as it was sent; v_k begins as the first w
    that the client sees. Source: Li et al., "Ditto: Fair and Robust Federated Learning Through
    Personalization", 2021, algorithm 1.
    """

    stateful: ClassVar[bool] = True
    trainings: ClassVar[int] = 2

    lam: Annotated[float, Bounds(least=0, most=1e6)] = 0.1

    def client(self, local: Local) -> Sent:
        shared = super().client(local)
        own = self.personal(local.theta, local.state)
        trained = local.train(own, anchor=local.theta, pull=self.lam, purpose="personal")
        return Sent(shared.vector, shared.loss, {"personal": trained.theta})

    def personal(self, theta: Vector, state: State) -> Vector:
        return state.get("personal", theta)
