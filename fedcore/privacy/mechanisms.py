"""A sum becomes a number that may be looked at: noise, ledger, then decoding, in this order.

Each mechanism follows one plan, takes one type of sum, and gives a `PrivateMean`, which nothing
else constructs. The noise enters before anything else touches the sum; decoding and whatever
follows is post-processing.
"""

from __future__ import annotations

import threading
from fractions import Fraction
from typing import NoReturn, SupportsIndex, final

import numpy as np
from numpy.typing import NDArray

from fedcore.entropy import Entropy
from fedcore.errors import ReservationError
from fedcore.privacy.adaptive import QuantileState
from fedcore.privacy.banded import BandedStream
from fedcore.privacy.csprng import Stream
from fedcore.privacy.ledger import Reservation
from fedcore.privacy.noise import LARGEST_VARIANCE, BandedNoise, CentralNoise, NoiseShares
from fedcore.privacy.plan import PrivacyPlan, own_plan
from fedcore.privacy.quantise import decode
from fedcore.privacy.release import (
    PrivateMean,
    publish,
    read_release,
    released_mean,
    require_bounds,
    require_contribution,
    require_noise,
    require_noisy,
    require_reserved,
    require_state,
    require_sum,
    require_survivors,
    topped_up,
)
from fedcore.privacy.reservation import not_copyable
from fedcore.privacy.sampler import discrete_gaussian, rounded_gaussian
from fedcore.privacy.units import Unit
from fedcore.privacy.values import IntSum, IntUpdate, NoisySum

__all__ = [
    "BandedMechanism",
    "CentralMechanism",
    "PrivateMean",
    "ShareAdder",
    "SharedMechanism",
    "read_release",
    "released_mean",
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
        self.plan = own_plan(plan)
        self._variance = self.plan.variance
        self._stream = Stream(entropy)
        self._prepared: tuple[Reservation, NDArray[np.int64]] | None = None
        self._turn = threading.Lock()  # or one noise could come under two sums

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise not_copyable("a CentralMechanism")

    def prepare(self, reservation: Reservation) -> None:
        """Draws the round's noise before its sum is known, so that timing tells nothing of both.

        What was prepared for another reservation is thrown away. Raises: ReservationError.
        """
        require_reserved(self.plan, reservation)
        with self._turn:
            self._prepare(reservation)

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
        with self._turn:
            noise = self._prepare(reservation)
            self._prepared = None
        noise += total.vector
        return _publish(self.plan, noise, reservation, clipping, mechanism=self)

    def _prepare(self, reservation: Reservation) -> NDArray[np.int64]:
        if self._prepared is None or self._prepared[0] is not reservation:
            self._prepared = None
            reservation.claim(self)
            reservation.mark_drawn()
            noise = rounded_gaussian(self._variance, self.plan.dimension, stream=self._stream)
            self._prepared = reservation, noise
        return self._prepared[1]


@final
class ShareAdder:
    """A client's part under `NoiseShares`: its contribution and its share of the noise.

    What leaves the device goes into secure aggregation, in a block of `plan.noise.slot_bits` that
    wraps. A client adds noise anew for every round, and for every attempt at one.
    Raises: PlanError for a plan with other noise.
    """

    def __init__(self, plan: PrivacyPlan, *, entropy: Entropy | None = None) -> None:
        require_noise(plan, NoiseShares)
        self.plan = own_plan(plan)
        self._terms = require_noise(self.plan, NoiseShares)
        self._variance = self._terms.local_variance(self.plan.variance)
        self._stream = Stream(entropy)

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise not_copyable("a ShareAdder")

    def add(self, total: IntUpdate | IntSum) -> NDArray[np.int64]:
        """This client's contribution with its share of noise: int64 (D,).

        `total`: where a client or a user is the unit, one update, or a sum that is no longer than
        one; where a record is, the sum over the records that were drawn. Coordinates beyond the
        plan's limit are cut there, which moves no two sums further apart.
        Raises: ShapeError; NormError (on another grid, or longer than one contribution).
        """
        require_contribution(self.plan, total)
        noise = discrete_gaussian(self._variance, self.plan.dimension, stream=self._stream)
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
        require_noise(plan, NoiseShares)
        self.plan = own_plan(plan)
        self._terms = require_noise(self.plan, NoiseShares)
        self._variance = self._terms.local_variance(self.plan.variance)
        self._stream = Stream(entropy)

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise not_copyable("a SharedMechanism")

    def begin(self, reservation: Reservation, *, minimum_survivors: int, corrupt: int) -> None:
        """Before the session of secure aggregation: from here on its sum may be seen.

        So the reservation cannot be voided any more. `minimum_survivors`: with how few a session
        completes; `corrupt`: how many of its clients may collude with the server; both of the
        session's own terms, as `SessionConfig.parameters` gives them.
        Raises: PlanError if a sum with less noise than planned could be opened; ReservationError.
        """
        require_reserved(self.plan, reservation)
        require_bounds(self._terms, minimum_survivors=minimum_survivors, corrupt=corrupt)
        reservation.claim(self)
        reservation.mark_drawn()

    def release(
        self, total: NoisySum, reservation: Reservation, *, clipping: QuantileState | None = None
    ) -> PrivateMean:
        """The mean under the plan, once it is charged and durable.

        `clipping`: under adaptive clipping, what this round's updates were clipped by.
        Raises: ReservationError unless `begin` was called before the session; SurvivorsError if
        fewer clients added noise than the guarantee counts on, which then does not hold against
        the server, for it has seen their sum; PlanError, ShapeError.
        """
        require_reserved(self.plan, reservation)
        reservation.require_drawn(self)
        require_noisy(self.plan, total)
        require_state(self.plan, clipping)
        require_survivors(self._terms, total)
        of_records = self.plan.unit is Unit.RECORD
        noisy = total.vector if of_records else self._topped_up(total)
        return _publish(self.plan, noisy, reservation, clipping, mechanism=self)

    def _topped_up(self, total: NoisySum) -> NDArray[np.int64]:
        def draw(variance: Fraction) -> NDArray[np.int64]:
            return discrete_gaussian(variance, self.plan.dimension, stream=self._stream)

        return topped_up(
            total,
            self._terms.clients,
            share=self._variance,
            widest=LARGEST_VARIANCE,
            draw=draw,
        )


@final
class BandedMechanism:
    """Noise that partly cancels between rounds, added by whoever is trusted with the exact sums.

    One reservation pays for the whole matrix of `plan.rounds` rounds, and for one mechanism. Its
    state, the last exact sums, is in memory alone: after a crash a new mechanism needs a new
    reservation.
    Raises: PlanError for a plan with other noise, ReservationError.
    """

    def __init__(
        self, plan: PrivacyPlan, reservation: Reservation, *, entropy: Entropy | None = None
    ) -> None:
        require_noise(plan, BandedNoise)
        self.plan = own_plan(plan)
        self._terms = require_noise(self.plan, BandedNoise)
        self._variance = self.plan.variance
        require_reserved(self.plan, reservation)
        self._stream = Stream(entropy)
        self._sums = BandedStream(self._terms.strategy, self.plan.dimension)
        self._turn = threading.Lock()
        self._reservation = reservation
        reservation.claim(self)

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise not_copyable("a BandedMechanism")

    def release(self, total: IntSum) -> PrivateMean:
        """The mean of the next round under the plan, once it is durable.

        Raises: ReservationError after the last round, ShapeError, NormError, LedgerError.
        """
        require_sum(self.plan, total)
        with self._turn:
            if self._sums.steps == self.plan.rounds:
                raise ReservationError(
                    f"round {self.plan.rounds + 1} of a matrix of {self.plan.rounds}",
                    why="the noise was planned for this many rounds",
                    fix="reserve another matrix with a new reservation",
                )
            self._reservation.mark_drawn()
            released = self._sums.encode(total.vector)
            released += rounded_gaussian(self._variance, self.plan.dimension, stream=self._stream)
            steps = self._sums.decode(released)
            scale = float(self.plan.clipping_norm) / (self.plan.grid * self.plan.denominator)
            vector = (steps * scale).astype(np.float32)
            return publish(vector, self._reservation, mechanism=self)


def _publish(
    plan: PrivacyPlan,
    noisy: NDArray[np.int64],
    reservation: Reservation,
    clipping: QuantileState | None,
    *,
    mechanism: object,
) -> PrivateMean:
    """Decodes by the norm that was sent, and makes payload and charge durable before returning."""
    if clipping is None:
        mean = decode(
            noisy,
            clipping_norm=plan.clipping_norm,
            grid_steps=plan.grid,
            denominator=plan.denominator,
        )
        return publish(mean, reservation, mechanism=mechanism)
    count = int(noisy[-1])
    return publish(
        clipping.mean(noisy),
        reservation,
        mechanism=mechanism,
        count=count,
        clipping=clipping.next(count),
    )
