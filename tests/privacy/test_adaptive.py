"""Adaptive clipping: one event with its count, the norm that was sent, and the right direction."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from fedcore.errors import DtypeError, PlanError, ShapeError
from fedcore.privacy.adaptive import Adaptive, QuantileState
from fedcore.privacy.clipping import LARGEST_NORM, SMALLEST_NORM
from fedcore.privacy.codec import from_json, to_json
from fedcore.privacy.quantise import quantise
from tests.variants import mostly_slow

ONE = Fraction(1)
GRID = 2**24
Rule = Callable[[QuantileState, int], float]


def state_of(norm: Fraction | float, *, cohort: int = 100, **terms: Any) -> QuantileState:
    return Adaptive(norm, cohort, **terms).start(noise_multiplier=ONE, grid_steps=GRID)


def square_of(vector: NDArray[np.int64]) -> int:
    return sum(value * value for value in vector.tolist())


@given(
    st.fractions(Fraction(1, 100), 50, max_denominator=10_000),
    st.fractions(Fraction(1, 100), 100, max_denominator=10_000),
    st.integers(1, 2**26),
)
def test_update_and_count_together_have_the_noise_multiplier_asked_for(
    z: Fraction, count_noise: Fraction, grid: int
) -> None:
    assume(z < 2 * count_noise)
    rule = Adaptive(1, 100, count_noise=count_noise)
    exact = z**2 / (1 - (z / (2 * count_noise)) ** 2)
    assert exact <= rule.update_noise(z) ** 2 <= exact * (1 + Fraction(1, 2**30))
    variance = (rule.update_noise(z) * grid) ** 2
    try:
        step = rule.count_step(z, grid)
    except PlanError:
        assert rule.update_noise(z) * grid < 2 * count_noise
        return
    assert z**2 * (grid**2 + step**2) <= variance
    # The step is the largest that this noise pays for, up to the rounding of the noise.
    assert z**2 * (grid**2 + (step + 2) ** 2) > variance * (1 - Fraction(1, 2**30))
    # The noise on the count is what was asked for, up to the rounding of the step.
    assert variance / Fraction(2 * step) ** 2 >= count_noise**2
    assert variance / Fraction(2 * step + 2) ** 2 <= count_noise**2


def test_the_noise_on_the_update_is_that_of_the_published_formula() -> None:
    noise = Adaptive(0.1, 100).update_noise(ONE)
    assert math.isclose(noise, (1 - 0.1**2) ** -0.5, rel_tol=1e-11)
    assert f"{float(noise):.5f}" == "1.00504"


def updates() -> st.SearchStrategy[NDArray[Any]]:
    values = st.floats(-3, 3) | hnp.from_dtype(np.dtype(np.float64))
    return hnp.arrays(np.float64, 4, elements=values, fill=st.nothing())


@given(updates(), updates(), st.floats(1e-3, 1e3))
def test_neighbours_differ_by_the_joint_sensitivity(
    one: NDArray[Any], other: NDArray[Any], norm: float
) -> None:
    state = state_of(norm)
    bound = GRID**2 + state.count_step**2
    first, second = state.quantise(one), state.quantise(other)
    assert square_of(first.vector) <= bound
    assert square_of(first.vector - second.vector) <= 4 * bound
    assert (state.joint_grid_steps - 1) ** 2 < bound <= state.joint_grid_steps**2
    assert first.grid_steps == state.joint_grid_steps


@given(updates(), st.floats(1e-3, 1e3), st.fractions(0, 1))
def test_the_count_says_whether_the_update_was_clipped_and_changes_nothing_of_it(
    update: NDArray[Any], norm: float, weight: Fraction
) -> None:
    state = state_of(norm)
    found = state.quantise(update, weight=weight).vector
    alone = quantise(update, clipping_norm=norm, grid_steps=GRID, weight=weight).vector
    assert (found[:-1] == alone).all()
    if not np.isfinite(update).all():
        assert not found.any()
        return
    square = sum((Fraction(value) ** 2 for value in update.tolist()), Fraction(0))
    if abs(square - Fraction(norm) ** 2) > Fraction(norm) ** 2 / 2**46:
        assert found[-1] == (
            state.count_step if square < Fraction(norm) ** 2 else -state.count_step
        )


def ours(state: QuantileState, count: int) -> float:
    return float(state.next(count).norm)


def flower(state: QuantileState, count: int) -> float:
    """Flower's `_geometric_update`: the same sign, on the fraction that was clipped."""
    clipped = 1 - state.unclipped(count)
    surplus = clipped - float(state.rule.target_quantile)
    return float(state.norm) * math.exp(-float(state.rule.learning_rate) * surplus)


def after(rounds: int, move: Rule, start: QuantileState, *, spread: float, seed: int) -> float:
    """The norm after so many rounds on lengths of median 1, with the noise of the mechanism."""
    source, state, cohort = np.random.default_rng(seed), start, start.rule.denominator
    sigma = float(start.rule.update_noise(start.noise_multiplier)) * start.grid_steps
    for _ in range(rounds):
        lengths = np.exp(spread * source.standard_normal(cohort))
        whole = int((lengths <= float(state.norm)).sum())
        count = (2 * whole - cohort) * state.count_step + round(sigma * source.standard_normal())
        norm = min(max(Fraction(move(state, count)), SMALLEST_NORM), LARGEST_NORM)
        state = dataclasses.replace(state, norm=norm)
    return float(state.norm)


def reaches(move: Rule, start: float, *, spread: float, cohort: int) -> bool:
    """Whether sixty rounds lead to within a tenth of the median."""
    found = after(60, move, state_of(start, cohort=cohort), spread=spread, seed=cohort)
    return abs(found - 1) <= 0.1


@pytest.mark.parametrize("start", [0.01, 0.1, 0.5, 2.0, 10.0, 100.0])
@pytest.mark.parametrize("spread", mostly_slow([0.25, 0.1, 0.5]))
@pytest.mark.parametrize("cohort", [100, 1000])
def test_the_norm_reaches_the_median_length_in_sixty_rounds(
    start: float, spread: float, cohort: int
) -> None:
    assert reaches(ours, start, spread=spread, cohort=cohort)


@pytest.mark.parametrize("start", [0.01, 0.1, 0.5, 2.0, 10.0, 100.0])
def test_the_rule_that_counts_clipped_updates_with_that_sign_runs_away(start: float) -> None:
    assert not reaches(flower, start, spread=0.25, cohort=100)


@pytest.mark.parametrize("quantile", [0.3, 0.7, 0.9])
def test_the_norm_settles_at_other_quantiles_too(quantile: float) -> None:
    start = state_of(1.0, cohort=1000, target_quantile=quantile)
    found = after(200, ours, start, spread=0.25, seed=7)
    share = 0.5 * (1 + math.erf(math.log(found) / (0.25 * math.sqrt(2))))
    assert abs(share - quantile) < 0.05


@pytest.mark.parametrize("sign", [1, -1])
def test_the_norm_stays_in_its_public_range_whatever_the_counts(sign: int) -> None:
    state = state_of(1.0, learning_rate=1)
    for _ in range(200):
        state = state.next(sign * 10**30)
    assert state.norm == (SMALLEST_NORM if sign > 0 else LARGEST_NORM)
    mean = state.mean(np.array([100 * GRID, -1, 0]))
    assert np.isfinite(mean).all() and mean[0] > 0 > mean[1]


@given(st.integers(-(10**12), 10**12), st.floats(1e-3, 1e3))
def test_a_round_moves_the_norm_by_the_learning_rate_at_most(count: int, norm: float) -> None:
    state = state_of(norm)
    assert abs(math.log(ours(state, count) / norm)) <= 0.1 + 1e-12


def test_the_norm_falls_where_too_few_are_clipped_and_rises_where_too_many_are() -> None:
    state = state_of(1.0)
    everyone = 100 * state.count_step
    assert ours(state, everyone) == math.exp(-0.1)
    assert ours(state, -everyone) == math.exp(0.1)
    assert ours(state, 0) == 1


def test_clients_that_do_not_reply_do_not_move_the_norm_off_the_median() -> None:
    assert state_of(1.0).unclipped(0) == 0.5


def test_a_round_is_decoded_by_the_norm_that_was_sent() -> None:
    state = state_of(2.0)
    update = np.array([0.6, -0.8])
    total = 100 * state.quantise(update).vector
    later = state.next(int(total[-1]))
    assert later.norm < 2 == state.norm
    assert np.allclose(state.mean(total), update, rtol=1e-6)
    assert not np.allclose(later.mean(total), update, rtol=1e-2)
    assert state.quantise(update).vector.tobytes() != later.quantise(update).vector.tobytes()


def test_rule_and_state_survive_their_json() -> None:
    rule = Adaptive(0.1, 100, target_quantile=0.7)
    state = rule.start(noise_multiplier=ONE, grid_steps=GRID).next(10**8)
    assert from_json(to_json(rule), Adaptive) == rule
    again = from_json(to_json(state), QuantileState)
    assert again == state and again.norm == state.norm and again.next(5) == state.next(5)


def test_a_state_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        state_of(1.0).norm = Fraction(2)  # type: ignore[misc]


@pytest.mark.parametrize(
    "terms",
    [
        {"initial_norm": 0},
        {"initial_norm": math.nan},
        {"denominator": 0},
        {"denominator": 10.0},
        {"count_noise": 0},
        {"count_noise": math.inf},
        {"target_quantile": 0},
        {"target_quantile": 1},
        {"learning_rate": -0.2},
        {"learning_rate": 2},
    ],
)
def test_terms_that_no_plan_has_are_refused(terms: Any) -> None:
    with pytest.raises(PlanError) as refused:
        Adaptive(**({"initial_norm": 1, "denominator": 100} | terms))
    ((name, value),) = terms.items()
    said = "clipping norm" if name == "initial_norm" else f"{name} = {value!r}"
    assert said in refused.value.what


def test_a_count_that_takes_the_whole_budget_is_refused() -> None:
    with pytest.raises(PlanError, match="budget"):
        Adaptive(1, 100, count_noise=0.5).start(noise_multiplier=ONE, grid_steps=GRID)


def test_a_grid_too_coarse_to_count_on_is_refused() -> None:
    with pytest.raises(PlanError, match="coarse"):
        Adaptive(1, 100).start(noise_multiplier=ONE, grid_steps=4)


def test_what_is_no_update_is_refused() -> None:
    with pytest.raises(DtypeError):
        state_of(1).quantise(np.zeros(3, np.int64))
    with pytest.raises(ShapeError):
        state_of(1).quantise(np.zeros((3, 1)))
    with pytest.raises(ShapeError):
        state_of(1).mean(np.zeros((3, 1), np.int64))
