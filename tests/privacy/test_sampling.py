"""The sample that is drawn is the sample that is accounted for."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fedcore.entropy import SeededEntropy
from fedcore.errors import PlanError
from fedcore.privacy.csprng import Stream
from fedcore.privacy.events import (
    RATE_UNIT,
    FixedSizeEvent,
    GaussianEvent,
    PoissonEvent,
    SharesEvent,
    SkellamEvent,
    TruncatedPoissonEvent,
)
from fedcore.privacy.sampling import (
    FixedSize,
    Poisson,
    TruncatedPoisson,
    Uncontrolled,
    rate_of,
)
from fedcore.privacy.units import Adjacency

GAUSS = GaussianEvent(Fraction(1))
SHARES = SharesEvent(3, Fraction(10), Fraction(1), 1)
SKELLAM = SkellamEvent(Fraction(10), Fraction(1), 1)


def stream(seed: object) -> Stream:
    return Stream(SeededEntropy(repr(seed).encode()))


@given(st.fractions(Fraction(1, 2**40), 1) | st.floats(2.0**-40, 1))
def test_a_rate_is_the_nearest_that_can_be_drawn(probability: Any) -> None:
    rate = rate_of(probability)
    assert 1 <= rate <= RATE_UNIT
    assert rate == 1 or abs(Fraction(rate, RATE_UNIT) - Fraction(probability)) * RATE_UNIT <= 0.5
    assert Poisson(rate).probability == Fraction(rate, RATE_UNIT)


@pytest.mark.parametrize("wrong", [0, -0.1, 1.0001, math.nan, math.inf, True, "0.1", None, [0.1]])
def test_what_is_no_probability_has_no_rate(wrong: Any) -> None:
    with pytest.raises(PlanError) as found:
        rate_of(wrong)
    assert found.value.code == "FED-1501" and found.value.why and found.value.fix


@pytest.mark.parametrize(
    ("sampling", "population"),
    [
        (Poisson(1234567), 100),
        (TruncatedPoisson(1234567, 10, 100), 100),
        (FixedSize(10, 100), 100),
    ],
)
def test_the_event_states_what_is_drawn(sampling: Any, population: int) -> None:
    event = sampling.event(GAUSS)
    assert event.event is GAUSS
    for name in ("rate", "limit", "size", "population"):
        if hasattr(event, name) and name != "population":
            assert getattr(event, name) == getattr(sampling, name)
    assert getattr(event, "population", population) == population
    assert type(event) in (PoissonEvent, TruncatedPoissonEvent, FixedSizeEvent)


def test_coins_fall_at_the_accounted_rate() -> None:
    """By the bits of the stream: a unit joins if and only if its 32 bits are below the rate."""
    rate = rate_of(0.3)
    coins = np.empty(1000, np.uint32)
    stream("coins").fill(coins)
    drawn = Poisson(rate).draw(1000, stream=stream("coins"))
    assert drawn.dtype == np.int64
    assert drawn.tolist() == [i for i, coin in enumerate(coins.tolist()) if coin < rate]


@pytest.mark.parametrize("q", [0.001, 0.05, 0.5, 0.999])
def test_the_size_of_a_poisson_sample_is_binomial(q: float) -> None:
    n, repeats = 2000, 400
    source = stream(q)
    sizes = [Poisson(rate_of(q)).draw(n, stream=source).size for _ in range(repeats)]
    deviation = math.sqrt(n * q * (1 - q))
    assert abs(np.mean(sizes) - n * q) < 5 * deviation / math.sqrt(repeats)
    # The variance of a sample variance: 2/repeats, and the kurtosis of few expected units.
    spread = math.sqrt(2 / repeats + 1 / (repeats * n * q * (1 - q)))
    assert abs(np.var(sizes) / deviation**2 - 1) < 5 * spread


def test_units_join_by_pairs_as_if_alone() -> None:
    n, repeats, q = 12, 20_000, 0.25
    source = stream("pairs")
    joined = np.zeros((repeats, n))
    for row in joined:
        row[Poisson(rate_of(q)).draw(n, stream=source)] = 1
    assert np.abs(joined.mean(axis=0) - q).max() < 5 * math.sqrt(q * (1 - q) / repeats)
    centred = (joined - q) / math.sqrt(q * (1 - q))
    gram = centred.T @ centred / repeats
    assert np.abs(gram - np.diag(np.diag(gram))).max() < 5 / math.sqrt(repeats)
    # and from round to round
    assert np.abs((centred[1:] * centred[:-1]).mean(axis=0)).max() < 5 / math.sqrt(repeats)


def test_everybody_joins_at_the_highest_rate_and_hardly_anybody_at_the_lowest() -> None:
    assert Poisson(RATE_UNIT).draw(5000, stream=stream(1)).tolist() == list(range(5000))
    assert Poisson(1).draw(5000, stream=stream(1)).size == 0
    assert Poisson(RATE_UNIT).draw(0, stream=stream(1)).size == 0


def test_a_truncated_sample_never_exceeds_its_limit_and_else_is_the_poisson_sample() -> None:
    rate, n = rate_of(0.5), 20
    for seed in range(300):
        whole = Poisson(rate).draw(n, stream=stream(seed))
        cut = TruncatedPoisson(rate, 10, n).draw(n, stream=stream(seed))
        assert set(cut) <= set(whole) and cut.size == min(10, whole.size)
        assert (np.diff(cut) > 0).all()


def test_a_truncated_sample_keeps_every_subset_alike() -> None:
    sampling = TruncatedPoisson(RATE_UNIT, 2, 5)  # always cut, from five to two
    source = stream("cut")
    counts = Counter(tuple(sampling.draw(5, stream=source).tolist()) for _ in range(5000))
    assert set(counts) == set(itertools.combinations(range(5), 2))
    statistic = sum((seen - 500) ** 2 / 500 for seen in counts.values())
    assert statistic < 42  # of 9 degrees of freedom, above in one of 3e5


def test_a_sample_of_fixed_size_is_a_uniform_subset() -> None:
    sampling, source = FixedSize(3, 6), stream("fixed")
    counts = Counter(tuple(sampling.draw(6, stream=source).tolist()) for _ in range(10_000))
    assert set(counts) == set(itertools.combinations(range(6), 3))
    statistic = sum((seen - 500) ** 2 / 500 for seen in counts.values())
    assert statistic < 62  # of 19 degrees of freedom, above in one of 5e5
    assert FixedSize(6, 6).draw(6, stream=source).tolist() == list(range(6))


@pytest.mark.parametrize("sampling", [TruncatedPoisson(2**31, 3, 9), FixedSize(3, 9)])
def test_another_population_than_the_accounted_one_is_not_drawn_from(sampling: Any) -> None:
    for population in (0, 8, 10):
        with pytest.raises(PlanError, match="the plan counts 9") as found:
            sampling.draw(population, stream=stream(0))
        assert found.value.why and found.value.fix


REFUSED: dict[str, Any] = {
    "a rate of zero": lambda: Poisson(0),
    "a rate above one": lambda: Poisson(RATE_UNIT + 1),
    "a rate that is a probability": lambda: Poisson(0.5),  # type: ignore[arg-type]
    "a rate that is true": lambda: Poisson(True),
    "a truncated rate of zero": lambda: TruncatedPoisson(0, 3, 9),
    "a limit of nobody": lambda: TruncatedPoisson(5, 0, 9),
    "a limit above the population": lambda: TruncatedPoisson(5, 10, 9),
    "a truncated sample of nobody": lambda: TruncatedPoisson(5, 1, 0),
    "a size of nobody": lambda: FixedSize(0, 9),
    "a size above the population": lambda: FixedSize(10, 9),
    "no separation": lambda: Uncontrolled(0, 5),
    "no participation": lambda: Uncontrolled(5, 0),
    "a separation of a fraction": lambda: Uncontrolled(1.5, 5),  # type: ignore[arg-type]
    "participations that are true": lambda: Uncontrolled(1, True),
    "shares on a truncated sample": lambda: TruncatedPoisson(5, 3, 9).event(SHARES),
    "Skellam noise on a truncated sample": lambda: TruncatedPoisson(5, 3, 9).event(SKELLAM),
    "shares on a sample of fixed size": lambda: FixedSize(3, 9).event(SHARES),
    "Skellam noise on a sample of fixed size": lambda: FixedSize(3, 9).event(SKELLAM),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_nobody_could_account_for_is_no_sampling(case: str) -> None:
    with pytest.raises(PlanError) as found:
        REFUSED[case]()
    assert found.value.code == "FED-1501" and found.value.why and found.value.fix


def test_each_sampling_holds_under_the_relations_it_was_accounted_for() -> None:
    both = {Adjacency.ADD_REMOVE, Adjacency.ZERO_OUT}
    assert Poisson(1).adjacencies == both
    assert TruncatedPoisson(1, 3, 9).adjacencies == {Adjacency.ZERO_OUT}
    assert FixedSize(3, 9).adjacencies == {Adjacency.REPLACE_ONE}
    assert Uncontrolled(1, 1).adjacencies == {Adjacency.ZERO_OUT, Adjacency.REPLACE_ONE}
    for noise in (GAUSS, SHARES, SKELLAM):
        assert Poisson(5).event(noise) == PoissonEvent(5, noise)
        assert Uncontrolled(1, 1).event(noise) is noise


@pytest.mark.parametrize(
    ("sampling", "words"),
    [
        (Poisson(2**30), "0.25"),
        (TruncatedPoisson(2**30, 3, 9), "at most 3"),
        (FixedSize(3, 9), "3 of 9"),
        (Uncontrolled(2, 7), "at most 7 times and 2 or more"),
    ],
)
def test_a_sampling_says_its_assumption_in_words(sampling: Any, words: str) -> None:
    assert words in sampling.describe()
