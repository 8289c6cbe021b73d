"""Records are clipped one by one, drawn for each step, and seen only under its noise."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from fedcore.autograd.per_example import clipped_sum
from fedcore.entropy import SeededEntropy
from fedcore.errors import (
    DtypeError,
    FedcoreError,
    NormError,
    PlanError,
    ReservationError,
    ShapeError,
)
from fedcore.privacy.clipping import Flat, PerLayer
from fedcore.privacy.csprng import Stream
from fedcore.privacy.dpsgd import NoisySteps, RecordSum, draw_records, require_steps
from fedcore.privacy.ledger import Ledger
from fedcore.privacy.mechanisms import ShareAdder, SharedMechanism
from fedcore.privacy.noise import NoiseShares
from fedcore.privacy.plan import Grade, PrivacyPlan
from fedcore.privacy.quantise import decode, quantise_rows
from fedcore.privacy.sampler import rounded_gaussian
from fedcore.privacy.sampling import FixedSize, Poisson, TruncatedPoisson, Uncontrolled
from fedcore.privacy.units import Adjacency, Unit
from fedcore.privacy.values import IntSum, NoisySum, squared_norm
from tests.privacy import plans

FROZEN = b"frozen steps"
ANYTHING = st.floats(-2, 2) | st.sampled_from([np.nan, np.inf, -np.inf, 1e30, -1e200, 1e-300, 0.0])


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


# Sums


@given(
    hnp.arrays(np.float64, st.tuples(st.integers(0, 9), st.just(6)), elements=ANYTHING),
    st.lists(st.integers(0, 9), max_size=3),
    st.sampled_from([Flat(Fraction(7, 10)), PerLayer((1, Fraction(1, 3)), (2, 4))]),
)
def test_an_exact_sum_is_that_of_its_rows_however_they_are_gathered(
    gradients: Any, cuts: list[int], rule: Any
) -> None:
    plan = plans.record(clipping=rule)
    whole = quantise_rows(gradients, clipping=rule, grid_steps=plan.grid)
    found = RecordSum(plan)
    for part in np.split(gradients, sorted(cuts)):
        found.add(part)
    total = found.total()
    assert total.grid_steps == plan.grid and np.array_equal(total.vector, whole)


@given(
    hnp.arrays(np.float64, (4, 6), elements=ANYTHING), hnp.arrays(np.float64, 6, elements=ANYTHING)
)
def test_one_record_moves_an_exact_sum_by_no_more_than_the_grid(rows: Any, one: Any) -> None:
    plan = plans.record()

    def total(gradients: Any) -> NDArray[np.int64]:
        found = RecordSum(plan)
        found.add(gradients)
        return found.total().vector

    moved = total(np.vstack([rows[:2], one[None], rows[2:]])) - total(rows)
    assert squared_norm(moved) <= plan.grid**2 == plan.squared_sensitivity


def test_a_sum_that_was_taken_does_not_change_afterwards() -> None:
    for grade in Grade:
        plan = plans.record(grade=grade)
        found = RecordSum(plan)
        before = found.total()
        if grade is Grade.EXACT:
            found.add(np.ones((2, 6)))
        else:
            found.add_clipped(np.full(6, 0.1))
        assert not before.vector.any() and found.total().vector.any()


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 60),
    st.integers(1, 17),
    st.sampled_from([Fraction(1), Fraction(7, 10), Fraction(10**5, 3)]),
    st.lists(st.sampled_from([np.nan, np.inf, 1e30, 1e200, -1e308, 0.0, 1e-310]), max_size=6),
)
@example(1, 60, 1, Fraction(7, 10), [])
@example(7, 59, 17, Fraction(10**5, 3), [1e30, np.nan])
def test_one_record_moves_a_sum_that_is_quantised_once_by_no_more_than_declared(
    seed: int, count: int, chunk: int, norm: Fraction, odd: list[float]
) -> None:
    """Gradients in float64, in parts whose bounds shift when a record is put in front."""
    plan = plans.record(grade=Grade.SUM, clipping=Flat(norm), dimension=6, population=60)
    source = np.random.default_rng(seed)
    records = source.normal(size=(count, 6)) * float(norm) * source.choice([0.1, 1, 100])
    for place, value in enumerate(odd[:count]):
        records[place, place] = value
    at_most = float(norm) if Fraction(float(norm)) <= norm else np.nextafter(float(norm), 0)
    summed = clipped_sum(lambda theta, x: (theta * x).sum(), clip_norm=at_most)

    def total(rows: Any) -> NDArray[np.int64]:
        found = RecordSum(plan)
        for start in range(0, len(rows), chunk):
            with np.errstate(all="ignore"):
                found.add_clipped(summed(np.zeros(6), rows[start : start + chunk])[0].numpy())
        return found.total().vector

    new = source.normal(size=6) * float(norm) * 10
    moved = total(np.vstack([new[None], records])) - total(records)
    assert squared_norm(moved) <= plan.squared_sensitivity
    if not odd and count == 0:
        assert squared_norm(moved) >= (plan.grid - 7) ** 2  # it is used up


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e9])
def test_a_sum_that_clipped_gradients_cannot_have_is_refused(value: float) -> None:
    found = RecordSum(plans.record(grade=Grade.SUM))
    total = np.zeros(6)
    total[3] = value
    with pytest.raises(NormError) as refused:
        found.add_clipped(total)
    assert refused.value.why and refused.value.fix
    assert not found.total().vector.any()


WRONG: dict[str, tuple[type[FedcoreError], Callable[[], object]]] = {
    "records under a client's plan": (PlanError, lambda: RecordSum(plans.client())),
    "rows for a sum": (
        PlanError,
        lambda: RecordSum(plans.record(grade=Grade.SUM)).add(np.zeros((1, 6))),
    ),
    "a sum for rows": (PlanError, lambda: RecordSum(plans.record()).add_clipped(np.zeros(6))),
    "a sum in float32": (
        DtypeError,
        lambda: RecordSum(plans.record(grade=Grade.SUM)).add_clipped(
            np.zeros(6, np.float32)
        ),
    ),
    "a sum of another length": (
        ShapeError,
        lambda: RecordSum(plans.record(grade=Grade.SUM)).add_clipped(np.zeros(7)),
    ),
    "rows of another length": (
        ShapeError,
        lambda: RecordSum(plans.record()).add(np.zeros((2, 7))),
    ),
    "rows that would be spread over all coordinates": (
        ShapeError,
        lambda: RecordSum(plans.record()).add(np.ones((2, 1))),
    ),
    "a row for rows": (ShapeError, lambda: RecordSum(plans.record()).add(np.zeros(6))),
    "integers for rows": (
        DtypeError,
        lambda: RecordSum(plans.record()).add(np.zeros((2, 6), int)),
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_the_plan_is_not_added(case: str) -> None:
    error, call = WRONG[case]
    with pytest.raises(error) as found:
        call()
    assert found.value.why and found.value.fix


# Steps


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
    "whoever comes": {"sampling": Uncontrolled(1, 3)},
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
    mean = SharedMechanism(plan).release(NoisySum(np.sum(sent, axis=0), 5), create(plan).reserve(0))
    exact = np.sum(sums, axis=0) / (plan.grid * plan.denominator)
    deviation = 1.5 * (5 / 3) ** 0.5 / plan.denominator
    assert 0 < np.abs(mean.vector - exact).max() < 6 * deviation
