"""A sum leaves a mechanism once, with exactly the planned noise, paid for and durable."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedcore.entropy import SeededEntropy
from fedcore.errors import (
    EntropyError,
    FedcoreError,
    NormError,
    PlanError,
    ReservationError,
    ShapeError,
)
from fedcore.privacy.clipping import Flat
from fedcore.privacy.ledger import Ledger
from fedcore.privacy.mechanisms import (
    BandedMechanism,
    CentralMechanism,
    PrivateMean,
    ShareAdder,
    SharedMechanism,
    read_release,
)
from fedcore.privacy.noise import SimulatedNoise
from fedcore.privacy.plan import PrivacyPlan
from fedcore.privacy.sampling import FixedSize, Poisson
from fedcore.privacy.units import Adjacency, Unit
from fedcore.privacy.values import IntSum, IntUpdate, NoisySum
from tests.privacy import plans
from tests.privacy.releases import (
    FROZEN,
    central_noise,
    decoded,
    ledgers_in,
    reserved,
    sum_of,
    updates,
)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut does is tested with the ledger."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def create(tmp_path: Path) -> Iterator[Callable[[PrivacyPlan], Ledger]]:
    """Makes ledgers in folders of their own, and closes them."""
    with ledgers_in(tmp_path) as new:
        yield new


@pytest.mark.parametrize("early", [False, True])
def test_a_release_is_the_decoded_sum_with_its_noise_and_nothing_else(
    create: Callable[..., Ledger], early: bool
) -> None:
    plan = plans.client(clipping=Flat(Fraction(7, 10)))
    ledger = create(plan)
    reservation, total = reserved(ledger), sum_of(plan, updates(plan, 5))
    mechanism = CentralMechanism(plan, entropy=SeededEntropy(FROZEN))
    if early:
        mechanism.prepare(reservation)
        mechanism.prepare(reservation)  # draws nothing more
    mean = mechanism.release(total, reservation)
    assert mean.vector.dtype == np.float32
    assert np.array_equal(mean.vector, decoded(plan, total.vector + central_noise(plan)))
    assert ledger.released(0) == mean.vector.astype("<f4").tobytes()
    assert ledger.spent == {plan.event: 1}
    assert np.array_equal(read_release(plan, ledger.released(0) or b"")[0], mean.vector)
    with pytest.raises(ValueError, match="read-only"):
        mean.vector[0] = 0


def test_two_rounds_have_two_noises(create: Callable[..., Ledger]) -> None:
    plan = plans.client(dimension=50)
    ledger, mechanism = create(plan), CentralMechanism(plan)
    total = sum_of(plan, [])
    means = [mechanism.release(total, reserved(ledger, index)).vector for index in range(3)]
    assert all((means[0] != other).all() for other in means[1:])


def test_an_empty_cohort_releases_noise_and_a_zero_update_changes_nothing(
    create: Callable[..., Ledger],
) -> None:
    plan = plans.client()
    nothing = IntUpdate(np.zeros(plan.dimension, np.int64), plan.grid)
    one = updates(plan, 1)[0]
    found = []
    for cohort in ([], [nothing], [one], [nothing, one, nothing]):
        mechanism = CentralMechanism(plan, entropy=SeededEntropy(FROZEN))
        found.append(mechanism.release(sum_of(plan, cohort), reserved(create(plan))).vector)
    assert np.array_equal(found[0], decoded(plan, central_noise(plan)))
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[2], found[3]) and not np.array_equal(found[0], found[2])


def test_the_released_noise_has_the_law_that_was_planned(create: Callable[..., Ledger]) -> None:
    fit = pytest.importorskip("fedcore.privacy.audit.noise_fit")
    # All scales are powers of two, so that the noise can be read from the released floats.
    plan = plans.client(dimension=40_000, grid_steps=2**10, denominator=64)
    ledger, mechanism = create(plan), CentralMechanism(plan, entropy=SeededEntropy(b"fit"))
    rounds = []
    for index in range(3):
        mean = mechanism.release(sum_of(plan, []), reserved(ledger, index))
        steps = mean.vector.astype(np.float64) * 2**16
        rounds.append(steps.astype(np.int64))
        assert np.array_equal(rounds[-1], steps)
    found = fit.noise_fit(np.array(rounds), plan.variance)
    assert found.verdict.outcome.value == "passed", str(found)


def test_noise_prepared_for_one_reservation_serves_no_other(create: Callable[..., Ledger]) -> None:
    plan = plans.client()
    one, other = create(plan), create(plan)  # whose reservations have the same numbers
    mechanism = CentralMechanism(plan, entropy=SeededEntropy(FROZEN))
    first, second = reserved(one), reserved(other)
    mechanism.prepare(first)
    mean = mechanism.release(sum_of(plan, []), second)
    assert not np.array_equal(mean.vector, decoded(plan, central_noise(plan)))
    assert second.drawn and first.drawn
    with pytest.raises(ReservationError):  # its noise was thrown away
        mechanism.release(sum_of(plan, []), first)


def other_plan(plan: PrivacyPlan) -> PrivacyPlan:
    return plans.client(noise_multiplier=Fraction(2))


WRONG: dict[str, tuple[type[FedcoreError], Callable[[PrivacyPlan, IntSum], object]]] = {
    "a sum on another grid": (NormError, lambda plan, _: IntSum(np.zeros(6, np.int64), 2**20)),
    "a sum of another length": (ShapeError, lambda plan, _: IntSum(np.zeros(7, np.int64), 2**24)),
    "a single update": (PlanError, lambda plan, _: updates(plan, 1)[0]),
    "a sum of shares": (PlanError, lambda plan, _: NoisySum(np.zeros(6, np.int64), 4)),
    "a bare array": (PlanError, lambda plan, _: np.zeros(6, np.int64)),
    "nothing": (PlanError, lambda plan, _: None),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_sum_of_the_plan_draws_no_noise(
    create: Callable[..., Ledger], case: str
) -> None:
    error, make = WRONG[case]
    plan = plans.client()
    reservation = reserved(create(plan))
    total: Any = make(plan, sum_of(plan, []))
    with pytest.raises(error) as found:
        CentralMechanism(plan).release(total, reservation)
    assert found.value.why and found.value.fix
    assert not reservation.drawn
    CentralMechanism(plan).release(sum_of(plan, []), reservation)  # it is still to be had


def test_a_reservation_pays_for_one_release(create: Callable[..., Ledger]) -> None:
    plan = plans.client()
    ledger, mechanism = create(plan), CentralMechanism(plan)
    reservation, total = reserved(ledger), sum_of(plan, [])
    mechanism.release(total, reservation)
    for attempt in (mechanism, CentralMechanism(plan)):
        with pytest.raises(PlanError, match="or was released before"):
            attempt.release(total, reservation)
    with pytest.raises(ReservationError):
        reservation.select()
    with pytest.raises(PlanError, match="or was released before"):
        mechanism.prepare(reservation)
    assert ledger.spent == {plan.event: 1}


def test_the_reservation_of_another_plan_pays_for_nothing(create: Callable[..., Ledger]) -> None:
    plan = plans.client()
    reservation = reserved(create(other_plan(plan)))
    for call in (
        lambda: CentralMechanism(plan).prepare(reservation),
        lambda: CentralMechanism(plan).release(sum_of(plan, []), reservation),
    ):
        with pytest.raises(ReservationError, match="another plan"):
            call()
    assert not reservation.drawn


@pytest.mark.parametrize("unit", list(Unit))
def test_a_cohort_that_was_not_drawn_is_not_released(
    create: Callable[..., Ledger], unit: Unit
) -> None:
    fixed = {"sampling": FixedSize(10, 100), "adjacency": Adjacency.REPLACE_ONE}
    plan = plans.client(unit=unit, **fixed)
    reservation = create(plan).reserve(0)
    mechanism = CentralMechanism(plan)
    with pytest.raises(PlanError, match="not drawn"):
        mechanism.release(sum_of(plan, []), reservation)
    assert not reservation.drawn
    reservation.select()
    mechanism.release(sum_of(plan, []), reservation)


def test_records_that_their_holders_draw_are_released(create: Callable[..., Ledger]) -> None:
    plan = plans.record(steps=1)
    CentralMechanism(plan).release(sum_of(plan, []), create(plan).reserve(0))


def test_noise_that_was_drawn_cannot_be_taken_back(create: Callable[..., Ledger]) -> None:
    plan = plans.client()
    ledger, mechanism = create(plan), CentralMechanism(plan)
    reservation = reserved(ledger)
    mechanism.prepare(reservation)
    with pytest.raises(ReservationError, match="cannot be used so"):
        reservation.void("too late")
    later = reserved(ledger)  # the round is run again, and paid for again
    with pytest.raises(ReservationError):
        mechanism.release(sum_of(plan, []), reservation)
    mechanism.release(sum_of(plan, []), later)
    assert ledger.spent == {plan.event: 2}


def test_a_voided_reservation_releases_nothing(create: Callable[..., Ledger]) -> None:
    plan = plans.record(steps=1)
    ledger = create(plan)
    reservation = ledger.reserve(0)
    reservation.void("the power was to be cut")
    with pytest.raises(ReservationError):
        CentralMechanism(plan).release(sum_of(plan, []), reservation)
    assert ledger.spent == {}


def test_a_forked_process_releases_nothing(create: Callable[..., Ledger]) -> None:
    plan = plans.client()
    ledger, mechanism = create(plan), CentralMechanism(plan)
    reservation = reserved(ledger)
    mechanism.prepare(reservation)
    child = os.fork()
    if child == 0:
        try:
            mechanism.release(sum_of(plan, []), reservation)
        except ReservationError:
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert ledger.released(0) is None
    mechanism.release(sum_of(plan, []), reservation)


def test_a_release_that_could_not_be_stored_is_seen_by_nobody(
    create: Callable[..., Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plans.client()
    ledger, mechanism = create(plan), CentralMechanism(plan)
    reservation = reserved(ledger)

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FedcoreError):
        mechanism.release(sum_of(plan, []), reservation)
    monkeypatch.undo()
    with pytest.raises(FedcoreError):
        mechanism.release(sum_of(plan, []), reservation)


def test_nobody_makes_a_private_mean_by_hand(create: Callable[..., Ledger]) -> None:
    plan = plans.client()
    mean = CentralMechanism(plan).release(sum_of(plan, []), reserved(create(plan)))
    for issued_by in (None, object(), "mechanism", True):
        with pytest.raises(ReservationError, match="by hand"):
            PrivateMean(np.zeros(6, np.float32), mean.receipt, None, issued_by=issued_by)
    assert "6 float32" in repr(mean)


def test_each_mechanism_follows_plans_of_its_own_noise(create: Callable[..., Ledger]) -> None:
    simulated = plans.client(noise=SimulatedNoise(3))
    makers: list[Callable[[PrivacyPlan], object]] = [
        CentralMechanism,
        ShareAdder,
        SharedMechanism,
        lambda plan: BandedMechanism(plan, reserved(create(plans.client()))),
    ]
    right = [plans.client(), plans.shared(), plans.shared(), plans.banded()]
    for make, own in zip(makers, right, strict=True):
        for plan in (plans.client(), plans.shared(), plans.banded(), simulated):
            if type(plan.noise) is not type(own.noise):
                with pytest.raises(PlanError, match="the plan says who adds the noise"):
                    make(plan)


def test_noise_comes_from_no_other_generator() -> None:
    class Dice:
        def token(self, size: int) -> bytes:
            return b"4" * size

    for make in (CentralMechanism, ShareAdder):
        plan = plans.client() if make is CentralMechanism else plans.shared()
        with pytest.raises(EntropyError):
            make(plan, entropy=Dice())


def test_a_plan_of_the_lowest_rate_still_releases(create: Callable[..., Ledger]) -> None:
    plan = plans.client(sampling=Poisson(1))
    reservation = create(plan).reserve(0)
    assert reservation.select().size == 0
    CentralMechanism(plan).release(sum_of(plan, []), reservation)
