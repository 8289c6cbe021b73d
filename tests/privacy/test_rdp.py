"""The filter against brute force: adding up the probabilities never finds more than it says."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import assume, example, given, settings, strategies as st
from numpy.typing import NDArray

from fedcore.errors import AccountantError, ArgumentError, ShapeError
from fedcore.privacy.events import (
    RATE_UNIT,
    Event,
    FixedSizeEvent,
    GaussianEvent,
    PoissonEvent,
    RepeatedEvent,
    SharesEvent,
    SkellamEvent,
    TruncatedPoissonEvent,
)
from fedcore.privacy.rdp import ORDERS, _tau, compose, epsilon, max_rounds, rdp
from fedcore.privacy.rdp_sampled import _log_central_moments, _log_tail
from fedcore.privacy.units import Adjacency

ADD, ZERO, REPLACE = Adjacency.ADD_REMOVE, Adjacency.ZERO_OUT, Adjacency.REPLACE_ONE

NOISE = st.fractions(Fraction(3, 10), 20, max_denominator=1000)
RATES = st.integers(1, RATE_UNIT) | st.integers(RATE_UNIT // 1000, RATE_UNIT // 2)
QUIET = st.sampled_from([Fraction(1, 2), Fraction(4, 5), Fraction(1), Fraction(2), Fraction(5)])


def parts(rate: float) -> int:
    return round(rate * RATE_UNIT)


def sampled(rate: float, noise_multiplier: Any) -> PoissonEvent:
    return PoissonEvent(parts(rate), GaussianEvent(Fraction(noise_multiplier)))


def log_sum(logs: NDArray[np.float64]) -> float:
    return float(np.logaddexp.reduce(logs))


# Noise in one dimension, as logarithms of probabilities on -reach … reach.


def convolved(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    reach = len(first) // 2
    wide = np.full(3 * reach + reach + 1, -np.inf)
    wide[reach : 3 * reach + 1] = second
    return np.array(
        [log_sum(first + wide[i : i + 2 * reach + 1][::-1]) for i in range(2 * reach + 1)]
    )


def gaussian_shares(shares: int, variance: Fraction, reach: int) -> NDArray[np.float64]:
    x = np.arange(-reach, reach + 1)
    one = -(x**2) / (2 * float(variance))
    one -= log_sum(one)
    total = one
    for _ in range(shares - 1):
        total = convolved(total, one)
    return total


def skellam(variance: Fraction, reach: int) -> NDArray[np.float64]:
    half, j = float(variance) / 2, np.arange(400)
    factorials = np.array([math.lgamma(n + 1) for n in range(400 + reach)])
    logs = [
        log_sum((2 * j + k) * math.log(half) - factorials[j] - factorials[j + k])
        for k in range(reach + 1)
    ]
    tail = np.array(logs) - 2 * half
    return np.concatenate([tail[:0:-1], tail])


def divergences(
    noise: NDArray[np.float64], apart: int, rate: float, order: int
) -> tuple[float, float]:
    """Both Rényi divergences between the noise and its mixture with itself, moved by `apart`."""
    moved = np.concatenate([np.full(apart, -np.inf), noise])
    still = np.concatenate([noise, np.full(apart, -np.inf)])
    # Where one of the two was cut off, leave the point out: this only lessens the sums.
    keep = np.isfinite(moved) & np.isfinite(still)
    moved, still = moved[keep], still[keep]
    mixed = moved if rate == 1 else np.logaddexp(math.log1p(-rate) + still, math.log(rate) + moved)
    there = log_sum(order * mixed + (1 - order) * still)
    back = log_sum(order * still + (1 - order) * mixed)
    return there / (order - 1), back / (order - 1)


@given(
    st.integers(1, 4),
    st.fractions(Fraction(1, 4), 4, max_denominator=20),
    st.integers(1, 3),
    st.sampled_from([1e-3, 0.01, 0.1, 0.3, 0.7, 0.95, 1.0]),
    st.sampled_from([2, 3, 4, 7, 12]),
)
@example(3, Fraction(9), 3, 0.01, 7)
def test_shares_never_leak_more_than_their_curve(
    shares: int, variance: Fraction, apart: int, rate: float, order: int
) -> None:
    spread = math.sqrt(shares * variance)
    noise = gaussian_shares(shares, variance, reach=math.ceil(order * apart + 14 * spread))
    event = SharesEvent(shares, variance, Fraction(apart**2), dimension=1)
    curve = rdp(PoissonEvent(parts(rate), event), ADD)
    there, back = divergences(noise, apart, parts(rate) / RATE_UNIT, order)
    bound = curve[order - 2]
    assert back <= there * (1 + 1e-9) + 1e-12
    assert there <= bound * (1 + 1e-9) + 1e-12
    if shares == 1 or variance >= 4:
        assert there >= bound * 0.98 - 1e-12


@given(
    st.fractions(Fraction(1, 2), 12, max_denominator=20),
    st.integers(1, 3),
    st.sampled_from([1e-3, 0.01, 0.1, 0.3, 0.7, 0.95, 1.0]),
    st.sampled_from([2, 3, 4, 7, 12]),
)
@example(Fraction(60), 2, 0.05, 4)
def test_skellam_noise_never_leaks_more_than_its_curve(
    variance: Fraction, apart: int, rate: float, order: int
) -> None:
    noise = skellam(variance, reach=math.ceil(order * apart + 14 * math.sqrt(variance)) + 20)
    event = SkellamEvent(variance, squared_sensitivity=Fraction(apart**2), dimension=1)
    there, back = divergences(noise, apart, parts(rate) / RATE_UNIT, order)
    bound = rdp(PoissonEvent(parts(rate), event), ADD)[order - 2]
    assert back <= there * (1 + 1e-9) + 1e-12
    assert there <= bound * (1 + 1e-9) + 1e-12
    if variance >= 50:
        assert there >= bound * 0.9


@given(RATES, QUIET, st.sampled_from(["gaussian", "shares", "skellam"]))
def test_the_curve_of_a_sample_is_below_what_holds_for_any_mechanism(
    rate: int, noise_multiplier: Fraction, kind: str
) -> None:
    """Zhu and Wang 2019, Theorem 5, asks nothing of the mechanism."""
    steps = 100
    event = {
        "gaussian": GaussianEvent(noise_multiplier),
        "shares": SharesEvent(10, (steps * noise_multiplier) ** 2 / 10, Fraction(steps**2), 1000),
        "skellam": SkellamEvent(
            (steps * noise_multiplier) ** 2, Fraction(steps**2), dimension=1000
        ),
    }[kind]
    curve, q = rdp(event, ADD), rate / RATE_UNIT
    assume(rate < RATE_UNIT)
    found = rdp(PoissonEvent(rate, event), ADD)
    for order in (2, 3, 5, 16, 40, 256):
        terms = [
            (order - 1) * math.log1p(-q) + math.log1p(q * (order - 1)),
            math.log(math.comb(order, 2)) + 2 * math.log(q) + (order - 2) * math.log1p(-q)
            + curve[0],
        ]  # fmt: skip
        for k in range(3, order + 1):
            likely = k * math.log(q) + (order - k) * math.log1p(-q)
            terms.append(math.log(3 * math.comb(order, k)) + likely + (k - 1) * curve[k - 2])
        general = log_sum(np.array(terms)) / (order - 1)
        assert found[order - 2] <= general * (1 + 1e-9) + 1e-12


@given(RATES, NOISE)
@example(1, Fraction(1, 100))
@example(1, Fraction(10**6))
@example(RATE_UNIT - 1, Fraction(1))
@example(parts(0.01), Fraction(1))
@settings(max_examples=5)
def test_a_poisson_curve_is_the_exact_one_and_never_below_it(
    rate: int, noise_multiplier: Fraction
) -> None:
    found = rdp(PoissonEvent(rate, GaussianEvent(noise_multiplier)), ADD)
    with mpmath.workdps(50):
        q, z = mpmath.mpf(rate) / RATE_UNIT, mpmath.mpf(noise_multiplier.numerator)
        z /= noise_multiplier.denominator
        for order in (2, 3, 17, 256):
            total = mpmath.fsum(
                mpmath.binomial(order, k)
                * q**k
                * (1 - q) ** (order - k)
                * mpmath.expm1(k * (k - 1) / (2 * z**2))
                for k in range(2, order + 1)
            )
            exact = mpmath.log1p(total) / (order - 1)
            assert exact <= mpmath.mpf(float(found[order - 2])) <= exact * (1 + 1e-6)


# Samples of three units in one dimension, by adding up all samples and integrating over the noise.


def outputs(
    values: tuple[float, ...], samples: dict[tuple[int, ...], float], spread: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    grid = np.linspace(-8 - 14 * spread, 8 + 14 * spread, 4001)
    density = np.zeros_like(grid)
    for chosen, likely in samples.items():
        centre = sum(values[unit] for unit in chosen)
        density += likely * np.exp(-((grid - centre) ** 2) / (2 * spread**2))
    return grid, density / (spread * math.sqrt(2 * math.pi))


def divergence(first: Any, second: Any, order: int) -> float:
    (grid, upper), (_, lower) = first, second
    keep = (upper > 1e-290) & (lower > 1e-290)
    with np.errstate(over="ignore"):
        logs = order * np.log(upper[keep]) + (1 - order) * np.log(lower[keep])
    return (log_sum(logs) + math.log(grid[1] - grid[0])) / (order - 1)


def truncated(population: int, rate: float, limit: int) -> dict[tuple[int, ...], float]:
    found: dict[tuple[int, ...], float] = {}
    for size in range(population + 1):
        for joined in itertools.combinations(range(population), size):
            likely = rate**size * (1 - rate) ** (population - size)
            kept = list(itertools.combinations(joined, min(size, limit)))
            for chosen in kept:
                found[chosen] = found.get(chosen, 0) + likely / len(kept)
    return found


VALUES = st.tuples(*[st.sampled_from([-1.0, -0.4, 0.0, 1.0])] * 3)


@given(
    VALUES,
    st.sampled_from([-1.0, 1.0]),
    st.sampled_from([0.01, 0.1, 0.4, 0.9, 1.0]),
    st.integers(1, 4),
    QUIET,
    st.sampled_from([2, 3, 5, 9]),
)
@example((-1.0, -1.0, -1.0), 1.0, 0.4, 1, Fraction(5), 9)
def test_a_truncated_sample_never_leaks_more_than_its_curve(
    others: tuple[float, ...],
    value: float,
    rate: float,
    limit: int,
    noise_multiplier: Fraction,
    order: int,
) -> None:
    event = TruncatedPoissonEvent(parts(rate), limit, 4, GaussianEvent(noise_multiplier))
    samples = truncated(4, parts(rate) / RATE_UNIT, limit)
    spread = float(noise_multiplier)
    there = outputs((value, *others), samples, spread)
    zeroed = outputs((0.0, *others), samples, spread)
    bound = rdp(event, ZERO)[order - 2] * (1 + 1e-6) + 1e-9
    assert divergence(there, zeroed, order) <= bound
    assert divergence(zeroed, there, order) <= bound


@given(VALUES, st.integers(1, 4), QUIET, st.sampled_from([2, 3, 5, 9]))
def test_a_sample_of_fixed_size_never_leaks_more_than_its_curve(
    others: tuple[float, ...], size: int, noise_multiplier: Fraction, order: int
) -> None:
    chosen = list(itertools.combinations(range(4), size))
    samples = dict.fromkeys(chosen, 1 / len(chosen))
    spread = float(noise_multiplier)
    one, other = (outputs((value, *others), samples, spread) for value in (1.0, -1.0))
    bound = rdp(FixedSizeEvent(size, 4, GaussianEvent(noise_multiplier)), REPLACE)[order - 2]
    assert divergence(one, other, order) <= bound * (1 + 1e-6) + 1e-9
    assert divergence(other, one, order) <= bound * (1 + 1e-6) + 1e-9
    if size == 4 and order <= 3:  # Beyond, the grid does not reach where the integral lies.
        assert divergence(one, other, order) >= bound * (1 - 1e-6)


def test_a_sample_that_is_never_cut_costs_what_a_poisson_sample_does() -> None:
    uncut = TruncatedPoissonEvent(parts(0.01), 500, 1000, GaussianEvent(Fraction(1)))
    difference = rdp(uncut, ZERO) - rdp(sampled(0.01, 1), ZERO)
    assert (np.abs(difference[:10]) < 1e-12).all()


@given(st.integers(1, 60), st.integers(1, RATE_UNIT - 1), st.data())
def test_a_tail_is_bounded_from_above_and_tightly(
    trials: int, rate: int, data: st.DataObject
) -> None:
    least = data.draw(st.integers(0, trials + 1))
    q = Fraction(rate, RATE_UNIT)
    exact = sum(
        math.comb(trials, k) * q**k * (1 - q) ** (trials - k) for k in range(least, trials + 1)
    )
    bound = _log_tail(trials, rate / RATE_UNIT, least)
    if least > trials:
        assert bound == -math.inf
    else:
        with mpmath.workdps(30):
            log = mpmath.log(exact.numerator) - mpmath.log(exact.denominator)
        assert log <= bound
        assert least <= trials * q or bound <= log + 1e-9


def test_a_tail_among_a_thousand_million_is_bounded_too() -> None:
    deviations = 10**6 / math.sqrt(10**9 / 4)
    normal = -(deviations**2) / 2 - math.log(deviations * math.sqrt(2 * math.pi))
    assert _log_tail(10**9, 0.5, 10**9 // 2 + 10**6) == pytest.approx(normal, abs=0.01)


@pytest.mark.parametrize("spread", [Fraction(1, 2), Fraction(7, 3), Fraction(100), Fraction(10**9)])
def test_central_moments_survive_their_cancellation(spread: Fraction) -> None:
    found = _log_central_moments(spread)
    with mpmath.workdps(1500):
        step = mpmath.mpf(spread.denominator**2) / spread.numerator**2
        for j in (2, 4, 10, 64):
            exact = mpmath.fsum(
                (-1) ** (j - k) * mpmath.binomial(j, k) * mpmath.exp(k * (k - 1) / 2 * step)
                for k in range(j + 1)
            )
            exact_log = float(mpmath.log(exact))
            assert found[j // 2] >= exact_log - 1e-12 * abs(exact_log)
            # What 300 digits cannot tell is rounded up to their last ones.
            assert found[j // 2] <= max(exact_log * (1 - 1e-12) + 1e-9, -200 * math.log(10)) or (
                found[j // 2] <= exact_log + 1e-9
            )


# What follows from the definition of privacy, whatever the mechanism.


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
@settings(max_examples=20)
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


def test_the_widest_gap_of_shares_is_counted() -> None:
    event = SharesEvent(2**40, Fraction(1, 4), Fraction(1), 2**40)
    assert math.isfinite(rdp(event, ADD)[0])
    assert epsilon(rdp(event, ADD), 1e-5)[0] > 1e20


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


def test_shares_with_fine_steps_cost_what_a_gaussian_does() -> None:
    steps, shares, dimension = 2**20, 60, 10**6
    event = SharesEvent(shares, Fraction(steps**2, shares), Fraction(steps**2), dimension)
    np.testing.assert_allclose(rdp(event, ADD), rdp(GaussianEvent(Fraction(1)), ADD), rtol=1e-9)


@pytest.mark.parametrize(
    ("deviation", "expected"), [(0.5, 75), (1, 5.7e-4), (1.5, 2.3e-9), (2, 7e-17), (3, 2.7e-38)]
)
def test_the_gap_of_summed_shares_is_the_published_one(deviation: float, expected: float) -> None:
    assert _tau(1000, Fraction(deviation) ** 2) == pytest.approx(expected, rel=0.05)


def test_the_gap_covers_more_shares_than_are_added_up_one_by_one() -> None:
    k = np.arange(1, 2**20)
    exact = 10 * float(np.exp(-2 * math.pi**2 * k / (k + 1)).sum())
    assert exact <= _tau(2**20, Fraction(1)) <= 1.001 * exact


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
