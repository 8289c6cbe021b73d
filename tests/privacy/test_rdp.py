"""What follows from the definition of privacy holds for every curve, and budgets stop in time."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fedcore.errors import AccountantError, ArgumentError, ShapeError
from fedcore.privacy.events import (
    Event,
    FixedSizeEvent,
    GaussianEvent,
    PoissonEvent,
    RepeatedEvent,
    SharesEvent,
    SkellamEvent,
    TruncatedPoissonEvent,
)
from fedcore.privacy.rdp import ORDERS, compose, epsilon, max_rounds, rdp
from fedcore.privacy.units import Adjacency
from tests.privacy.curves import ADD, NOISE, RATES, REPLACE, ZERO, parts, sampled
from tests.random_examples import thorough


def events() -> st.SearchStrategy[tuple[Event, Adjacency]]:
    gaussian = st.builds(GaussianEvent, NOISE)
    poisson = st.builds(PoissonEvent, RATES, gaussian)
    truncated = st.builds(
        lambda rate, size, more, event: TruncatedPoissonEvent(rate, size, size + more, event),
        RATES, st.integers(1, 500), st.integers(0, 10**6), gaussian,
    )  # fmt: skip
    fixed = st.builds(
        lambda size, more, event: FixedSizeEvent(size, size + more, event),
        st.integers(1, 500), st.integers(0, 10**6), gaussian,
    )  # fmt: skip
    anything = st.sampled_from(list(Adjacency))
    return (
        st.tuples(gaussian, anything)
        | st.tuples(poisson, st.sampled_from([ADD, ZERO]))
        | st.tuples(truncated, st.just(ZERO))
        | st.tuples(fixed, st.just(REPLACE))
    )


@given(events())
def test_a_curve_never_falls_with_the_order_nor_rises_above_the_whole(
    case: tuple[Event, Adjacency],
) -> None:
    event, adjacency = case
    curve = rdp(event, adjacency)
    assert curve.shape == (255,)
    assert curve.dtype == np.float64
    assert (curve > 0).all()
    if not isinstance(event, TruncatedPoissonEvent | FixedSizeEvent):  # These are only bounds.
        assert (np.diff(curve) >= -1e-9 * curve[1:]).all()
    whole = event if isinstance(event, GaussianEvent) else event.event
    assert (curve <= rdp(whole, adjacency) * (1 + 1e-9)).all()


@given(RATES, RATES, NOISE, NOISE, st.integers(1, 1000), st.integers(1, 1000))
def test_less_sampling_more_noise_and_fewer_rounds_never_cost_more(
    rate: int, other: int, noise: Fraction, louder: Fraction, count: int, more: int
) -> None:
    def cost(rate: int, noise: Fraction, count: int) -> float:
        event = PoissonEvent(rate, GaussianEvent(noise))
        return epsilon(compose({event: count}, ADD), 1e-5)[0]

    low, high = sorted([rate, other])
    quiet, loud = sorted([noise, louder])
    few, many = sorted([count, more])
    least, slack = cost(low, loud, few), 1 + 1e-9
    assert least <= cost(high, loud, few) * slack + 1e-12
    assert least <= cost(low, quiet, few) * slack + 1e-12
    assert least <= cost(low, loud, many) * slack + 1e-12


@given(st.lists(events(), min_size=1, max_size=4), st.integers(1, 50))
@settings(max_examples=thorough(20))
def test_costs_add_up(cases: list[tuple[Event, Adjacency]], count: int) -> None:
    adjacency = cases[0][1]
    spend = {event: count for event, other in cases if other is adjacency}
    total = compose(spend, adjacency)
    expected = sum(count * rdp(event, adjacency) for event in spend)
    np.testing.assert_allclose(total, expected, rtol=1e-12)
    repeated = compose({RepeatedEvent(count, event): 1 for event in spend}, adjacency)
    np.testing.assert_allclose(repeated, expected, rtol=1e-9)
    assert (repeated >= total * (1 - 1e-15)).all()


def test_nothing_spent_is_nothing_lost() -> None:
    assert epsilon(compose({}, ADD), 1e-5) == (0.0, 2)
    assert epsilon(compose({sampled(0.01, 1): 0}, ADD), 1e-5) == (0.0, 2)


@pytest.mark.parametrize("order", [2, 8, 256])
def test_a_fixed_order_is_read_alone_and_never_better_than_the_best(order: int) -> None:
    curve = compose({sampled(0.01, 1): 1000}, ADD)
    found, used = epsilon(curve, 1e-5, order=order)
    best, where = epsilon(curve, 1e-5)
    assert used == order
    assert found >= best
    assert (found == best) == (order == where)


@pytest.mark.parametrize(
    ("spend", "adjacency", "expected"),
    [
        ({sampled(0.01, 1): 1000}, ADD, 2.10775),
        ({sampled(0.01, 1): 1000}, ZERO, 2.10775),
        ({sampled(0.04, "1.5"): 2250}, ADD, 7.32988),
        ({sampled(256 / 60000, "1.1"): 14062}, ADD, 2.59698),
        ({sampled(256 / 60000, "1.3"): 3515}, ADD, 0.954430),
        ({sampled(256 / 60000, "0.7"): 10546}, ADD, 6.37284),
        ({sampled(0.05, 2): 500}, ADD, 2.7749),
        ({FixedSizeEvent(10, 1000, GaussianEvent(Fraction(2))): 1000}, REPLACE, 3.57611),
        ({FixedSizeEvent(10, 1000, GaussianEvent(Fraction(4))): 1000}, REPLACE, 1.44530),
        ({GaussianEvent(Fraction(2)): 1}, REPLACE, 4.75273),
    ],
)
def test_golden_values(spend: dict[Event, int], adjacency: Adjacency, expected: float) -> None:
    assert epsilon(compose(spend, adjacency), 1e-5)[0] == pytest.approx(expected, rel=2e-5)


def test_the_budget_stops_at_the_exact_round() -> None:
    event = sampled(0.01, 1)
    assert epsilon(compose({event: 879}, ADD), 1e-5)[0] == pytest.approx(1.99962, abs=5e-6)
    assert epsilon(compose({event: 880}, ADD), 1e-5)[0] == pytest.approx(2.00052, abs=5e-6)
    assert max_rounds(event, adjacency=ADD, epsilon=2, delta=1e-5) == 879
    left = max_rounds(event, adjacency=ADD, epsilon=2, delta=1e-5, spent={event: 500})
    assert left == 379


@given(NOISE, st.floats(0.01, 20), st.sampled_from([None, 4]))
def test_one_round_more_than_the_most_is_too_many(
    noise: Fraction, budget: float, order: int | None
) -> None:
    event = GaussianEvent(noise)
    most = max_rounds(event, adjacency=ADD, epsilon=budget, delta=1e-6, order=order)
    assert epsilon(compose({event: most + 1}, ADD), 1e-6, order=order)[0] > budget
    if most:
        assert epsilon(compose({event: most}, ADD), 1e-6, order=order)[0] <= budget


def test_the_least_noise_there_is_protects_nothing() -> None:
    tiny = Fraction(1, 2**40)
    event = GaussianEvent(tiny)
    for sample, adjacency in [
        (event, ADD),
        (PoissonEvent(1, event), ADD),
        (FixedSizeEvent(1, 10**6, event), REPLACE),
        (TruncatedPoissonEvent(1, 5, 10**6, event), ZERO),
        (SkellamEvent(tiny**2, Fraction(1), 1), ADD),
        (SharesEvent(3, Fraction(1), 1 / tiny**2, 2**40), ADD),
        (SkellamEvent(tiny, 1 / tiny, 2**40), REPLACE),
    ]:
        assert epsilon(compose({sample: 3}, adjacency), 1e-5)[0] > 1e20


def test_the_most_noise_there_is_still_counts() -> None:
    huge = GaussianEvent(Fraction(2**40))
    for event, adjacency in [
        (huge, ADD),
        (PoissonEvent(1, huge), ADD),
        (FixedSizeEvent(1, 10**6, huge), REPLACE),
        (TruncatedPoissonEvent(1, 5, 10**6, huge), ZERO),
        (SkellamEvent(Fraction(2**80), Fraction(1), 1), ADD),
        (SharesEvent(2**40, Fraction(2**40), Fraction(1), 2**40), ADD),
    ]:
        assert (rdp(event, adjacency) > 0).all()
    assert max_rounds(huge, adjacency=ADD, epsilon=1, delta=1e-5) == 2**53
    assert epsilon(compose({huge: 10**400}, ADD), 1e-5)[0] == math.inf


def test_a_replacement_costs_as_half_the_noise() -> None:
    for whole, half in [
        (GaussianEvent(Fraction(2)), GaussianEvent(Fraction(1))),
        (
            SharesEvent(5, Fraction(9), Fraction(49), 8),
            SharesEvent(5, Fraction(9), Fraction(196), 8),
        ),
        (
            SkellamEvent(Fraction(900), Fraction(9), 100),
            SkellamEvent(Fraction(900), Fraction(36), 100),
        ),
    ]:
        np.testing.assert_array_equal(rdp(whole, REPLACE), rdp(half, ADD))
        np.testing.assert_array_equal(rdp(whole, ZERO), rdp(whole, ADD))


@pytest.mark.parametrize(
    ("event", "adjacency"),
    [
        (sampled(0.1, 1), REPLACE),
        (PoissonEvent(parts(0.1), SkellamEvent(Fraction(9), Fraction(1), 4)), REPLACE),
        (RepeatedEvent(3, sampled(0.1, 1)), REPLACE),
        (FixedSizeEvent(1, 10, GaussianEvent(Fraction(1))), ADD),
        (FixedSizeEvent(10, 10, GaussianEvent(Fraction(1))), ZERO),
        (TruncatedPoissonEvent(parts(0.1), 5, 10, GaussianEvent(Fraction(1))), ADD),
        (TruncatedPoissonEvent(parts(0.1), 5, 10, GaussianEvent(Fraction(1))), REPLACE),
        (SharesEvent(10, Fraction(1, 5), Fraction(1), 1), ADD),
    ],
)
def test_what_nobody_has_proven_is_refused(event: Event, adjacency: Adjacency) -> None:
    with pytest.raises(AccountantError):
        rdp(event, adjacency)


def test_curves_cannot_be_written_to() -> None:
    with pytest.raises(ValueError, match="read-only"):
        rdp(GaussianEvent(Fraction(1)), ADD)[0] = 0


def test_misuse_is_told_apart() -> None:
    curve = rdp(GaussianEvent(Fraction(1)), ADD)
    for delta in (0, 1, -1e-5, math.nan):
        with pytest.raises(ArgumentError):
            epsilon(curve, delta)
    for order in (1, 257, 2.5):
        with pytest.raises(ArgumentError):
            epsilon(curve, 1e-5, order=order)  # type: ignore[arg-type]
    with pytest.raises(ShapeError):
        epsilon(curve[:9], 1e-5)
    with pytest.raises(ArgumentError):
        compose({GaussianEvent(Fraction(1)): -1}, ADD)
    assert tuple(range(2, 257)) == ORDERS
