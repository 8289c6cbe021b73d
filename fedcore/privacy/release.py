"""What every release has to satisfy, whatever its noise: a plan, a reservation, a durable payload.

Mechanisms add the noise and leave through `publish`, the only way to a `PrivateMean`.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import TypeVar, final

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import NormError, PlanError, ReservationError, ShapeError, SurvivorsError
from fedcore.privacy.adaptive import Adaptive, QuantileState
from fedcore.privacy.ledger import Receipt, Reservation
from fedcore.privacy.noise import (
    BandedNoise,
    CentralNoise,
    CompactShares,
    NoiseShares,
    SimulatedNoise,
)
from fedcore.privacy.plan import PrivacyPlan
from fedcore.privacy.sampling import Poisson
from fedcore.privacy.units import Unit
from fedcore.privacy.values import IntSum, NoisySum

__all__ = [
    "PrivateMean",
    "publish",
    "read_release",
    "require_noise",
    "require_noisy",
    "require_reserved",
    "require_state",
    "require_sum",
    "require_survivors",
    "topped_up",
]

_Terms = TypeVar("_Terms", CentralNoise, NoiseShares, CompactShares, BandedNoise, SimulatedNoise)
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


def read_release(
    plan: PrivacyPlan, payload: bytes, *, clipping: QuantileState | None = None
) -> tuple[NDArray[np.float32], QuantileState | None]:
    """The mean (D,) of a payload that the ledger served again, and the next round's clipping.

    `clipping`: under adaptive clipping, what that round's updates were clipped by.
    Raises: PlanError if the payload is not one of a mechanism of this plan.
    """
    require_state(plan, clipping)
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


def publish(
    mean: NDArray[np.float32],
    reservation: Reservation,
    *,
    count: int | None = None,
    clipping: QuantileState | None = None,
) -> PrivateMean:
    """Makes payload and charge durable before anybody sees the mean (D,). For mechanisms.

    `count`: under adaptive clipping, the noisy count, and `clipping` what follows from it.
    """
    payload = mean.astype("<f4").tobytes()
    if count is not None:
        payload += count.to_bytes(8, "little", signed=True)
    return PrivateMean(mean, reservation.release(payload), clipping, issued_by=_PASS)


def require_noise(plan: PrivacyPlan, kind: type[_Terms]) -> _Terms:
    """The plan's noise, of this kind. Raises: PlanError for a plan with other noise."""
    if not isinstance(plan.noise, kind):
        raise PlanError(
            f"a mechanism for {kind.__name__} is given a plan with {type(plan.noise).__name__}",
            why="the plan says who adds the noise and is trusted to",
            fix="take the mechanism of the plan's noise",
        )
    return plan.noise


def require_reserved(plan: PrivacyPlan, reservation: Reservation) -> None:
    """Raises: ReservationError for another plan's reservation; PlanError before sampling."""
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
    _require_length(total.vector, plan.dimension)


def require_noisy(plan: PrivacyPlan, total: NoisySum) -> None:
    """Raises: PlanError, ShapeError unless `total` is a sum with the clients' noise in it."""
    if type(total) is not NoisySum:
        raise PlanError(
            f"a {type(total).__name__} is to be opened",
            why="only a sum that holds the clients' noise is private already",
            fix="pass NoisySum(the unmasked sum, shares=how many clients are in it)",
        )
    _require_length(total.vector, plan.wire_dimension)


def require_survivors(terms: NoiseShares | CompactShares, total: NoisySum) -> None:
    """Raises: SurvivorsError for a sum over fewer clients than it counts on, or more than planned.

    To be asked once the sum is charged, for it has been seen.
    """
    if not terms.survivors <= total.shares <= terms.clients:
        raise SurvivorsError(
            f"a sum over {total.shares} clients, planned for {terms.survivors} to {terms.clients}",
            why="each client's noise is a share of what the guarantee needs",
            fix="abandon the round below the least number of survivors, and plan for the "
            "drop-outs that happen",
        )


def topped_up(
    total: NoisySum,
    clients: int,
    *,
    share: Fraction,
    widest: Fraction,
    draw: Callable[[Fraction], NDArray[np.int64]],
) -> NDArray[np.int64]:
    """The sum (D,) with the noise of as many `clients`, those that are missing in a new vector.

    `share`: the variance of one client's. `draw`: noise of a variance of at most `widest`, which
    takes all missing shares at once where it can.
    """
    noisy, missing = total.vector, clients - total.shares
    while missing:
        at_once = min(missing, int(widest / share))
        noisy = noisy + draw(share * at_once)
        missing -= at_once
    return noisy


def require_state(plan: PrivacyPlan, clipping: QuantileState | None) -> None:
    """Raises: PlanError unless `clipping` is what the plan's updates were clipped by."""
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


def _require_length(vector: NDArray[np.int64], length: int) -> None:
    if vector.shape != (length,):
        raise ShapeError(
            f"a sum of {vector.size} coordinates, planned for {length}",
            why="the dimension of a release is public and fixed",
            fix="sum vectors of the layout that the plan declares",
        )
