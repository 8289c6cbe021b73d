"""Records are protected one by one: noisy steps over sums of clipped per-example gradients.

Who holds records takes `steps` noisy steps for one reservation and publishes the result of the last
alone, or what it made of all of them: a model, its moments. Where many hold records, each adds its
sum and its share of the noise to a step that all take together.
Source: Abadi et al., "Deep Learning with Differential Privacy", 2016, algorithm 1.
"""

from __future__ import annotations

import threading
from typing import Any, NoReturn, SupportsIndex, final

import numpy as np
from numpy.typing import NDArray

from fedcore.entropy import Entropy
from fedcore.errors import DtypeError, NormError, PlanError, ReservationError, ShapeError
from fedcore.privacy.clipping import Flat, PerLayer
from fedcore.privacy.csprng import Stream
from fedcore.privacy.forks import this_process
from fedcore.privacy.ledger import Receipt, Reservation
from fedcore.privacy.noise import CentralNoise
from fedcore.privacy.plan import Grade, PrivacyPlan, own_plan
from fedcore.privacy.quantise import decode, quantise_rows
from fedcore.privacy.release import require_planned, require_sum
from fedcore.privacy.reservation import not_copyable
from fedcore.privacy.sampler import rounded_gaussian
from fedcore.privacy.sampling import Poisson
from fedcore.privacy.units import Unit
from fedcore.privacy.values import IntSum

__all__ = ["NoisySteps", "RecordSum", "draw_records", "require_steps"]


def draw_records(plan: PrivacyPlan, records: int, *, stream: Stream) -> NDArray[np.int64]:
    """Which of a holder's `records` join a step: (k,), ascending, by the plan's sampling.

    The list is secret: its length alone tells how much data there is.
    Raises: PlanError unless the plan protects records and samples them by Poisson, and if it counts
    on fewer records than there are.
    """
    _require_records(plan)
    if not isinstance(plan.sampling, Poisson):
        raise PlanError(
            f"records are to be drawn by {type(plan.sampling).__name__} sampling",
            why="a holder who knows only its own records can only toss a coin for each",
            fix="plan with Poisson sampling, at the rate 2**32 if all records join",
        )
    if records > plan.population:
        raise PlanError(
            f"a holder has more records than the {plan.population} that were planned for",
            why="delta and the rounding of sums were settled for so many",
            fix="plan for a population that is a public upper bound",
        )
    return plan.sampling.draw(records, stream=stream)


def require_steps(plan: PrivacyPlan) -> None:
    """Raises: PlanError unless one holder can take the plan's noisy steps alone."""
    _require_records(plan)
    if not isinstance(plan.noise, CentralNoise):
        raise PlanError(
            f"noisy steps are planned with {type(plan.noise).__name__}",
            why="here one holder adds all of the noise",
            fix="plan with CentralNoise, or let every holder use ShareAdder",
        )
    if not isinstance(plan.sampling, Poisson):
        raise PlanError(
            f"noisy steps are planned with {type(plan.sampling).__name__} sampling",
            why="a coin is tossed for each record anew at every step",
            fix="plan with Poisson sampling, at the rate 2**32 if all records join",
        )


@final
class RecordSum:
    """The sum of one step's clipped gradients on the integer grid, gathered batch by batch.

    Of nothing, which Poisson sampling can draw, it is zero. Raises: PlanError.
    """

    def __init__(self, plan: PrivacyPlan) -> None:
        _require_records(plan)
        self.plan = plan
        self._exact = np.zeros(plan.dimension, np.int64)
        self._float = np.zeros(plan.dimension if plan.grade is Grade.SUM else 0)

    def add(self, gradients: NDArray[np.floating]) -> None:
        """Adds per-example gradients (B, D), each clipped and truncated by itself.

        Raises: PlanError under Grade.SUM; ShapeError, DtypeError.
        """
        if self.plan.grade is not Grade.EXACT:
            raise _other_grade("gradients one by one", "add_clipped")
        rule = self.plan.clipping
        assert isinstance(rule, Flat | PerLayer)
        found = quantise_rows(gradients, clipping=rule, grid_steps=self.plan.grid)
        self._require_length(found, "gradients of each")
        self._exact += found

    def add_clipped(self, total: NDArray[np.float64]) -> None:
        """Adds a sum (D,) of gradients that were clipped to the plan's norm, computed in float64.

        Its sensitivity rests on whoever clipped, as `fedcore.clipped_sum` does in float64 if every
        weight meets one row of an example, or its gradient of one is written out before it counts:
        products of several rows may cancel, and leave more rounding than is declared.
        Raises: PlanError under Grade.EXACT; ShapeError, DtypeError; NormError for a sum that no
        clipped gradients have.
        """
        if self.plan.grade is not Grade.SUM:
            raise _other_grade("a clipped sum", "add")
        if total.dtype != np.float64:
            raise DtypeError(
                f"a clipped sum is given in {total.dtype}",
                why="rounding of narrower floats is not in the declared sensitivity",
                fix="compute gradients and their sum in float64",
            )
        self._require_length(total, "a clipped sum of")
        limit = (self.plan.population + 1) * float(self.plan.clipping_norm) * (1 + 2.0**-20)
        if not np.abs(total).max() <= limit:  # NaN fails too
            raise NormError(
                "a clipped sum has a coordinate that its gradients cannot add up to",
                why="they were not clipped to the plan's norm, or one of them was not finite",
                fix="sum gradients by fedcore.clipped_sum with the plan's clipping norm",
            )
        self._float += total

    def total(self) -> IntSum:
        """What was added, as a sum for a mechanism or for `ShareAdder`."""
        if self.plan.grade is Grade.EXACT:
            return IntSum(self._exact.copy(), self.plan.grid)
        scale = self.plan.grid / float(self.plan.clipping_norm)
        return IntSum(np.trunc(self._float * scale).astype(np.int64), self.plan.grid)

    def _require_length(self, vector: NDArray[Any], what: str) -> None:
        if vector.shape != (self.plan.dimension,):
            raise ShapeError(
                f"{what} shape {vector.shape}, planned for ({self.plan.dimension},)",
                why="the dimension of a release is public and fixed",
                fix="sum gradients of the model that the plan was made for",
            )


@final
class NoisySteps:
    """The noisy steps of one reservation, for who holds the records and adds the noise alone.

    Draw, sum, `step`: at most `plan.steps` times; then `release` what came of them. One object and
    one thread at a time, for two steps of one draw would show a sum under two noises.
    Raises: PlanError, ReservationError.
    """

    def __init__(
        self, plan: PrivacyPlan, reservation: Reservation, *, entropy: Entropy | None = None
    ) -> None:
        require_steps(plan)
        self.plan, self.taken = own_plan(plan), 0
        require_planned(self.plan, reservation)
        self._variance = self.plan.variance
        self._reservation = reservation
        self._stream = Stream(entropy)
        self._drawn = False
        self._turn = threading.Lock()
        reservation.claim(self)
        self._owner = this_process()

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise not_copyable("a NoisySteps")

    def draw(self, records: int) -> NDArray[np.int64]:
        """Which of the holder's records join the next step: (k,), ascending, secret.

        Once for each step: a second sample would be the choice between two.
        Raises: ReservationError after the last step, or if the last draw was not used; PlanError.
        """
        with self._turn:
            if self._drawn:
                raise ReservationError(
                    "the records of a step are to be drawn a second time",
                    why="the sample would then be a choice between two",
                    fix="call step() with the sum over the records that were drawn",
                )
            if self.taken == self.plan.steps:
                raise ReservationError(
                    f"step {self.taken + 1} of {self.plan.steps}",
                    why="the reservation pays for so many steps",
                    fix="release, and reserve again",
                )
            drawn = draw_records(self.plan, records, stream=self._stream)
            self._reservation.mark_drawn()
            self._drawn = True
            return drawn

    def step(self, total: IntSum) -> NDArray[np.float32]:
        """The noisy mean gradient (D,), for the optimiser: private once the ledger releases.

        Raises: PlanError if nothing was drawn for it, or `total` is no IntSum; ReservationError in
        a forked process, which could add other noise; NormError, ShapeError.
        """
        require_sum(self.plan, total)
        if this_process() != self._owner:
            raise ReservationError(
                "a forked process is to take a noisy step that its parent drew",
                why="one sum would be seen under two noises",
                fix="let the process that reserved the round take its steps",
            )
        with self._turn:
            if not self._drawn:
                raise PlanError(
                    "a noisy step whose records were not drawn for it",
                    why="the ledger was charged for a sampling that was not done",
                    fix="call draw() before each step",
                )
            self._reservation.require_drawn(self)
            self._drawn = False
            self.taken += 1
        noisy = rounded_gaussian(self._variance, self.plan.dimension, stream=self._stream)
        noisy += total.vector
        return decode(
            noisy,
            clipping_norm=self.plan.clipping_norm,
            grid_steps=self.plan.grid,
            denominator=self.plan.denominator,
        )

    def release(self, payload: bytes) -> Receipt:
        """Makes durable what came of the steps, `payload`, before anybody sees it."""
        return self._reservation.release(payload)


def _require_records(plan: PrivacyPlan) -> None:
    if plan.unit is not Unit.RECORD:
        raise PlanError(
            f"per-example gradients under a plan that protects one {plan.unit.value}",
            why="clipping each example does not bound what a client contributes",
            fix="plan with unit=Unit.RECORD, or quantise the whole update",
        )


def _other_grade(what: str, method: str) -> PlanError:
    return PlanError(
        f"a sum of records is given {what}",
        why="the plan declares the other grade, whose sensitivity differs",
        fix=f"call {method}(), or plan with the other Grade",
    )
