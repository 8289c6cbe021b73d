"""Records are clipped one by one, and their sum is on the grid of the plan."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from fedcore.autograd.per_example import clipped_sum
from fedcore.errors import (
    DtypeError,
    FedcoreError,
    NormError,
    PlanError,
    ShapeError,
)
from fedcore.privacy.clipping import Flat, PerLayer
from fedcore.privacy.dpsgd import RecordSum
from fedcore.privacy.plan import Grade
from fedcore.privacy.quantise import quantise_rows
from fedcore.privacy.values import squared_norm
from tests.privacy import plans

ANYTHING = st.floats(-2, 2) | st.sampled_from([np.nan, np.inf, -np.inf, 1e30, -1e200, 1e-300, 0.0])


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
        lambda: RecordSum(plans.record(grade=Grade.SUM)).add_clipped(np.zeros(6, np.float32)),
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
