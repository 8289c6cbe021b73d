"""A sum becomes a number that may be looked at: noise, ledger, then decoding, in this order.

Each mechanism follows one plan, takes one type of sum, and gives a `PrivateMean`, which nothing
else constructs. The noise enters before anything else touches the sum; decoding and whatever
follows is post-processing.
"""

from __future__ import annotations

from typing import TypeVar, final

import numpy as np
from numpy.typing import NDArray

from fedcore.entropy import Entropy
from fedcore.errors import (
    NormError,
    PlanError,
    ReservationError,
    ShapeError,
    SurvivorsError,
)
from fedcore.privacy.adaptive import Adaptive, QuantileState
from fedcore.privacy.banded import BandedStream
from fedcore.privacy.csprng import Stream
from fedcore.privacy.ledger import Receipt, Reservation
from fedcore.privacy.noise import BandedNoise, CentralNoise, NoiseShares
from fedcore.privacy.plan import PrivacyPlan
from fedcore.privacy.quantise import decode
from fedcore.privacy.sampler import discrete_gaussian, rounded_gaussian
from fedcore.privacy.sampling import Poisson
from fedcore.privacy.units import Unit
from fedcore.privacy.values import IntSum, NoisySum

__all__ = [
    "BandedMechanism",
    "CentralMechanism",
    "PrivateMean",
    "ShareAdder",
    "SharedMechanism",
    "read_release",
    "require_sum",
]

_Terms = TypeVar("_Terms", CentralNoise, NoiseShares, BandedNoise)
_PASS = object()


@final
class PrivateMean:
    """A mean that was released: float32 (D,), and the receipt of the ledger that paid for it.

    `clipping`: under adaptive clipping, what the next round is clipped by; else None.
    """

    __slots__ = ("clipping", "receipt", "vector")

    def __init__(
        self,
        vector: NDArray[np.float32],
        receipt: Receipt,
        clipping: QuantileState | None,
        *,
        issued_by: object,
    ) -> None:
        if issued_by is not _PASS:
            raise ReservationError(
                "a private mean was made by hand",
                why="only what a mechanism released is covered by the guarantee",
                fix="call the release method of the plan's mechanism",
            )
        vector.flags.writeable = False
        self.vector, self.receipt, self.clipping = vector, receipt, clipping

    def __repr__(self) -> str:
        return f"PrivateMean(<{self.vector.size} float32>, {self.receipt})"


@final
class CentralMechanism:
    """Rounded Gaussian noise, added by whoever is trusted with the exact sum.

    On integers x + round(g) = round(x + g), so the release is the Gaussian mechanism followed by
    post-processing, and every accountant of the Gaussian mechanism applies as it stands.
    Raises: PlanError for a plan with other noise.
    """

    def __init__(self, plan: PrivacyPlan, *, entropy: Entropy | None = None) -> None:
        _require_noise(plan, CentralNoise)
        self.plan = plan
        self._stream = Stream(entropy)
        self._prepared: tuple[Reservation, NDArray[np.int64]] | None = None

    def prepare(self, reservation: Reservation) -> None:
        """Draws the round's noise before its sum is known, so that timing tells nothing of both.

        What was prepared for another reservation is thrown away. Raises: ReservationError.
        """
        _require_reserved(self.plan, reservation)
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
        _require_reserved(self.plan, reservation)
        require_sum(self.plan, total)
        _require_state(self.plan, clipping)
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
        self._terms = _require_noise(plan, NoiseShares)
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

    Raises: PlanError for a plan with other noise.
    """

    def __init__(self, plan: PrivacyPlan) -> None:
        self._terms = _require_noise(plan, NoiseShares)
        self.plan = plan

    def release(
        self, total: NoisySum, reservation: Reservation, *, clipping: QuantileState | None = None
    ) -> PrivateMean:
        """The mean under the plan, once it is charged and durable.

        `clipping`: under adaptive clipping, what this round's updates were clipped by.
        Raises: SurvivorsError if fewer clients added noise than the guarantee counts on; then the
        round stays charged, for its noisy sum has been seen. ReservationError, ShapeError.
        """
        _require_reserved(self.plan, reservation)
        if type(total) is not NoisySum:
            raise PlanError(
                f"a {type(total).__name__} is to be opened",
                why="only a sum that holds the clients' noise is private already",
                fix="pass NoisySum(the unmasked sum, shares=how many clients are in it)",
            )
        _require_length(self.plan, total.vector)
        _require_state(self.plan, clipping)
        reservation.mark_drawn()
        if not self._terms.survivors <= total.shares <= self._terms.clients:
            raise SurvivorsError(
                f"a sum over {total.shares} clients, planned for {self._terms.survivors} "
                f"to {self._terms.clients}",
                why="each client's noise is a share of what the guarantee needs",
                fix="abandon the round below the least number of survivors, and plan for the "
                "drop-outs that happen",
            )
        return _publish(self.plan, total.vector, reservation, clipping)


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
        terms = _require_noise(plan, BandedNoise)
        _require_reserved(plan, reservation)
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
        receipt = self._reservation.release(vector.astype("<f4").tobytes())
        return PrivateMean(vector, receipt, None, issued_by=_PASS)


def read_release(
    plan: PrivacyPlan, payload: bytes, *, clipping: QuantileState | None = None
) -> tuple[NDArray[np.float32], QuantileState | None]:
    """The mean (D,) of a payload that the ledger served again, and the next round's clipping.

    `clipping`: under adaptive clipping, what that round's updates were clipped by.
    Raises: PlanError if the payload is not one of a mechanism of this plan.
    """
    _require_state(plan, clipping)
    counted = 0 if clipping is None else 1
    if len(payload) != 4 * (plan.dimension - counted) + 8 * counted:
        raise PlanError(
            f"a payload of {len(payload)} bytes is no mean under the plan",
            why=f"the plan releases {plan.dimension} coordinates",
            fix="read it with the plan, and the clipping, that it was released under",
        )
    vector = np.frombuffer(payload, "<f4", plan.dimension - counted)
    if clipping is None:
        return vector, None
    return vector, clipping.next(int.from_bytes(payload[-8:], "little", signed=True))


def _publish(
    plan: PrivacyPlan,
    noisy: NDArray[np.int64],
    reservation: Reservation,
    clipping: QuantileState | None,
) -> PrivateMean:
    """Decodes by the norm that was sent, and makes payload and charge durable before returning."""
    if clipping is None:
        vector = decode(
            noisy,
            clipping_norm=plan.clipping_norm,
            grid_steps=plan.grid,
            denominator=plan.denominator,
        )
        payload = vector.astype("<f4").tobytes()
    else:
        vector = clipping.mean(noisy)
        payload = vector.astype("<f4").tobytes() + noisy[-1:].astype("<i8").tobytes()
        clipping = clipping.next(int(noisy[-1]))
    return PrivateMean(vector, reservation.release(payload), clipping, issued_by=_PASS)


def _require_noise(plan: PrivacyPlan, kind: type[_Terms]) -> _Terms:
    if not isinstance(plan.noise, kind):
        raise PlanError(
            f"a mechanism for {kind.__name__} is given a plan with {type(plan.noise).__name__}",
            why="the plan says who adds the noise and is trusted to",
            fix="take the mechanism of the plan's noise",
        )
    return plan.noise


def _require_reserved(plan: PrivacyPlan, reservation: Reservation) -> None:
    if reservation.plan_digest != plan.digest:
        raise ReservationError(
            "a reservation for another plan",
            why="the ledger was charged for other noise than would be added",
            fix="reserve from the ledger that this plan opened",
        )
    # Where a coin is tossed for each record, whoever holds it does so, in `draw_records`.
    elsewhere = plan.unit is Unit.RECORD and isinstance(plan.sampling, Poisson)
    if not elsewhere and not reservation.sampled:
        raise PlanError(
            "a release whose cohort was not drawn by the plan's sampling, or was released before",
            why="the ledger was charged for one sample and what comes of it",
            fix="reserve each round, and draw its cohort with reservation.select()",
        )


def require_sum(plan: PrivacyPlan, total: IntSum) -> None:
    """Raises: PlanError, NormError, ShapeError unless `total` is a sum on the plan's grid."""
    if type(total) is not IntSum:
        raise PlanError(
            f"a {type(total).__name__} is to be released",
            why="only a sum of contributions of checked norm has a known sensitivity",
            fix="add up what quantise() returned with IntSum.of()",
        )
    if total.grid_steps != plan.contribution_norm:
        raise NormError(
            f"contributions of up to {total.grid_steps} grid steps, planned for "
            f"{plan.contribution_norm}",
            why="the noise was made for the plan's grid",
            fix="quantise every update by the terms of the plan",
        )
    _require_length(plan, total.vector)


def _require_state(plan: PrivacyPlan, clipping: QuantileState | None) -> None:
    if clipping is None and not isinstance(plan.clipping, Adaptive):
        return
    if (
        clipping is None
        or clipping.rule != plan.clipping
        or clipping.noise_multiplier != plan.noise_multiplier
        or clipping.grid_steps != plan.grid
    ):
        raise PlanError(
            "a release with another clipping than the plan's",
            why="a mean is decoded by the norm that its updates were clipped by",
            fix="under adaptive clipping pass the round's QuantileState, begun by "
            "plan.clipping.start(); else none",
        )


def _require_length(plan: PrivacyPlan, vector: NDArray[np.int64]) -> None:
    if vector.shape != (plan.dimension,):
        raise ShapeError(
            f"a sum of {vector.size} coordinates, planned for {plan.dimension}",
            why="the dimension of a release is public and fixed",
            fix="sum vectors of the layout that the plan declares",
        )
