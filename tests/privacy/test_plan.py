"""What does not add up cannot be planned; what can be planned has one meaning and one digest."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import pickle
from dataclasses import FrozenInstanceError, fields, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fedcore.entropy import SeededEntropy
from fedcore.errors import LedgerError, PlanError
from fedcore.privacy.adaptive import Adaptive
from fedcore.privacy.banded import Strategy
from fedcore.privacy.clipping import Flat, PerLayer
from fedcore.privacy.csprng import Stream
from fedcore.privacy.events import (
    GaussianEvent,
    PoissonEvent,
    RepeatedEvent,
    SharesEvent,
    TruncatedPoissonEvent,
)
from fedcore.privacy.ledger_records import Migrate, encode, read_chain
from fedcore.privacy.noise import (
    BandedNoise,
    CentralNoise,
    CompactShares,
    NoiseShares,
    SimulatedNoise,
)
from fedcore.privacy.plan import Grade, PrivacyPlan, default_delta
from fedcore.privacy.rdp import compose, epsilon
from fedcore.privacy.sampler import rounded_gaussian
from fedcore.privacy.sampling import FixedSize, Poisson, TruncatedPoisson, Uncontrolled
from fedcore.privacy.units import Adjacency, Unit
from tests.privacy import plans

MAKERS = {
    "client": plans.client,
    "record": plans.record,
    "shared": plans.shared,
    "adaptive": plans.adaptive,
    "banded": plans.banded,
    "compact": plans.compact,
}


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
        {"adjacency": Adjacency.REPLACE_ONE},
        "adjacency",
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


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_add_up_cannot_be_planned(case: str) -> None:
    maker, changes, name = REFUSED[case]
    with pytest.raises(PlanError) as found:
        MAKERS[maker](**changes)
    error = found.value
    assert error.code == "FED-1501" and error.what and error.why and error.fix
    assert name in str(error)


@pytest.mark.parametrize("maker", MAKERS.values())
def test_a_plan_is_a_value_that_nobody_changes(maker: Any) -> None:
    plan = maker()
    assert plan == maker() and hash(plan) == hash(maker()) and plan.digest == maker().digest
    for name in [field.name for field in fields(plan)] + ["anything"]:
        with pytest.raises(FrozenInstanceError):
            setattr(plan, name, getattr(plan, name, None))
    assert pickle.loads(pickle.dumps(plan)) == copy.deepcopy(plan) == replace(plan) == plan


@pytest.mark.parametrize("maker", MAKERS.values())
def test_a_plan_says_the_same_after_a_way_through_json(maker: Any) -> None:
    plan = maker()
    text = json.dumps(plan.to_json(), allow_nan=False)
    again = PrivacyPlan.from_json(json.loads(text))
    assert again == plan and again.digest == plan.digest and again.event == plan.event


CHANGES: dict[str, st.SearchStrategy[Any]] = {
    "unit": st.sampled_from([Unit.CLIENT, Unit.USER]),
    "adjacency": st.sampled_from([Adjacency.ADD_REMOVE, Adjacency.ZERO_OUT]),
    "population": st.integers(2, 2**36),
    "sampling": st.integers(1, 2**32).map(Poisson)
    | st.builds(Uncontrolled, st.integers(1, 9), st.integers(1, 9)),
    "clipping": st.floats(1e-9, 1e9).map(Flat)
    | st.floats(1e-9, 1e9).map(lambda norm: PerLayer((norm, 1), (2, 4))),
    "noise": st.just(CentralNoise())
    | st.integers(0, 9).map(SimulatedNoise)
    | st.builds(NoiseShares, st.integers(9, 12), st.integers(6, 9), st.integers(0, 3)),
    "noise_multiplier": st.fractions(Fraction(1, 10), 50, max_denominator=1000),
    "denominator": st.integers(1, 2**36),
    "dimension": st.just(6),
    "rounds": st.integers(1, 2**36),
    "epsilon": st.floats(1e-3, 1e3),
    "delta": st.floats(1e-30, 1e-12),
    "grid_steps": st.sampled_from([2**16, 2**18, 2**20]),
    "largest_weight": st.none() | st.integers(1, 2**36),
}


@given(st.fixed_dictionaries({}, optional=CHANGES), st.fixed_dictionaries({}, optional=CHANGES))
def test_two_plans_have_one_digest_only_if_they_are_the_same(
    changes: dict[str, Any], more: dict[str, Any]
) -> None:
    one, other = plans.client(**changes), plans.client(**changes | more)
    assert (one.digest == other.digest) == (one == other)
    assert PrivacyPlan.from_json(one.to_json()) == one


@pytest.mark.parametrize("name", [*sorted(set(CHANGES) - {"dimension"}), "dimension", "steps"])
def test_the_digest_changes_with_every_field(name: str) -> None:
    plan = plans.client()
    if name == "steps":
        assert plans.record().digest != plans.record(steps=3).digest
        assert plans.record().digest != plans.record(grade=Grade.SUM).digest
        return
    other = {
        "unit": Unit.USER,
        "adjacency": Adjacency.ZERO_OUT,
        "population": 101,
        "sampling": Poisson(2**31 + 1),
        "clipping": Flat(math.nextafter(1, 2)),
        "noise": SimulatedNoise(0),
        "noise_multiplier": Fraction(3 * 2**60 + 1, 2**61),
        "denominator": 51,
        "dimension": 7,
        "rounds": 4,
        "epsilon": math.nextafter(100, 200),
        "delta": math.nextafter(plan.failure, 1),
        "grid_steps": 2**24 - 1,
        "largest_weight": 1,
    }[name]
    assert plans.client(**{name: other}).digest != plan.digest


def test_every_field_of_a_plan_has_its_test_above() -> None:
    assert {field.name for field in fields(PrivacyPlan)} == {*CHANGES, "steps", "grade"}


def test_the_canonical_form_of_a_plan_stays_what_it_is() -> None:
    plan = plans.client(delta=2**-20)
    assert json.dumps(plan.to_json(), sort_keys=True, separators=(",", ":")) == (
        '{"adjacency":"ADD_REMOVE","clipping":{"kind":"Flat","norm":"1/1"},"delta":'
        '"0x1.0000000000000p-20","denominator":50,"dimension":6,"epsilon":"0x1.9000000000000p+6",'
        '"grade":"EXACT","grid_steps":16777216,"kind":"PrivacyPlan","largest_weight":null,'
        '"noise":{"kind":"CentralNoise"},"noise_multiplier":"3/2","population":100,"rounds":3,'
        '"sampling":{"kind":"Poisson","rate":2147483648},"steps":1,"unit":"CLIENT"}'
    )
    assert plan.digest.hex() == FROZEN


FROZEN = "67fd12e47c701df48b83d40454eb2c36f8b3c6173b895b4348eec16e1e1f9c00"


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in a tree of JSON."""
    found = [path]
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            found += places(item, (*path, key))
    return found


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    value = copy.copy(value)
    value[path[0]] = changed(value[path[0]], path[1:], new)
    return value


HOSTILE: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, -1, 2**31, 2**32, 2**53, 2**63, 10**400, -(10**4000)])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        [
            *("1/1", "2/2", "3/2", "1/0", "-1/2", "1/-2", "0/1", "\u0661/\u0661"),
            *("0x1.8p+1", "nan", "inf", "-inf", "1e3", "0x1p99999", "CLIENT", "RECORD", "SUM"),
            *("9" * 2001 + "/1", "1/" + "7" * 1999, "7" * 1999 + "/1", "PrivacyPlan", "os.system"),
        ]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["kind", "rate", "norm", "noise", "seed", "strategy", "x"]), inner
        )
        | st.fixed_dictionaries(
            {
                "kind": st.sampled_from(["Poisson", "Flat", "FixedSize", "BandedNoise"]),
                "rate": inner,
            }
        )
    ),
    max_leaves=6,
)


@given(st.data(), st.sampled_from(list(MAKERS.values())), HOSTILE)
def test_whatever_json_holds_it_is_a_plan_in_its_one_form_or_a_ledger_error(
    data: st.DataObject, maker: Any, new: Any
) -> None:
    written = maker().to_json()
    path = data.draw(st.sampled_from(places(written)))
    tampered = changed(written, path, new)
    try:
        found = PrivacyPlan.from_json(tampered)
    except LedgerError as error:
        assert error.code == "FED-1508" and error.why and error.fix
    else:
        assert found.to_json() == tampered


@pytest.mark.parametrize("name", [field.name for field in fields(PrivacyPlan)] + ["kind"])
def test_a_plan_without_a_field_or_with_one_more_is_not_read(name: str) -> None:
    written = plans.client().to_json()
    with pytest.raises(LedgerError):
        PrivacyPlan.from_json({key: value for key, value in written.items() if key != name})
    with pytest.raises(LedgerError):
        PrivacyPlan.from_json(written | {name + "_": 1})


@pytest.mark.parametrize("name", ["delta", "grid_steps"])
def test_a_stored_plan_leaves_nothing_to_a_default(name: str) -> None:
    with pytest.raises(LedgerError, match="written out"):
        PrivacyPlan.from_json(plans.client().to_json() | {name: None})


def test_a_field_that_stands_twice_does_not_get_into_a_ledger() -> None:
    line, _ = encode(Migrate(plans.client()), None)
    assert read_chain(line).records == (Migrate(plans.client()),)
    text = line[: line.rindex(b" ")].replace(b'"rounds":3', b'"rounds":4,"rounds":3')
    genesis = hashlib.sha256(b"fedcore privacy ledger 1").digest()
    forged = text + b" " + hashlib.sha256(genesis + text).hexdigest().encode() + b"\n"
    with pytest.raises(LedgerError, match="one form"):
        read_chain(forged)


# What the noise is, in numbers worked out by hand.


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
    plan = plans.client(sampling=Uncontrolled(1, 2))
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
    plan = maker(noise=NoiseShares(clients, survivors, corrupt), noise_multiplier=z)
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
    plan = plans.shared(noise_multiplier=Fraction(3))
    local = 9 * Fraction(2**40, 3)
    assert plan.noise_event == SharesEvent(3, local, Fraction(2**40), 6)
    assert plan.event == PoissonEvent(2**31, plan.noise_event)


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


@pytest.mark.parametrize("maker", MAKERS.values())
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
    once = {"sampling": Uncontrolled(1, 1), "delta": 1e-5}
    plan = plans.client(epsilon=0.1, grid_steps=2**24, **once)
    assert 32 < plan.calibrated().noise_multiplier < 59.6
    count = plans.adaptive(clipping=Adaptive(1, 50, 3), epsilon=1.0, **once)
    assert 4 <= count.calibrated().noise_multiplier < 6


def test_weights_are_bounded_exactly() -> None:
    plan = plans.client(largest_weight=10)
    assert plan.weight(3) == Fraction(3, 10) and plan.weight(10**9) == 1 and plan.weight(0) == 0
    assert plan.weight(np.int64(5)) == Fraction(1, 2)  # type: ignore[arg-type]
    for wrong in (-1, 2.5, "3", None):
        with pytest.raises(PlanError, match="no number of examples"):
            plan.weight(wrong)  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="largest_weight"):
        plans.client().weight(3)


@pytest.mark.parametrize("maker", MAKERS.values())
def test_a_plan_says_what_it_protects_in_words(maker: Any) -> None:
    said = maker().statement()
    assert set(said) == {"unit", "adjacency", "sampling", "trust", "clipping", "quantisation"}
    assert all(said.values())


def test_simulated_noise_says_so() -> None:
    assert "NOT PRIVATE" in plans.client(noise=SimulatedNoise(1)).statement()["trust"]


def test_a_truncated_sample_is_accounted_with_its_limit() -> None:
    plan = plans.client(sampling=TruncatedPoisson(2**31, 60, 100), adjacency=Adjacency.ZERO_OUT)
    assert plan.event == TruncatedPoissonEvent(2**31, 60, 100, GaussianEvent(Fraction(3, 2)))
