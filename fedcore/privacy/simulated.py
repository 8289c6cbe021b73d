"""Rounds with noise that protects nobody, for studies of speed: same order, another type of result.

Floating-point noise from a seed gives away what it was added to: its low bits, and the seed itself.
So a simulated mean is no `PrivateMean`, and what the ledger keeps of it says NOT PRIVATE.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from fedcore.privacy.ledger import Receipt, Reservation
from fedcore.privacy.noise import SimulatedNoise
from fedcore.privacy.plan import PrivacyPlan
from fedcore.privacy.release import require_noise, require_reserved, require_sum
from fedcore.privacy.values import IntSum

__all__ = ["MARK", "SimulatedMean", "SimulatedMechanism"]

MARK = b"NOT PRIVATE\n"
"""What the payload of a simulated release begins with; `read_release` refuses it."""


@final
@dataclass(frozen=True, eq=False)
class SimulatedMean:
    """A mean, float32 (D,), that is NOT PRIVATE, and the receipt of its entry in the ledger."""

    vector: NDArray[np.float32]
    receipt: Receipt

    def __repr__(self) -> str:
        return f"SimulatedMean(NOT PRIVATE, <{self.vector.size} float32>, {self.receipt})"


@final
class SimulatedMechanism:
    """Gaussian noise of the plan's variance by NumPy's Philox, from the plan's seed and the round.

    Repeatable, and therefore NOT PRIVATE: whoever knows the plan subtracts the noise.
    Raises: PlanError for a plan with other noise.
    """

    def __init__(self, plan: PrivacyPlan) -> None:
        self._noise = require_noise(plan, SimulatedNoise)
        self.plan = plan

    def release(self, total: IntSum, reservation: Reservation) -> SimulatedMean:
        """What the mean would be like, once it is charged and durable: nobody is protected.

        Raises: ReservationError, ShapeError, NormError (a sum on another grid), LedgerError.
        """
        require_reserved(self.plan, reservation)
        require_sum(self.plan, total)
        # A spawn key, since seeds of several words are padded: (5, 0) would be (5,).
        seed = np.random.SeedSequence(self._noise.seed, spawn_key=(reservation.round,))
        noisy = np.random.Generator(np.random.Philox(seed)).standard_normal(self.plan.dimension)
        reservation.claim(self)
        reservation.mark_drawn()
        noisy *= math.sqrt(self.plan.variance)
        noisy += total.vector
        noisy *= float(self.plan.clipping_norm / (self.plan.grid * self.plan.denominator))
        with np.errstate(over="ignore"):
            vector = noisy.astype(np.float32)
        vector.flags.writeable = False
        receipt = reservation.release(MARK + vector.astype("<f4").tobytes())
        return SimulatedMean(vector, receipt)
