"""Averaging without rounds: updates are buffered, and the older they are, the less they count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from fedcore.settings import Bounds
from fedsim.algorithms.fedavg import FedAvg

__all__ = ["FedBuff"]


@dataclass(frozen=True, kw_only=True)
class FedBuff(FedAvg):
    """Of each K updates in the buffer, w ← w + lr·1/K Σ s(τ_i) Δ_i, with s(τ) = (1 + τ)^-exponent.

    τ_i is how often the server has stepped since client i was sent its model. The schedule knows
    it, and has each vector multiplied by `discount(τ_i)` before it enters the mean of K: a number
    that the server tells, so that sums suffice here, too. The paper's exponent is 1/2.

    Source: Nguyen et al., "Federated Learning with Buffered Asynchronous Aggregation", 2022,
    algorithm 1 and section 5.
    """

    weighted: ClassVar[bool] = False

    exponent: Annotated[float, Bounds(least=0, most=100)] = 0.5

    def discount(self, staleness: int) -> float:
        """What an update counts that is so many of the server's steps old.

        >>> FedBuff().discount(0), FedBuff().discount(3)
        (1.0, 0.5)
        """
        return float((1 + staleness) ** -self.exponent)
