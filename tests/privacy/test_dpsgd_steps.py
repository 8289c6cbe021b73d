"""Records are drawn for each step, and their sum is seen only once, and under its noise."""

from __future__ import annotations

import copy
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedcore.entropy import SeededEntropy
from fedcore.errors import (
    FedcoreError,
    NormError,
    PlanError,
    ReservationError,
    ShapeError,
)
from fedcore.privacy.csprng import Stream
from fedcore.privacy.dpsgd import NoisySteps, RecordSum, draw_records, require_steps
from fedcore.privacy.ledger import Ledger
from fedcore.privacy.mechanisms import ShareAdder, SharedMechanism
from fedcore.privacy.noise import NoiseShares
from fedcore.privacy.plan import PrivacyPlan
from fedcore.privacy.quantise import decode
from fedcore.privacy.sampler import rounded_gaussian
from fedcore.privacy.sampling import FixedSize, Poisson, TruncatedPoisson, Uncontrolled
from fedcore.privacy.units import Adjacency, Unit
from fedcore.privacy.values import IntSum, NoisySum
from tests.privacy import plans
from tests.privacy.releases import opened

FROZEN = b"frozen steps"


@pytest.fixture
def create(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Ledger]]:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    made: list[Ledger] = []

    def new(plan: PrivacyPlan) -> Ledger:
        key = bytes(32) if isinstance(plan.sampling, Uncontrolled) else None
        made.append(Ledger.create(tmp_path / str(len(made)), plan, participation_key=key))
        return made[-1]

    yield new
    for ledger in made:
        ledger.close()


def test_a_step_is_the_decoded_sum_with_its_noise(create: Callable[..., Ledger]) -> None:
    plan = plans.record()
    ledger = create(plan)
    steps = NoisySteps(plan, ledger.reserve(0), entropy=SeededEntropy(FROZEN))
    stream = Stream(SeededEntropy(FROZEN))
    source = np.random.default_rng(0)
    for taken in range(2):
        drawn = steps.draw(100)
        assert isinstance(plan.sampling, Poisson)
        assert np.array_equal(drawn, plan.sampling.draw(100, stream=stream))
        found = RecordSum(plan)
        found.add(source.normal(size=(drawn.size, 6)))
        gradient = steps.step(found.total())
        noise = rounded_gaussian(plan.variance, 6, stream=stream)
        expected = decode(
            found.total().vector + noise,
            clipping_norm=plan.clipping_norm,
            grid_steps=plan.grid,
            denominator=plan.denominator,
        )
        assert np.array_equal(gradient, expected) and steps.taken == taken + 1
    receipt = steps.release(b"model")
    assert receipt.round == 0 and ledger.released(0) == b"model"
    assert ledger.spent == {plan.event: 1}


def test_more_steps_than_were_paid_for_are_not_taken(create: Callable[..., Ledger]) -> None:
    plan = plans.record()
    ledger = create(plan)
    reservation = ledger.reserve(0)
    steps = NoisySteps(plan, reservation)
    nothing = IntSum(np.zeros(6, np.int64), plan.grid)
    for _ in range(2):
        steps.draw(100)
        steps.step(nothing)
    with pytest.raises(ReservationError, match="step 3 of 2"):
        steps.draw(100)
    with pytest.raises(ReservationError):  # nor by another object with the same reservation
        NoisySteps(plan, reservation).draw(100)
    with pytest.raises(PlanError, match="not drawn"):
        steps.step(nothing)
    steps.release(b"")
    with pytest.raises(ReservationError):
        steps.release(b"again")


def test_a_step_is_drawn_for_once_and_used_once(create: Callable[..., Ledger]) -> None:
    plan = plans.record()
    steps = NoisySteps(plan, create(plan).reserve(0))
    nothing = IntSum(np.zeros(6, np.int64), plan.grid)
    with pytest.raises(PlanError, match="not drawn"):
        steps.step(nothing)
    steps.draw(100)
    with pytest.raises(ReservationError, match="a second time"):
        steps.draw(100)
    steps.step(nothing)
    with pytest.raises(PlanError, match="not drawn"):
        steps.step(nothing)


@pytest.mark.parametrize(
    ("total", "error"),
    [
        (IntSum(np.zeros(6, np.int64), 2**20), NormError),
        (IntSum(np.zeros(7, np.int64), 2**24), ShapeError),
        (np.zeros(6, np.int64), PlanError),
        (NoisySum(np.zeros(6, np.int64), 4), PlanError),
    ],
)
def test_a_step_takes_only_a_sum_of_the_plan(
    create: Callable[..., Ledger], total: Any, error: type[FedcoreError]
) -> None:
    plan = plans.record()
    steps = NoisySteps(plan, create(plan).reserve(0))
    steps.draw(100)
    with pytest.raises(error):
        steps.step(total)
    assert steps.taken == 0
    steps.step(IntSum(np.zeros(6, np.int64), plan.grid))


def test_nothing_is_released_or_taken_back_out_of_turn(create: Callable[..., Ledger]) -> None:
    plan = plans.record()
    ledger = create(plan)
    reservation = ledger.reserve(0)
    steps = NoisySteps(plan, reservation)
    with pytest.raises(ReservationError):
        steps.release(b"before any step")
    steps.draw(100)
    with pytest.raises(ReservationError):
        reservation.void("too late")
    other = create(plans.record(rounds=4)).reserve(0)
    with pytest.raises(ReservationError, match="another plan"):
        NoisySteps(plan, other)


@pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy, pickle.dumps])
def test_noisy_steps_have_no_twin(create: Callable[..., Ledger], twin: Callable[..., Any]) -> None:
    """Each would show the sum of one draw under a noise of its own."""
    plan = plans.record()
    steps = NoisySteps(plan, create(plan).reserve(0))
    steps.draw(100)
    with pytest.raises(ReservationError, match="a NoisySteps is to be copied"):
        twin(steps)


def test_of_threads_that_take_one_step_one_takes_it(create: Callable[..., Ledger]) -> None:
    plan = plans.record(steps=1, rounds=300, population=100, epsilon=1e6)
    ledger, nothing = create(plan), IntSum(np.zeros(6, np.int64), plan.grid)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(2) as pool:
            for index in range(300):
                steps = NoisySteps(plan, ledger.reserve(index))
                steps.draw(100)
                tried = [pool.submit(steps.step, nothing) for _ in range(2)]
                assert [isinstance(one.exception(), PlanError) for one in tried].count(True) == 1
                steps.release(b"")
    finally:
        sys.setswitchinterval(interval)


def test_what_only_looks_like_a_reservation_pays_for_nothing() -> None:
    plan = plans.record()

    class Free:
        plan_digest, round, event = plan.digest, 0, plan.event

        def mark_drawn(self) -> None:
            """Nobody is charged."""

    forged: Any = Free()
    with pytest.raises(ReservationError, match="paid for by a Free"):
        NoisySteps(plan, forged)


def test_a_forked_process_takes_no_step(create: Callable[..., Ledger]) -> None:
    plan = plans.record()
    steps = NoisySteps(plan, create(plan).reserve(0))
    steps.draw(100)
    nothing = IntSum(np.zeros(6, np.int64), plan.grid)
    child = os.fork()
    if child == 0:
        refused = 0
        for call in (lambda: steps.step(nothing), lambda: steps.release(b"")):
            try:
                call()
            except ReservationError:
                refused += 1
        os._exit(0 if refused == 2 else 1)
    assert os.waitpid(child, 0)[1] == 0
    steps.step(nothing)


ELSEWHERE: dict[str, dict[str, Any]] = {
    "shares": {"noise": NoiseShares(5, 4, 1)},
    "a fixed size": {"sampling": FixedSize(10, 100), "adjacency": Adjacency.REPLACE_ONE},
    "a truncated sample": {
        "sampling": TruncatedPoisson(2**31, 60, 100),
        "adjacency": Adjacency.ZERO_OUT,
    },
    "whoever comes": plans.OPENLY,
    "clients": {"unit": Unit.CLIENT, "steps": 1},
}


@pytest.mark.parametrize("case", ELSEWHERE)
def test_a_plan_that_one_holder_cannot_follow_is_refused_before_anything_is_spent(
    create: Callable[..., Ledger], case: str
) -> None:
    plan = plans.record(**ELSEWHERE[case])
    with pytest.raises(PlanError) as found:
        require_steps(plan)
    assert found.value.why and found.value.fix
    reservation = create(plan).reserve(0)
    with pytest.raises(PlanError):
        NoisySteps(plan, reservation)
    reservation.void("the plan is another's")


def test_records_are_drawn_by_coins_of_their_own() -> None:
    plan = plans.record()
    drawn = draw_records(plan, 90, stream=Stream(SeededEntropy(FROZEN)))
    assert isinstance(plan.sampling, Poisson)
    again = plan.sampling.draw(90, stream=Stream(SeededEntropy(FROZEN)))
    assert np.array_equal(drawn, again) and 0 < drawn.size < 90
    for case in ("a fixed size", "a truncated sample", "whoever comes", "clients"):
        with pytest.raises(PlanError):
            draw_records(plans.record(**ELSEWHERE[case]), 90, stream=Stream())


def test_more_records_than_were_planned_for_are_not_drawn_from(
    create: Callable[..., Ledger],
) -> None:
    plan = plans.record()
    reservation = create(plan).reserve(0)
    with pytest.raises(PlanError, match="more records than the 100") as found:
        NoisySteps(plan, reservation).draw(12345)
    assert "12345" not in str(found.value)  # how many there are is nobody's business
    assert not reservation.drawn


def test_many_holders_take_a_step_together(create: Callable[..., Ledger]) -> None:
    plan = plans.record(noise=NoiseShares(5, 4, 1, limit=2**24), steps=1)
    source = np.random.default_rng(3)
    sums, sent = [], []
    for holder in range(5):
        drawn = draw_records(plan, 20, stream=Stream())
        found = RecordSum(plan)
        found.add(source.normal(size=(drawn.size, 6)))
        sums.append(found.total().vector)
        entropy = SeededEntropy(b"%d" % holder)
        sent.append(ShareAdder(plan, entropy=entropy).add(found.total()))
    total = NoisySum(np.sum(sent, axis=0), 5)
    mean = opened(SharedMechanism(plan), total, create(plan).reserve(0))
    exact = np.sum(sums, axis=0) / (plan.grid * plan.denominator)
    deviation = 1.5 * (5 / 3) ** 0.5 / plan.denominator
    assert 0 < np.abs(mean.vector - exact).max() < 6 * deviation
