"""Averaging without rounds: updates are buffered, and the older they are, the less they count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedsim.algorithms.fedavg import FedAvg

__all__ = ["FedBuff"]


@dataclass(frozen=True, kw_only=True)
class FedBuff(FedAvg):
    """Of each K updates in the buffer, w ← w + lr·1/K Σ s(τ_i) Δ_i.

    τ_i is how often the server has stepped since client i was sent its model. The schedule knows
    it, and says what s(τ_i) is: `clock.staleness` of a scenario, (1 + τ)^-1/2 as in the paper by
    default. It is a number that the server tells, so that sums suffice here, too.

    Source: Nguyen et al., "Federated Learning with Buffered Asynchronous Aggregation", 2022,
    algorithm 1 and section 5.
    """

    weighted: ClassVar[bool] = False
