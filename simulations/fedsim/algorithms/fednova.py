"""Averaging of directions, so that who takes more steps does not pull the model to its own end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from fedcore.settings import Bounds
from fedsim.algorithms.algorithm import Local, Sent, State, Turnout, Vector
from fedsim.algorithms.study import Study

__all__ = ["FedNova"]


@dataclass(frozen=True, kw_only=True)
class FedNova(Study):
    """x ← x - lr·τ_eff Σ p_i η d_i, where d_i is the mean of client i's τ_i gradients.

    Under SGD without momentum a_i = (1, …, 1), so that η d_i = (x - x_i) / τ_i, and
    τ_eff = Σ p_i τ_i with p_i the client's part of the examples. A client sends -η d_i, and last
    τ_i.

    Source: Wang et al., "Tackling the Objective Inconsistency Problem in Heterogeneous Federated
    Optimization", 2020, equation 6 and section 4.
    """

    needs_sgd: ClassVar[bool] = True
    scalars: ClassVar[int] = 1

    lr: Annotated[float, Bounds(above=0, most=1e6)] = 1.0

    def client(self, local: Local) -> Sent:
        trained = local.train(local.theta)
        steps = np.float32(trained.steps)
        return Sent(np.append((trained.theta - local.theta) / steps, steps), trained.loss)

    def apply(
        self, theta: Vector, mean: Vector, state: State, turnout: Turnout
    ) -> tuple[Vector, State]:
        direction, steps = mean[:-1], float(mean[-1])
        return theta + self.lr * steps * direction, state
