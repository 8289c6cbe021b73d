"""How many took part, and so whether one of them did: read from a release, and no longer read.

Where shares of noise are wider or narrower by who is in a sum, or a round fails by it, readers of
releases learn what sampling and adjacency promise to hide.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from numpy.typing import NDArray

from fedcore.errors import PlanError
from fedcore.privacy.compact_mechanism import CompactAdder, CompactMechanism
from fedcore.privacy.events import RATE_UNIT
from fedcore.privacy.ledger import Ledger
from fedcore.privacy.mechanisms import ShareAdder, SharedMechanism
from fedcore.privacy.noise import CompactShares, NoiseShares
from fedcore.privacy.participation import ParticipationTable
from fedcore.privacy.plan import PrivacyPlan
from fedcore.privacy.sampling import Poisson
from fedcore.privacy.units import Adjacency
from fedcore.privacy.values import NoisySum
from tests.privacy import attacks_rounds as rounds, plans
from tests.privacy.attacks_rounds import KEY, watched
from tests.privacy.releases import opened

CLIENTS = 20


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut does is tested with the ledger."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


# By the width of the noise


def shares_in(noise: NDArray[Any], share: Fraction | float) -> float:
    """How many shares of this variance an attacker counts in noise around zero."""
    return float(noise.astype(np.float64).var() / float(share))


def silent_round(shares: int) -> tuple[PrivacyPlan, Fraction, NDArray[np.int64]]:
    """What the server sees when so many clients send zeros."""
    plan = watched(dimension=100_000, noise=NoiseShares(CLIENTS, survivors=8, corrupt=0))
    adder, silent = ShareAdder(plan), rounds.sum_of(plan, [])
    total: Any = sum(adder.add(silent) for _ in range(shares))
    return plan, plan.variance / 8, total


def silent_compact_round(shares: int) -> tuple[PrivacyPlan, Fraction, NDArray[np.int64]]:
    plan = watched(
        dimension=100_000, noise=CompactShares(CLIENTS, survivors=8, corrupt=0), grid_steps=None
    )
    adder = CompactAdder(plan)
    total: Any = sum(adder.add(np.zeros(plan.dimension), round=0) for _ in range(shares))
    return plan, plan.compact_terms.local_variance, total


def released(plan: PrivacyPlan, folder: Path, total: NoisySum) -> NDArray[np.float64]:
    """The release in grid steps, as an attacker scales it back."""
    server: Any = SharedMechanism if isinstance(plan.noise, NoiseShares) else CompactMechanism
    with Ledger.create(folder, plan, participation_key=KEY) as ledger:
        reservation = ledger.reserve(0)
        rounds.admit(reservation)
        mean = opened(server(plan), total, reservation).vector
    return np.asarray(mean, np.float64) * float(plan.grid * plan.denominator / plan.clipping_norm)


@pytest.mark.parametrize("silent", [silent_round, silent_compact_round])
@pytest.mark.slow
def test_the_width_of_released_noise_does_not_tell_how_many_took_part(
    tmp_path: Path, silent: Callable[[int], tuple[PrivacyPlan, Fraction, NDArray[np.int64]]]
) -> None:
    """Of 10^5 coordinates one share in twenty stands out by eleven deviations."""
    for shares in (12, 13):
        plan, share, total = silent(shares)
        assert round(shares_in(total, share)) == shares  # of the sum that the server saw
        noise = released(plan, tmp_path / str(shares), NoisySum(total, shares))
        assert shares_in(noise, share) == pytest.approx(CLIENTS, rel=0.0225)  # five deviations


def test_where_everybody_came_nothing_is_added(tmp_path: Path) -> None:
    plan, _, total = silent_round(CLIENTS)
    found = released(plan, tmp_path / "ledger", NoisySum(total, CLIENTS))
    assert np.array_equal(found, total)


def test_records_are_hidden_by_shares_that_come_whatever_they_draw(tmp_path: Path) -> None:
    """Holders add their share also if they drew nothing: there is nothing to be topped up."""
    plan = plans.record(
        noise=NoiseShares(CLIENTS, survivors=8, corrupt=0),
        steps=1,
        grid_steps=rounds.GRID,
        denominator=64,
    )
    total = np.arange(6) * 1000
    with Ledger.create(tmp_path / "ledger", plan) as ledger:
        mean = opened(SharedMechanism(plan), NoisySum(total, 8), ledger.reserve(0))
    assert np.array_equal(rounds.integers_of(plan, mean.vector), total)


# By who else takes part


def guests(phones: list[bytes]) -> list[set[bytes]]:
    """Ten of those who may come, the first ones, in every round: as the guide does."""
    table, found = ParticipationTable(4, 5), []
    for _ in range(20):
        refused = set(table.refused(phones))
        came = [phone for i, phone in enumerate(phones) if i not in refused][:10]
        table.admit(came)
        table.release()
        found.append(set(came))
    return found


def test_where_nobody_is_sampled_one_unit_decides_who_else_comes() -> None:
    """So its absence moves sums by more than its own updates; ADD_REMOVE would not hold."""
    phones = [b"%d" % i for i in range(40)]
    with_it, without = guests(phones), guests(phones[1:])
    assert sum(len((a ^ b) - {phones[0]}) > 0 for a, b in zip(with_it, without, strict=True)) > 4
    for plan in (plans.client, plans.banded, plans.shared, plans.compact):
        with pytest.raises(PlanError, match="decides who else does"):
            plan(**plans.OPENLY | {"adjacency": Adjacency.ADD_REMOVE})


# By whether a round is released


def completes(noise: NoiseShares, joined: NDArray[np.int64]) -> NDArray[np.bool_]:
    return (noise.survivors <= joined) & (joined <= noise.clients)


def test_a_threshold_near_the_cohort_tells_whether_one_unit_joined() -> None:
    """Ninety-nine others toss coins; a round over fewer than fifty fails. What is that worth?"""
    others = np.random.default_rng(0).binomial(99, 0.5, 200_000)
    tight = NoiseShares(clients=100, survivors=50, corrupt=0)
    joins = np.random.default_rng(1).integers(2, size=others.size)
    apart = completes(tight, others + joins).mean() - completes(tight, others).mean()
    assert apart > 0.03  # thousands of times a delta of 1e-5
    with pytest.raises(PlanError, match="survivors"):
        plans.client(noise=tight, epsilon=4.0, delta=1e-5)
    wide = NoiseShares(clients=100, survivors=13, corrupt=0)
    plan = plans.client(noise=wide, epsilon=4.0, delta=1e-5)
    assert completes(wide, others).all() and plan.failure < 1e-5


def exact_tail(population: int, rate: int, outside: Callable[[int], bool]) -> Fraction:
    """The chance that the size of a cohort is `outside`, in fractions."""
    q = Fraction(rate, RATE_UNIT)
    return sum(
        (
            math.comb(population, k) * q**k * (1 - q) ** (population - k)
            for k in range(population + 1)
            if outside(k)
        ),
        Fraction(0),
    )


@given(
    st.integers(2, 60),
    st.one_of(st.integers(1, RATE_UNIT), st.sampled_from([1, RATE_UNIT // 2, RATE_UNIT])),
    st.integers(1, 60),
    st.integers(0, 10),
)
def test_no_cohort_is_likelier_to_leave_its_bounds_than_is_accounted_for(
    population: int, rate: int, least: int, more: int
) -> None:
    most = least + more
    bound = Poisson(rate).log_outside(population, least=least, most=most)
    exact = exact_tail(population, rate, lambda k: not least <= k <= most)
    assert bound <= 2
    assert exact <= Fraction(math.exp(min(bound, 700))) * (1 + Fraction(1, 10**9))


@given(
    st.integers(2, 2**36),
    st.integers(1, RATE_UNIT),
    st.floats(-500, -1),
    st.integers(0, 2**30),
    st.integers(0, 2**30),
)
def test_the_bounds_that_a_refusal_names_suffice_and_so_do_wider_ones(
    population: int, rate: int, log_chance: float, lower: int, higher: int
) -> None:
    least, most = Poisson(rate).cohort(population, log_chance)
    assert 0 <= least <= most <= population
    for below, above in ((0, 0), (lower, higher)):
        found = Poisson(rate).log_outside(population, least=least - below, most=most + above)
        assert found <= log_chance
    narrower = Poisson(rate).log_outside(population, least=least + 1, most=most - 1)
    assert narrower > log_chance - math.log(2) - 1e-6


def test_the_bound_stays_within_a_small_factor_of_the_chance() -> None:
    scipy = pytest.importorskip("scipy.stats")
    for population, rate in ((100, 2**31), (10**5, 2**25), (2**36, 2**12)):
        expected = population * rate / RATE_UNIT
        for deviations in (2, 5, 8):
            width = deviations * math.sqrt(expected)
            least, most = math.ceil(expected - width), math.floor(expected + width)
            chance = scipy.binom(population, rate / RATE_UNIT)
            exact = chance.cdf(least - 1) + chance.sf(most)
            bound = math.exp(Poisson(rate).log_outside(population, least=least, most=most))
            assert exact <= bound < 40 * exact + 1e-300


def test_a_refusal_says_what_would_be_accepted() -> None:
    with pytest.raises(PlanError) as found:
        plans.sampled(noise=NoiseShares(100, 40, 1), delta=1e-6)
    words = found.value.fix.split()
    survivors, clients = (int(words[words.index(name) - 1]) for name in ("survivors", "clients;"))
    plans.sampled(noise=NoiseShares(clients, survivors, 1), delta=1e-6)
    for noise in (NoiseShares(clients - 1, survivors, 1), NoiseShares(clients, survivors + 1, 1)):
        with pytest.raises(PlanError):
            plans.sampled(noise=noise, delta=1e-6)


@given(
    st.integers(30, 120),
    st.floats(0.4, 0.95),
    st.integers(0, 3),
    st.integers(0, 3),
    st.floats(0.1, 8),
    st.sampled_from([Adjacency.ADD_REMOVE, Adjacency.ZERO_OUT]),
)
def test_whatever_is_accepted_the_size_of_a_cohort_tells_less_than_is_set_aside(
    population: int, share: float, lower: int, higher: int, budget: float, adjacency: Adjacency
) -> None:
    """Near the narrowest bounds that pass, on either side of them."""
    sampling, delta = Poisson(round(share * RATE_UNIT)), 1e-4
    log_chance = math.log(delta / 1024 / 3) - budget
    least, most = sampling.cohort(population, log_chance)
    survivors = max(1, least - lower)
    noise = NoiseShares(max(survivors, most + higher), survivors, corrupt=0)
    terms: dict[str, Any] = {"population": population, "sampling": sampling, "noise": noise}
    try:
        plan = plans.client(adjacency=adjacency, epsilon=budget, delta=delta, **terms)
    except PlanError:
        return
    # Neighbours have N - 1 and N units, or N and N + 1; a cohort of the others completes with the
    # unit and without it, but for this chance.
    for others in (population - 1, population):
        told = exact_tail(others, sampling.rate, lambda k: not survivors <= k < noise.clients)
        aside = Fraction(delta) - Fraction(plan.failure)
        assert plan.rounds * (1 + Fraction(math.exp(budget))) * told <= aside
    assert plan.delta == delta > plan.failure > 0.999 * delta
