"""What a plan's noise is and costs, in numbers worked out by hand, and what is left to defaults."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fedcore.entropy import SeededEntropy
from fedcore.errors import PlanError
from fedcore.privacy.adaptive import Adaptive
from fedcore.privacy.banded import Strategy
from fedcore.privacy.clipping import PerLayer
from fedcore.privacy.csprng import Stream
from fedcore.privacy.events import (
    GaussianEvent,
    PoissonEvent,
    RepeatedEvent,
    SharesEvent,
    TruncatedPoissonEvent,
)
from fedcore.privacy.noise import (
    BandedNoise,
    NoiseShares,
)
from fedcore.privacy.plan import Grade, PrivacyPlan, default_delta
from fedcore.privacy.rdp import compose, epsilon, rdp
from fedcore.privacy.sampler import rounded_gaussian
from fedcore.privacy.sampling import Poisson, TruncatedPoisson, Uncontrolled
from fedcore.privacy.units import Adjacency
from tests.privacy import plans


def test_central_noise_has_the_multiplier_of_its_event() -> None:
    plan = plans.client(grid_steps=1000)
    assert plan.squared_sensitivity == 10**6 and plan.contribution_norm == 1000
    assert plan.variance == Fraction(9, 4) * 10**6
    assert plan.noise_event == GaussianEvent(Fraction(3, 2))
    assert plan.event == PoissonEvent(2**31, GaussianEvent(Fraction(3, 2)))
    layers = plans.client(clipping=PerLayer((3, 4), (2, 4)), grid_steps=1000)
    assert layers.clipping_norm == 5 and layers.variance == plan.variance


def test_a_round_of_steps_costs_them_all() -> None:
    step = PoissonEvent(2**31, GaussianEvent(Fraction(3, 2)))
    assert plans.record().event == RepeatedEvent(2, step)
    assert plans.record().spend(3) == {RepeatedEvent(2, step): 3}
    assert plans.record().spend(0) == {}


def test_whoever_comes_pays_for_as_often_as_he_may() -> None:
    plan = plans.client(**plans.OPENLY | {"sampling": Uncontrolled(1, 2)})
    assert [plan.spend(n) for n in (1, 2, 3)] == [{plan.event: 1}, {plan.event: 2}, {plan.event: 2}]
    matrix = plans.banded()
    assert matrix.spend(3) == {GaussianEvent(Fraction(3, 2)): 3}
    assert matrix.rounds_a_reservation == 3 and plan.rounds_a_reservation == 1


def test_a_sum_that_is_quantised_once_declares_its_rounding() -> None:
    plan = plans.record(grade=Grade.SUM, dimension=35, population=1000, grid_steps=1000)
    # 1000 (1 + (1002^2 + 35) / 2^52) + floor(sqrt 35) + 1
    sensitivity = 1000 + Fraction(1000 * (1002**2 + 35), 2**52) + 6
    assert plan.squared_sensitivity == sensitivity**2
    assert plan.variance == Fraction(9, 4) * sensitivity**2
    assert plan.contribution_norm == 1000


def test_an_update_and_its_count_share_one_noise() -> None:
    # z = 3/2, count noise 5/2: z_D = (4/9 - 1/25)^-1/2 = 15/sqrt(91) = 1.57243; of 1000 steps, and
    # 1572.43 / 5 = 314.486 steps for the count; 1000^2 + 314^2 = 1098596 <= 1049^2
    plan = plans.adaptive(grid_steps=1000)
    assert plan.contribution_norm == 1049
    assert plan.squared_sensitivity == 1049**2
    assert plan.variance == Fraction(9, 4) * 1049**2
    assert plan.noise_event == GaussianEvent(Fraction(3, 2))
    # A client moves the count by 314 steps, of noise 1573.5: five twentieths, as was asked for.
    assert float(plan.variance) ** 0.5 / (2 * 314) == pytest.approx(2.5, rel=3e-3)


@given(
    st.fractions(Fraction(1, 10), 3, max_denominator=500),
    st.fractions(2, 100, max_denominator=50),
    st.integers(10**5, 2**22),
)
def test_the_joint_noise_of_update_and_count_never_falls_short(
    z: Fraction, count_noise: Fraction, grid: int
) -> None:
    plan = plans.adaptive(
        noise_multiplier=z, clipping=Adaptive(1, 50, count_noise), grid_steps=grid
    )
    state = plan.clipping.start(noise_multiplier=z, grid_steps=grid)  # type: ignore[union-attr]
    assert plan.contribution_norm == state.joint_grid_steps
    assert plan.variance >= z**2 * state.joint_grid_steps**2
    assert plan.variance >= z**2 * (grid**2 + state.count_step**2)
    # and hardly more than what the two multipliers come to
    update_noise = (1 / z**2 - 1 / (2 * count_noise) ** 2) ** -1 * grid**2
    assert 0.99 <= plan.variance / update_noise <= 1 + Fraction(4, grid)


def test_banded_noise_covers_all_participations() -> None:
    plan = plans.banded(grid_steps=100)
    assert plan.variance == Fraction(9, 4) * 2 * (1024**2 + 512**2) * 100**2
    assert plan.event == GaussianEvent(Fraction(3, 2))
    once = plans.banded(sampling=Uncontrolled(1, 1), grid_steps=100)  # it never comes back
    assert once.variance == Fraction(9, 4) * (1024**2 + 512**2) * 100**2


@given(
    st.integers(1, 40).flatmap(
        lambda clients: st.tuples(st.just(clients), st.integers(1, clients)).flatmap(
            lambda pair: st.tuples(*map(st.just, pair), st.integers(0, pair[1] - 1))
        )
    ),
    st.fractions(Fraction(1, 4), 4, max_denominator=99),
    st.booleans(),
)
def test_whoever_survives_the_noise_is_at_least_what_is_accounted(
    cohort: tuple[int, int, int], z: Fraction, adapts: bool
) -> None:
    clients, survivors, corrupt = cohort
    maker = plans.adaptive if adapts else plans.client
    noise = NoiseShares(clients, survivors, corrupt)
    plan = maker(noise=noise, noise_multiplier=z, **plans.OPENLY)
    event = plan.noise_event
    assert isinstance(event, SharesEvent)
    assert event.squared_sensitivity >= plan.grid**2 and event.dimension == plan.dimension
    assert event.squared_noise_multiplier >= z**2
    for alive in range(survivors, clients + 1):
        for missing in range(corrupt + 1):
            honest = alive - missing
            assert event.shares <= honest
            real = honest * plan.noise.local_variance(plan.variance)  # type: ignore[union-attr]
            assert real / plan.squared_sensitivity >= event.squared_noise_multiplier


def test_a_share_costs_what_its_sample_does() -> None:
    plan = plans.sampled(noise_multiplier=Fraction(3))
    local = 9 * Fraction(2**40, 4)
    assert plan.noise_event == SharesEvent(4, local, Fraction(2**40), 6)
    assert plan.event == PoissonEvent(2**31, plan.noise_event)


@pytest.mark.parametrize("maker", [plans.shared, plans.compact])
def test_a_unit_that_is_replaced_moves_a_sum_of_shares_by_two_norms(maker: Any) -> None:
    plan = maker(adjacency=Adjacency.REPLACE_ONE)
    event = plan.noise_event
    assert plan.event == event == maker().event  # which counts one contribution
    twice = replace(event, squared_sensitivity=4 * event.squared_sensitivity)
    cost = rdp(event, Adjacency.REPLACE_ONE)
    assert np.array_equal(cost, rdp(twice, Adjacency.ZERO_OUT))
    assert (cost > 3.9 * rdp(event, Adjacency.ZERO_OUT)).all()
    least = [
        maker(adjacency=adjacency, epsilon=4.0).calibrated().noise_multiplier
        for adjacency in (Adjacency.REPLACE_ONE, Adjacency.ZERO_OUT)
    ]
    assert float(least[0] / least[1]) == pytest.approx(2, rel=0.01)


def test_where_shares_are_sampled_a_part_of_delta_is_kept_from_the_accountant() -> None:
    plan = plans.sampled(delta=1e-5)
    assert plan.delta == 1e-5
    assert plan.failure == pytest.approx(1e-5 * 1023 / 1024, rel=1e-12)
    assert plan.failure < 1e-5 * 1023 / 1024
    found = plan.calibrated()
    assert (found.delta, found.failure) == (plan.delta, plan.failure)
    assert epsilon(compose(found.spend(3), found.adjacency), found.failure)[0] <= 4
    for maker in set(plans.MAKERS.values()) - {plans.sampled}:
        assert maker(delta=1e-5).failure == 1e-5
    assert plans.record(noise=NoiseShares(5, 4, 1), delta=1e-5).failure == 1e-5


def test_who_is_always_drawn_leaves_nothing_to_chance() -> None:
    """A hundred or one more, or one less: of all of them shares are planned for."""
    everybody = {"sampling": Poisson(2**32), "epsilon": 100.0}
    assert plans.sampled(noise=NoiseShares(101, 99, 0), **everybody).failure < default_delta(100)
    for noise in (NoiseShares(100, 99, 0), NoiseShares(101, 100, 0)):
        with pytest.raises(PlanError, match="at most 99 survivors and at least 101 clients"):
            plans.sampled(noise=noise, **everybody)


# What is left to a default.


def test_the_default_grid_is_as_fine_as_its_noise_can_be_drawn() -> None:
    assert plans.client().grid == 2**24 and plans.shared().grid == 2**20
    assert plans.client(noise_multiplier=Fraction(100)).grid == 2**23
    plan = plans.banded()
    assert plan.grid == 2**18 and plan.variance <= 10**18 < 4 * plan.variance
    crowd = plans.banded(
        noise=BandedNoise(Strategy((2**20,))),
        population=2**36,
        delta=1e-12,
        noise_multiplier=Fraction(1, 10**3),
        sampling=Uncontrolled(1, 1),
    )
    assert crowd.grid == 2**5  # 2^5 steps · 2^36 units · 2^20 < 2^62


def test_the_sums_of_a_banded_stream_are_at_most_what_its_strategy_encodes() -> None:
    strategy = Strategy((1024, 512))
    largest = strategy.largest_sum // 2**16
    terms: dict[str, Any] = {"noise": BandedNoise(strategy), "grid_steps": 2**16, "delta": 1e-12}
    assert plans.banded(population=largest, **terms).population == largest
    with pytest.raises(PlanError, match="could leave the integers"):
        plans.banded(population=largest + 1, **terms)


@pytest.mark.parametrize("variance", ["least", "largest"])
def test_the_widest_and_narrowest_noise_of_a_plan_can_be_drawn(variance: str) -> None:
    z = Fraction(1, 2) if variance == "least" else Fraction(10**9)
    plan = plans.client(noise_multiplier=z, grid_steps=1)
    drawn = rounded_gaussian(plan.variance, 8, stream=Stream(SeededEntropy(b"limits")))
    assert drawn.shape == (8,)


def test_the_default_delta_is_below_one_over_the_population() -> None:
    assert plans.client().delta == default_delta(100) < 1 / 100
    for population in (2, 10, 10**6):
        assert default_delta(population) < 1 / population


def test_a_delta_that_was_filled_in_is_refused_for_more_units_with_the_way_to_renew_it() -> None:
    plan = plans.client(sampling=Poisson(2**31))
    with pytest.raises(PlanError) as found:
        replace(plan, population=10**6)
    assert "delta=None" in found.value.fix
    assert replace(plan, population=10**6, delta=None).delta == default_delta(10**6)


@pytest.mark.parametrize("maker", plans.MAKERS.values())
@pytest.mark.parametrize("budget", [0.3, 3.0, 30.0])
def test_a_calibrated_plan_stays_within_its_budget_and_wastes_little(
    maker: Any, budget: float
) -> None:
    plan = maker(epsilon=budget)
    if "Adaptive" in repr(plan) and budget < 1:
        plan = maker(epsilon=budget, clipping=Adaptive(1, 50, 100))
    found = plan.calibrated()

    def cost(of: PrivacyPlan) -> float:
        return epsilon(compose(of.spend(of.reservations), of.adjacency), of.failure)[0]

    assert replace(plan, noise_multiplier=found.noise_multiplier, grid_steps=found.grid) == found
    assert 0.98 * budget <= cost(found) <= budget


def test_a_search_for_noise_passes_through_what_fits_no_plan() -> None:
    # The search doubles from 1; a plan with the multiplier 64 could not be drawn on this grid, nor
    # one with 8 leave anything to the update.
    once = plans.OPENLY | {"sampling": Uncontrolled(1, 1), "delta": 1e-5}
    plan = plans.client(epsilon=0.1, grid_steps=2**24, **once)
    assert 32 < plan.calibrated().noise_multiplier < 59.6
    count = plans.adaptive(clipping=Adaptive(1, 50, 3), epsilon=1.0, **once)
    assert 4 <= count.calibrated().noise_multiplier < 6


def test_a_truncated_sample_is_accounted_with_its_limit() -> None:
    plan = plans.client(sampling=TruncatedPoisson(2**31, 60, 100), adjacency=Adjacency.ZERO_OUT)
    assert plan.event == TruncatedPoissonEvent(2**31, 60, 100, GaussianEvent(Fraction(3, 2)))
