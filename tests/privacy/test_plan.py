"""What does not add up cannot be planned, and what can be planned says what it is."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from fedcore.errors import PlanError
from fedcore.privacy.adaptive import Adaptive
from fedcore.privacy.banded import Strategy
from fedcore.privacy.clipping import PerLayer
from fedcore.privacy.noise import (
    BandedNoise,
    CompactShares,
    NoiseShares,
    SimulatedNoise,
)
from fedcore.privacy.plan import Grade
from fedcore.privacy.sampling import FixedSize, Poisson, TruncatedPoisson, Uncontrolled
from fedcore.privacy.units import Adjacency, Unit
from tests.privacy import plans


class Lucky(Poisson):
    """Draws whom it likes, under the event of an honest coin."""


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "a unit that is only a word": ("client", {"unit": "client"}, "unit"),
    "an adjacency that is only a word": ("client", {"adjacency": "ADD_REMOVE"}, "adjacency"),
    "no sampling": ("client", {"sampling": None}, "sampling"),
    "sampling by a subclass": ("client", {"sampling": Lucky(2**31)}, "sampling"),
    "no clipping": ("client", {"clipping": None}, "clipping"),
    "a clipping norm without a rule": ("client", {"clipping": 1.0}, "clipping"),
    "no noise": ("client", {"noise": None}, "noise"),
    "a grade that is only a word": ("record", {"grade": "exact"}, "grade"),
    "an empty population": ("client", {"population": 0}, "population"),
    "a population of a fraction": ("client", {"population": 10.5}, "population"),
    "a population beyond counting": ("client", {"population": 10**400}, "population"),
    "a denominator of zero": ("client", {"denominator": 0}, "denominator"),
    "a denominator that was averaged": ("client", {"denominator": 49.7}, "denominator"),
    "no coordinates": ("client", {"dimension": 0}, "dimension"),
    "no rounds": ("client", {"rounds": 0}, "rounds"),
    "rounds that are true": ("client", {"rounds": True}, "rounds"),
    "rounds beyond counting": ("client", {"rounds": 2**36 + 1}, "rounds"),
    "no steps": ("record", {"steps": 0}, "steps"),
    "a grid of no steps": ("client", {"grid_steps": 0}, "grid_steps"),
    "a grid too fine for exact squares": ("client", {"grid_steps": 2**27}, "grid_steps"),
    "no noise multiplier": ("client", {"noise_multiplier": Fraction(0)}, "noise_multiplier"),
    "a rounded noise multiplier": ("client", {"noise_multiplier": 1.5}, "noise_multiplier"),
    "noise narrower than is drawn": (
        "client",
        {"grid_steps": 1, "noise_multiplier": Fraction(49, 100)},
        "noise_multiplier",
    ),
    "noise wider than is drawn": (
        "client",
        {"grid_steps": 2**24, "noise_multiplier": Fraction(60)},
        "noise_multiplier",
    ),
    "noise beyond all measure": ("client", {"noise_multiplier": Fraction(2**41)}, "2^-40"),
    "noise of more digits than are printed": (
        "client",
        {"noise_multiplier": Fraction(10**5000)},
        "a number of many digits",
    ),
    "next to no noise": ("client", {"noise_multiplier": Fraction(1, 2**41)}, "2^-40"),
    "noise of more digits than a ledger keeps": (
        "client",
        {"noise_multiplier": Fraction(3, 2) + Fraction(1, 7**2500)},
        "more than 400 digits",
    ),
    "a budget of more digits than are printed": (
        "client",
        {"epsilon": 10**5000},
        "a number of many digits",
    ),
    "banded noise wider than is drawn": ("banded", {"grid_steps": 2**24}, "noise_multiplier"),
    "no budget": ("client", {"epsilon": 0.0}, "epsilon"),
    "a budget that is no number": ("client", {"epsilon": math.nan}, "epsilon"),
    "a budget without end": ("client", {"epsilon": math.inf}, "epsilon"),
    "a budget beyond floats": ("client", {"epsilon": 10**400}, "epsilon"),
    "a budget in words": ("client", {"epsilon": "2"}, "epsilon"),
    "a delta of zero": ("client", {"delta": 0.0}, "delta"),
    "a delta that allows to publish a unit": ("client", {"delta": 0.01}, "delta"),
    "a population of one without a delta": ("client", {"population": 1}, "delta"),
    "a weight of nothing": ("client", {"largest_weight": 0}, "largest_weight"),
    "a weight of a fraction": ("client", {"largest_weight": 1.5}, "largest_weight"),
    "Poisson samples under replacement": (
        "client",
        {"adjacency": Adjacency.REPLACE_ONE},
        "adjacency",
    ),
    "truncated samples under addition": (
        "client",
        {"sampling": TruncatedPoisson(2**31, 60, 100)},
        "adjacency",
    ),
    "samples of fixed size under addition": ("client", {"sampling": FixedSize(10, 100)}, "adja"),
    "two populations, truncated": (
        "client",
        {"sampling": TruncatedPoisson(2**31, 60, 101), "adjacency": Adjacency.ZERO_OUT},
        "population",
    ),
    "two populations, of fixed size": (
        "client",
        {"sampling": FixedSize(10, 101), "adjacency": Adjacency.REPLACE_ONE},
        "population",
    ),
    "shares on a truncated sample": (
        "shared",
        {"sampling": TruncatedPoisson(2**31, 60, 100), "adjacency": Adjacency.ZERO_OUT},
        "SharesEvent",
    ),
    "shares on a sample of fixed size": (
        "shared",
        {"sampling": FixedSize(10, 100), "adjacency": Adjacency.REPLACE_ONE},
        "SharesEvent",
    ),
    "shares too coarse": ("shared", {"grid_steps": 3}, "less than 3"),
    "shares that overflow their slots": (
        "shared",
        {"noise": NoiseShares(clients=40, survivors=30, corrupt=1), "grid_steps": 2**26},
        "do not fit",
    ),
    "a share wider than is drawn": (
        "shared",
        {
            "noise": NoiseShares(clients=5, survivors=4, corrupt=1, slot_bits=64),
            "grid_steps": 2**26,
            "noise_multiplier": Fraction(30),
        },
        "no wider noise",
    ),
    "banded noise on a sample": ("banded", {"sampling": Poisson(2**31)}, "noise"),
    "banded noise under replacement": ("banded", {"adjacency": Adjacency.REPLACE_ONE}, "noise"),
    "banded noise of units that may be there or not": (
        "banded",
        {"adjacency": Adjacency.ADD_REMOVE},
        "decides who else does",
    ),
    "banded noise of many steps": ("banded", {"unit": Unit.RECORD, "steps": 2}, "noise"),
    "bands wider than the separation": ("banded", {"sampling": Uncontrolled(1, 2)}, "2 bands"),
    "a coded stream that overflows": (
        "banded",
        {
            "noise": BandedNoise(Strategy((2**30, 2**30))),
            "grid_steps": 1,
            "population": 2**34,
            "noise_multiplier": Fraction(1, 2**20),
        },
        "grid_steps",
    ),
    "compact shares of records": ("compact", {"unit": Unit.RECORD}, "noise"),
    "compact shares of a norm that adapts": (
        "compact",
        {"clipping": Adaptive(1, 50), "dimension": 7},
        "clipping",
    ),
    "compact shares on a truncated sample": (
        "compact",
        {"sampling": TruncatedPoisson(2**31, 60, 100), "adjacency": Adjacency.ZERO_OUT},
        "SkellamEvent",
    ),
    "compact shares on a sample of fixed size": (
        "compact",
        {"sampling": FixedSize(10, 100), "adjacency": Adjacency.REPLACE_ONE},
        "SkellamEvent",
    ),
    "compact shares under replacement, sampled": (
        "compact",
        {"adjacency": Adjacency.REPLACE_ONE, "sampling": Poisson(2**31)},
        "adjacency",
    ),
    "whoever comes, who may be there or not": (
        "client",
        {"sampling": Uncontrolled(1, 3)},
        "REPLACE_ONE or ZERO_OUT, which protect what it sends",
    ),
    "persons who come, and may be there or not": (
        "shared",
        {"adjacency": Adjacency.ADD_REMOVE, "unit": Unit.USER},
        "REPLACE_ONE or ZERO_OUT, which protect what it sends",
    ),
    "more survivors than a sample is sure to have": (
        "sampled",
        {"noise": NoiseShares(clients=100, survivors=40, corrupt=1)},
        "take at most 21 survivors and at least 79 clients",
    ),
    "fewer clients than a sample may have": (
        "sampled",
        {"noise": NoiseShares(clients=60, survivors=5, corrupt=1)},
        "take at most 21 survivors and at least 79 clients",
    ),
    "compact shares that a sample may leave": (
        "sampled",
        {"noise": CompactShares(clients=60, survivors=40, corrupt=1)},
        "survivors, clients",
    ),
    "a sample that may be empty": (
        "sampled",
        {"noise": NoiseShares(clients=60, survivors=1, corrupt=0), "sampling": Poisson(2**26)},
        "take a larger cohort than the 1.5625 that are expected",
    ),
    "more rounds than the spare clients suffice for": (
        "sampled",
        {"noise": NoiseShares(clients=100, survivors=21, corrupt=1), "rounds": 1000},
        "survivors, clients",
    ),
    "a budget that the spare clients do not suffice for": (
        "sampled",
        {"epsilon": 1e300},
        "survivors, clients",
    ),
    "compact shares on a grid of one's own": ("compact", {"grid_steps": 100}, "grid_steps"),
    "compact shares without room": (
        "compact",
        {
            "noise": CompactShares(4000, 3000, 10, slot_bits=16),
            "noise_multiplier": Fraction(100),
            "dimension": 2**20,
        },
        "16 bits",
    ),
    "records clipped adaptively": ("adaptive", {"unit": Unit.RECORD}, "clipping"),
    "records with weights": ("record", {"largest_weight": 10}, "largest_weight"),
    "clients quantised in sum": ("client", {"grade": Grade.SUM}, "grade"),
    "clients of many steps": ("client", {"steps": 2}, "steps"),
    "adaptive clipping with banded noise": (
        "banded",
        {"clipping": Adaptive(1, 50)},
        "clipping",
    ),
    "a count that takes the whole budget": (
        "adaptive",
        {"clipping": Adaptive(1, 50, Fraction(3, 4))},
        "takes the whole budget",
    ),
    "a grid too coarse to count on": (
        "adaptive",
        {"clipping": Adaptive(1, 50, 1000), "grid_steps": 8},
        "too coarse to count",
    ),
    "two denominators": ("adaptive", {"clipping": Adaptive(1, 49)}, "clipping"),
    "a count and no update": ("adaptive", {"dimension": 1}, "clipping"),
    "layers of another size": ("client", {"clipping": PerLayer((1, 1), (2, 3))}, "clipping"),
    "layers of a sum": (
        "record",
        {"clipping": PerLayer((1, 1), (2, 4)), "grade": Grade.SUM},
        "clipping",
    ),
}


WITHOUT_ROOM = {
    "noise narrower than is drawn",
    "noise wider than is drawn",
    "banded noise wider than is drawn",
    "shares too coarse",
    "shares that overflow their slots",
    "a share wider than is drawn",
    "a coded stream that overflows",
    "compact shares without room",
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_add_up_cannot_be_planned(case: str) -> None:
    maker, changes, name = REFUSED[case]
    with pytest.raises(PlanError) as found:
        plans.MAKERS[maker](**changes)
    error = found.value
    assert error.code == ("FED-1511" if case in WITHOUT_ROOM else "FED-1501")
    assert error.what and error.why and error.fix
    assert name in str(error)


def test_weights_are_bounded_exactly() -> None:
    plan = plans.client(largest_weight=10)
    assert plan.weight(3) == Fraction(3, 10) and plan.weight(10**9) == 1 and plan.weight(0) == 0
    assert plan.weight(np.int64(5)) == Fraction(1, 2)  # type: ignore[arg-type]
    for wrong in (-1, 2.5, "3", None):
        with pytest.raises(PlanError, match="no number of examples"):
            plan.weight(wrong)  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="largest_weight"):
        plans.client().weight(3)


@pytest.mark.parametrize("maker", plans.MAKERS.values())
def test_a_plan_says_what_it_protects_in_words(maker: Any) -> None:
    said = maker().statement()
    assert set(said) == {
        *("unit", "adjacency", "sampling", "trust", "denominator", "clipping", "quantisation")
    }
    assert all(said.values())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "divided by 50, about the expected 50"),
        ({"denominator": 55}, "divided by 55, about the expected 50"),
        (
            {"denominator": 360, "population": 3600, "sampling": Poisson(2**28)},
            "; 225 are expected",
        ),
        ({"sampling": Poisson(1)}, "divided by 50; 2.328e-08 are expected"),
        (plans.OPENLY, "divided by 50, whoever takes part"),
        (
            {"sampling": TruncatedPoisson(2**31, 40, 100), "adjacency": Adjacency.ZERO_OUT},
            "divided by 50; 40 are expected",
        ),
        (
            {"sampling": FixedSize(48, 100), "adjacency": Adjacency.REPLACE_ONE},
            "about the expected 48",
        ),
    ],
)
def test_a_plan_says_what_sums_are_divided_by_and_what_is_expected(
    changes: dict[str, Any], said: str
) -> None:
    assert plans.client(**changes).statement()["denominator"].endswith(said)


def test_a_plan_says_what_keeps_the_size_of_a_cohort_secret() -> None:
    said = plans.sampled().statement()
    assert "a 1024th of delta is set aside" in said["sampling"]
    assert "adds the shares that are missing to 100" in said["trust"]
    openly = plans.compact().statement()
    assert "1024th" not in openly["sampling"] and "missing to 5" in openly["trust"]
    of_records = plans.record(noise=NoiseShares(5, 4, 1)).statement()
    assert "missing" not in of_records["trust"] and "1024th" not in of_records["sampling"]


def test_simulated_noise_says_so() -> None:
    assert "NOT PRIVATE" in plans.client(noise=SimulatedNoise(1)).statement()["trust"]
