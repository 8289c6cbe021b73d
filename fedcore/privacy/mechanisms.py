"""A sum becomes a number that may be looked at: noise, ledger, then decoding, in this order.

Each mechanism follows one plan, takes one type of sum, and gives a `PrivateMean`, which nothing
else constructs. The noise enters before anything else touches the sum; decoding and whatever
follows is post-processing.
"""

from __future__ import annotations

from fractions import Fraction
from typing import final

import numpy as np
from numpy.typing import NDArray

from fedcore.entropy import Entropy
from fedcore.errors import ReservationError
from fedcore.privacy.adaptive import QuantileState
from fedcore.privacy.banded import BandedStream
from fedcore.privacy.csprng import Stream
from fedcore.privacy.ledger import Reservation
from fedcore.privacy.noise import LARGEST_VARIANCE, BandedNoise, CentralNoise, NoiseShares
from fedcore.privacy.plan import PrivacyPlan
from fedcore.privacy.quantise import decode
from fedcore.privacy.release import (
    PrivateMean,
    publish,
    read_release,
    require_noise,
    require_noisy,
    require_reserved,
    require_state,
    require_sum,
    require_survivors,
    topped_up,
)
from fedcore.privacy.sampler import discrete_gaussian, rounded_gaussian
from fedcore.privacy.units import Unit
from fedcore.privacy.values import IntSum, NoisySum

__all__ = [
    "BandedMechanism",
    "CentralMechanism",
    "PrivateMean",
    "ShareAdder",
    "SharedMechanism",
    "read_release",
]


@final
class CentralMechanism:
    """Rounded Gaussian noise, added by whoever is trusted with the exact sum.

    On integers x + round(g) = round(x + g), so the release is the Gaussian mechanism followed by
    post-processing, and every accountant of the Gaussian mechanism applies as it stands.
    Raises: PlanError for a plan with other noise.
    """

    def __init__(self, plan: PrivacyPlan, *, entropy: Entropy | None = None) -> None:
        require_noise(plan, CentralNoise)
        self.plan = plan
        self._stream = Stream(entropy)
        self._prepared: tuple[Reservation, NDArray[np.int64]] | None = None

    def prepare(self, reservation: Reservation) -> None:
        """Draws the round's noise before its sum is known, so that timing tells nothing of both.

        What was prepared for another reservation is thrown away. Raises: ReservationError.
        """
        require_reserved(self.plan, reservation)
        if self._prepared is None or self._prepared[0] is not reservation:
            self._prepared = None
            self._prepared = reservation, self._draw(reservation)

    def release(
        self, total: IntSum, reservation: Reservation, *, clipping: QuantileState | None = None
    ) -> PrivateMean:
        """The mean under the plan, once it is charged and durable.

        `clipping`: under adaptive clipping, what this round's updates were clipped by.
        Raises: ReservationError, ShapeError, NormError (a sum on another grid), LedgerError.
        """
        require_reserved(self.plan, reservation)
        require_sum(self.plan, total)
        require_state(self.plan, clipping)
        self.prepare(reservation)
        assert self._prepared is not None
        _, noise = self._prepared
        self._prepared = None
        noise += total.vector
        return _publish(self.plan, noise, reservation, clipping)

    def _draw(self, reservation: Reservation) -> NDArray[np.int64]:
        reservation.mark_drawn()
        return rounded_gaussian(self.plan.variance, self.plan.dimension, stream=self._stream)


@final
class ShareAdder:
    """A client's part under `NoiseShares`: its contribution and its share of the noise.

    What leaves the device goes into secure aggregation, in a block of `plan.noise.slot_bits` that
    wraps. A client adds noise anew for every round, and for every attempt at one.
    Raises: PlanError for a plan with other noise.
    """

    def __init__(self, plan: PrivacyPlan, *, entropy: Entropy | None = None) -> None:
        self._terms = require_noise(plan, NoiseShares)
        self.plan = plan
        self._stream = Stream(entropy)

    def add(self, total: IntSum) -> NDArray[np.int64]:
        """`total` of this client's contributions with its share of noise: int64 (D,).

        Coordinates beyond the plan's limit are cut there, which moves no two sums further apart.
        Raises: ShapeError, NormError (a sum on another grid).
        """
        require_sum(self.plan, total)
        variance = self._terms.local_variance(self.plan.variance)
        noise = discrete_gaussian(variance, self.plan.dimension, stream=self._stream)
        limit = self._terms.client_limit(self.plan.contribution_norm)
        noise += np.clip(total.vector, -limit, limit)
        return noise


@final
class SharedMechanism:
    """The server's part under `NoiseShares`: it opens a sum that is private already.

    Before it publishes, it adds the shares that are missing to `plan.noise.clients`: else the width
    of the noise would tell readers how many took part, and with it whether one of them did, which
    sampling and `Adjacency.ADD_REMOVE` promise to hide. They are one draw of discrete Gaussian
    noise of their variance, which differs from so many shares by the term tau of the accountant
    alone. Against the server itself they do nothing. Holders of records add their shares whatever
    they draw, so that none are missed.
    Raises: PlanError for a plan with other noise.
    """

    def __init__(self, plan: PrivacyPlan, *, entropy: Entropy | None = None) -> None:
        self._terms = require_noise(plan, NoiseShares)
        self.plan = plan
        self._stream = Stream(entropy)

    def release(
        self, total: NoisySum, reservation: Reservation, *, clipping: QuantileState | None = None
    ) -> PrivateMean:
        """The mean under the plan, once it is charged and durable.

        `clipping`: under adaptive clipping, what this round's updates were clipped by.
        Raises: SurvivorsError if fewer clients added noise than the guarantee counts on; then the
        round stays charged, for its noisy sum has been seen. ReservationError, ShapeError.
        """
        require_reserved(self.plan, reservation)
        require_noisy(self.plan, total)
        require_state(self.plan, clipping)
        reservation.mark_drawn()
        require_survivors(self._terms, total)
        of_records = self.plan.unit is Unit.RECORD
        noisy = total.vector if of_records else self._topped_up(total)
        return _publish(self.plan, noisy, reservation, clipping)

    def _topped_up(self, total: NoisySum) -> NDArray[np.int64]:
        def draw(variance: Fraction) -> NDArray[np.int64]:
            return discrete_gaussian(variance, self.plan.dimension, stream=self._stream)

        return topped_up(
            total,
            self._terms.clients,
            share=self._terms.local_variance(self.plan.variance),
            widest=LARGEST_VARIANCE,
            draw=draw,
        )


@final
class BandedMechanism:
    """Noise that partly cancels between rounds, added by whoever is trusted with the exact sums.

    One reservation pays for the whole matrix of `plan.rounds` rounds. Its state, the last exact
    sums, is in memory alone: after a crash a new mechanism needs a new reservation.
    Raises: PlanError for a plan with other noise, ReservationError.
    """

    def __init__(
        self, plan: PrivacyPlan, reservation: Reservation, *, entropy: Entropy | None = None
    ) -> None:
        terms = require_noise(plan, BandedNoise)
        require_reserved(plan, reservation)
        self.plan = plan
        self._reservation = reservation
        self._stream = Stream(entropy)
        self._sums = BandedStream(terms.strategy, plan.dimension)

    def release(self, total: IntSum) -> PrivateMean:
        """The mean of the next round under the plan, once it is durable.

        Raises: ReservationError after the last round, ShapeError, NormError, LedgerError.
        """
        require_sum(self.plan, total)
        if self._sums.steps == self.plan.rounds:
            raise ReservationError(
                f"round {self.plan.rounds + 1} of a matrix of {self.plan.rounds}",
                why="the noise was planned for this many rounds",
                fix="reserve another matrix with a new reservation",
            )
        self._reservation.mark_drawn()
        released = self._sums.encode(total.vector)
        released += rounded_gaussian(self.plan.variance, self.plan.dimension, stream=self._stream)
        steps = self._sums.decode(released)
        scale = float(self.plan.clipping_norm) / (self.plan.grid * self.plan.denominator)
        vector = (steps * scale).astype(np.float32)
        return publish(vector, self._reservation)


def _publish(
    plan: PrivacyPlan,
    noisy: NDArray[np.int64],
    reservation: Reservation,
    clipping: QuantileState | None,
) -> PrivateMean:
    """Decodes by the norm that was sent, and makes payload and charge durable before returning."""
    if clipping is None:
        mean = decode(
            noisy,
            clipping_norm=plan.clipping_norm,
            grid_steps=plan.grid,
            denominator=plan.denominator,
        )
        return publish(mean, reservation)
    count = int(noisy[-1])
    return publish(clipping.mean(noisy), reservation, count=count, clipping=clipping.next(count))
