"""Noise from a seed is repeatable, and says at every turn that it is NOT PRIVATE."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedcore.entropy import SeededEntropy
from fedcore.errors import NormError, PlanError, ReservationError, ShapeError
from fedcore.privacy.certificate import certificate, format_certificate
from fedcore.privacy.ledger import Ledger, Reservation
from fedcore.privacy.mechanisms import CentralMechanism, PrivateMean, read_release
from fedcore.privacy.noise import CentralNoise, SimulatedNoise
from fedcore.privacy.plan import PrivacyPlan
from fedcore.privacy.quantise import quantise
from fedcore.privacy.simulated import MARK, SimulatedMean, SimulatedMechanism
from fedcore.privacy.values import IntSum
from tests.privacy import plans

SEED = 7


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut does is tested with the ledger."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def create(tmp_path: Path) -> Iterator[Callable[[PrivacyPlan], Ledger]]:
    """Makes ledgers in folders of their own, and closes them."""
    made: list[Ledger] = []

    def new(plan: PrivacyPlan) -> Ledger:
        made.append(Ledger.create(tmp_path / str(len(made)), plan))
        return made[-1]

    yield new
    for ledger in made:
        ledger.close()


def reserved(ledger: Ledger, round_: int = 0) -> Reservation:
    reservation = ledger.reserve(round_)
    reservation.select(entropy=SeededEntropy(b"cohort"))
    return reservation


def simulated(**changes: Any) -> PrivacyPlan:
    return plans.client(**{"noise": SimulatedNoise(SEED), "dimension": 2000} | changes)


def total_of(plan: PrivacyPlan, count: int = 5) -> IntSum:
    source = np.random.default_rng(count)
    updates = (
        quantise(source.normal(size=plan.dimension), clipping_norm=1, grid_steps=plan.grid)
        for _ in range(count)
    )
    return IntSum.of(updates, dimension=plan.dimension, grid_steps=plan.grid)


def test_a_round_can_be_repeated_by_whoever_knows_the_plan(
    create: Callable[[PrivacyPlan], Ledger],
) -> None:
    plan = simulated()
    total, found = total_of(plan), []
    for _ in range(2):
        ledger = create(plan)
        means = [
            SimulatedMechanism(plan).release(total, reserved(ledger, index)) for index in range(3)
        ]
        found.append([mean.vector.tobytes() for mean in means])
    assert found[0] == found[1]
    assert len({*found[0]}) == 3
    other = simulated(noise=SimulatedNoise(SEED + 2**32))
    mean = SimulatedMechanism(other).release(total, reserved(create(other)))
    assert mean.vector.tobytes() not in found[0]


def test_its_noise_is_as_wide_as_the_private_one(create: Callable[[PrivacyPlan], Ledger]) -> None:
    plan = simulated(dimension=20_000)
    total = total_of(plan)
    mean = SimulatedMechanism(plan).release(total, reserved(create(plan)))
    assert mean.vector.dtype == np.float32
    error = mean.vector * float(plan.grid * plan.denominator) - total.vector
    # 20,000 coordinates: the variance of a variance is 1e-4; five deviations are 5 %.
    assert error.var() == pytest.approx(float(plan.variance), rel=0.05)
    assert abs(error.mean()) < 5 * (float(plan.variance) / 20_000) ** 0.5


@pytest.mark.usefixtures("coarse_losses")
def test_not_private_stands_in_the_ledger_the_certificate_and_what_is_printed(
    create: Callable[[PrivacyPlan], Ledger],
) -> None:
    plan = simulated()
    ledger = create(plan)
    mean = SimulatedMechanism(plan).release(total_of(plan), reserved(ledger))
    assert "NOT PRIVATE" in repr(mean) and "NOT PRIVATE" in plan.statement()["trust"]
    payload = ledger.released(0)
    assert payload == MARK + mean.vector.tobytes() and payload.startswith(b"NOT PRIVATE")
    data = certificate(ledger)
    assert data["float_noise"]
    text = format_certificate(data)
    assert text.startswith("NOT PRIVATE") and text.count("NOT PRIVATE") >= 2
    assert plan.digest != replace(plan, noise=CentralNoise()).digest
    assert plan.digest != replace(plan, noise=SimulatedNoise(SEED + 1)).digest


def test_it_never_passes_as_a_private_mean(create: Callable[[PrivacyPlan], Ledger]) -> None:
    plan = simulated()
    ledger = create(plan)
    mean = SimulatedMechanism(plan).release(total_of(plan), reserved(ledger))
    assert type(mean) is SimulatedMean and not isinstance(mean, PrivateMean)
    assert not issubclass(SimulatedMean, PrivateMean)
    with pytest.raises(PlanError, match="no mean under the plan"):
        read_release(plan, ledger.released(0) or b"")
    with pytest.raises(PlanError, match="SimulatedNoise"):
        CentralMechanism(plan)
    with pytest.raises(ValueError, match="read-only"):
        mean.vector[0] = 0


def test_the_order_of_a_round_is_that_of_a_private_one(
    create: Callable[[PrivacyPlan], Ledger],
) -> None:
    plan = simulated()
    ledger, mechanism, total = create(plan), SimulatedMechanism(plan), total_of(plan)
    with pytest.raises(PlanError, match="not drawn"):
        mechanism.release(total, ledger.reserve(0))
    reservation = reserved(ledger)
    with pytest.raises(NormError):
        mechanism.release(IntSum(total.vector, plan.grid + 1), reservation)
    with pytest.raises(ShapeError):
        mechanism.release(IntSum(np.zeros(3, np.int64), plan.grid), reservation)
    vector: NDArray[np.int64] = total.vector
    with pytest.raises(PlanError, match="ndarray"):
        mechanism.release(vector, reservation)  # type: ignore[arg-type]
    assert not reservation.drawn
    mechanism.release(total, reservation)
    assert ledger.spent == {plan.event: 2}
    with pytest.raises(PlanError):
        mechanism.release(total, reservation)
    with pytest.raises(ReservationError, match="another plan"):
        mechanism.release(total, reserved(create(simulated(rounds=4))))
    with pytest.raises(PlanError, match="SimulatedNoise"):
        SimulatedMechanism(plans.client())
