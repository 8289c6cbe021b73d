"""What every release has to satisfy, whatever its noise: a plan, a reservation, a durable payload.

Mechanisms add the noise and leave through `publish`; nothing else constructs a `PrivateMean` by its
own means.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import NoReturn, SupportsIndex, TypeVar, final

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import NormError, PlanError, ReservationError, ShapeError, SurvivorsError
from fedcore.privacy.adaptive import Adaptive, QuantileState
from fedcore.privacy.ledger import Ledger, Receipt, Reservation
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
from fedcore.privacy.values import IntSum, IntUpdate, NoisySum, squared_norm

__all__ = [
    "PrivateMean",
    "publish",
    "read_release",
    "released_mean",
    "require_bounds",
    "require_contribution",
    "require_noise",
    "require_noisy",
    "require_paid",
    "require_planned",
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

    `clipping`: under adaptive clipping, what the next round is clipped by; else None. Read-only;
    whoever goes around that, as Python allows, makes what no guarantee covers.
    """

    __slots__ = ("clipping", "receipt", "vector")

    vector: NDArray[np.float32]
    receipt: Receipt
    clipping: QuantileState | None

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
        for name, value in {"vector": vector, "receipt": receipt, "clipping": clipping}.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise _read_only(f"{name} of a private mean is to be replaced")

    def __delattr__(self, name: str) -> NoReturn:
        raise _read_only(f"{name} of a private mean is to be deleted")

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise _read_only("a private mean is to be copied or pickled")

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


def released_mean(
    ledger: Ledger, round: int, *, clipping: QuantileState | None = None
) -> PrivateMean | None:
    """The mean that a mechanism released for `round` under the present plan, for nothing; or None.

    `clipping`: under adaptive clipping, what that round's updates were clipped by.
    Raises: LedgerError if the payload is damaged or gone; PlanError if it is not a mechanism's.
    """
    if type(ledger) is not Ledger:
        raise PlanError(
            f"a released mean is to be read from a {type(ledger).__name__}",
            why="only a ledger holds what was released",
            fix="pass what Ledger.open() returned",
        )
    payload, receipt = ledger.released(round), ledger.receipt(round)
    if payload is None or receipt is None:
        return None
    vector, after = read_release(ledger.plan, payload, clipping=clipping)
    return PrivateMean(vector, receipt, after, issued_by=_PASS)


def publish(
    mean: NDArray[np.float32],
    reservation: Reservation,
    *,
    mechanism: object,
    count: int | None = None,
    clipping: QuantileState | None = None,
) -> PrivateMean:
    """Makes payload and charge durable before anybody sees the mean (D,). For mechanisms.

    `mechanism`: which has claimed the reservation and drawn the noise. `count`: under adaptive
    clipping, the noisy count, and `clipping` what follows from it. Raises: ReservationError.
    """
    require_paid(reservation)
    reservation.require_drawn(mechanism)
    payload = mean.astype("<f4").tobytes()
    # Of bytes, whose array cannot be made writeable again as one that owns its memory can.
    vector = np.frombuffer(payload, "<f4")
    if count is not None:
        payload += count.to_bytes(8, "little", signed=True)
    return PrivateMean(vector, reservation.release(payload), clipping, issued_by=_PASS)


def require_noise(plan: PrivacyPlan, kind: type[_Terms]) -> _Terms:
    """The plan's noise, of this kind. Raises: PlanError for a plan with other noise."""
    if not isinstance(plan.noise, kind):
        raise PlanError(
            f"a mechanism for {kind.__name__} is given a plan with {type(plan.noise).__name__}",
            why="the plan says who adds the noise and is trusted to",
            fix="take the mechanism of the plan's noise",
        )
    return plan.noise


def require_paid(reservation: Reservation) -> None:
    """Raises: ReservationError for what only looks like a reservation."""
    if type(reservation) is not Reservation:
        raise ReservationError(
            f"noise is to be paid for by a {type(reservation).__name__}",
            why="only a ledger makes durable that it is",
            fix="pass what Ledger.reserve() returned",
        )


def require_planned(plan: PrivacyPlan, reservation: Reservation) -> None:
    """Raises: ReservationError unless a ledger made the reservation, for this plan."""
    require_paid(reservation)
    if reservation.plan_digest != plan.digest:
        raise ReservationError(
            "a reservation for another plan",
            why="the ledger was charged for other noise than would be added",
            fix="reserve from the ledger that this plan opened",
        )


def require_reserved(plan: PrivacyPlan, reservation: Reservation) -> None:
    """Raises: ReservationError for another plan's reservation; PlanError before sampling."""
    require_planned(plan, reservation)
    # Where a coin is tossed for each record, whoever holds it does so, in `draw_records`.
    elsewhere = plan.unit is Unit.RECORD and isinstance(plan.sampling, Poisson)
    if not elsewhere and not reservation.sampled:
        raise PlanError(
            "a release whose cohort was not drawn by the plan's sampling, or was released before",
            why="the ledger was charged for one sample and what comes of it",
            fix="reserve each round, and draw its cohort with reservation.select()",
        )


def require_sum(plan: PrivacyPlan, total: IntSum | IntUpdate) -> None:
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


def require_contribution(plan: PrivacyPlan, total: IntUpdate | IntSum) -> None:
    """That one unit weighs no more in `total`, of one client, than the noise hides.

    Under Unit.RECORD a sum over records, else an update or a sum that is no longer than one.
    Raises: PlanError, NormError, ShapeError.
    """
    if plan.unit is Unit.RECORD:
        require_sum(plan, total)
        return
    contribution = IntSum(total.vector, total.grid_steps) if type(total) is IntUpdate else total
    require_sum(plan, contribution)
    if squared_norm(contribution.vector) > plan.contribution_norm**2:
        raise NormError(
            "a client's contribution is longer than one update of the plan",
            why=f"the plan protects one {plan.unit.value}, and its noise hides one contribution",
            fix="add up what belongs to one unit before it is clipped, and quantise it once",
        )


def require_noisy(plan: PrivacyPlan, total: NoisySum) -> None:
    """Raises: PlanError, ShapeError unless `total` is a sum with the clients' noise in it."""
    if type(total) is not NoisySum:
        raise PlanError(
            f"a {type(total).__name__} is to be opened",
            why="only a sum that holds the clients' noise is private already",
            fix="pass NoisySum(the unmasked sum, shares=how many clients are in it)",
        )
    _require_length(total.vector, plan.wire_dimension)


def require_bounds(
    terms: NoiseShares | CompactShares, *, minimum_survivors: int, corrupt: int
) -> None:
    """That a session which completes has noise enough in it. Raises: PlanError."""
    if type(minimum_survivors) is not int or minimum_survivors < terms.survivors:
        raise PlanError(
            f"a session that completes with {minimum_survivors!r:.40} survivors",
            why=f"the guarantee counts on the noise of {terms.survivors}, and a sum with less may "
            "not be opened",
            fix="begin with the least number of survivors of the session's own terms; plan with "
            "that number, or let the session lose fewer",
        )
    if type(corrupt) is not int or not 0 <= corrupt <= terms.corrupt:
        raise PlanError(
            f"a session among clients of whom {corrupt!r:.40} may be corrupt",
            why=f"the guarantee counts on all but {terms.corrupt} to add their noise",
            fix="begin with the number of corrupt clients of the session's own terms, and plan "
            "with that number",
        )


def require_survivors(terms: NoiseShares | CompactShares, total: NoisySum) -> None:
    """Raises: SurvivorsError for a sum over fewer clients than it counts on, or more than planned.

    The last defence, for such a sum has been seen: `require_bounds` comes before its session.
    """
    if total.shares < terms.survivors:
        raise SurvivorsError(
            f"a sum over {total.shares} clients, planned for {terms.survivors} to {terms.clients}",
            why="each client's noise is a share of what the guarantee needs, and the server has "
            "seen a sum with less: against it the guarantee does not hold for this round",
            fix="let no session complete with fewer survivors than begin() was told",
        )
    if total.shares > terms.clients:
        raise SurvivorsError(
            f"a sum over {total.shares} clients, planned for {terms.survivors} to {terms.clients}",
            why="the width of its noise would tell how many took part",
            fix="plan for as many clients as may come",
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


def _read_only(what: str) -> ReservationError:
    return ReservationError(
        what,
        why="it stands for what was released and paid for",
        fix="use copies of its vector, and read_release() for what the ledger keeps",
    )


def _require_length(vector: NDArray[np.int64], length: int) -> None:
    if vector.shape != (length,):
        raise ShapeError(
            f"a sum of {vector.size} coordinates, planned for {length}",
            why="the dimension of a release is public and fixed",
            fix="sum vectors of the layout that the plan declares",
        )
