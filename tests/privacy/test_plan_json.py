"""A plan is a value that nobody changes, with one form in writing and one digest."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import pickle
from dataclasses import FrozenInstanceError, fields, replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, strategies as st

from fedcore.errors import LedgerError
from fedcore.privacy.clipping import Flat, PerLayer
from fedcore.privacy.codec import from_json, to_json
from fedcore.privacy.events import Event
from fedcore.privacy.ledger_records import Migrate, encode, read_chain
from fedcore.privacy.noise import (
    CentralNoise,
    NoiseShares,
    SimulatedNoise,
)
from fedcore.privacy.plan import Grade, PrivacyPlan
from fedcore.privacy.sampling import Poisson, Uncontrolled
from fedcore.privacy.units import Adjacency, Unit
from tests.privacy import plans


@pytest.mark.parametrize("maker", plans.MAKERS.values())
def test_a_plan_is_a_value_that_nobody_changes(maker: Any) -> None:
    plan = maker()
    assert plan == maker() and hash(plan) == hash(maker()) and plan.digest == maker().digest
    for name in [field.name for field in fields(plan)] + ["anything"]:
        with pytest.raises(FrozenInstanceError):
            setattr(plan, name, getattr(plan, name, None))
    assert pickle.loads(pickle.dumps(plan)) == copy.deepcopy(plan) == replace(plan) == plan


@pytest.mark.parametrize("maker", plans.MAKERS.values())
def test_a_plan_says_the_same_after_a_way_through_json(maker: Any) -> None:
    plan = maker()
    text = json.dumps(plan.to_json(), allow_nan=False)
    again = PrivacyPlan.from_json(json.loads(text))
    assert again == plan and again.digest == plan.digest and again.event == plan.event


@pytest.mark.parametrize("maker", plans.MAKERS.values())
def test_noise_of_as_many_digits_as_may_be_is_read_as_it_was_written(maker: Any) -> None:
    plan = maker(noise_multiplier=Fraction(3, 2) + Fraction(1, 10**400))
    event = to_json(plan.event)
    assert PrivacyPlan.from_json(plan.to_json()) == plan and from_json(event, Event) == plan.event


CHANGES: dict[str, st.SearchStrategy[Any]] = {
    "unit": st.sampled_from([Unit.CLIENT, Unit.USER]),
    "adjacency": st.sampled_from([Adjacency.ADD_REMOVE, Adjacency.ZERO_OUT]),
    "population": st.integers(2, 2**36),
    "sampling": st.integers(1, 2**32).map(Poisson),
    "clipping": st.floats(1e-9, 1e9).map(Flat)
    | st.floats(1e-9, 1e9).map(lambda norm: PerLayer((norm, 1), (2, 4))),
    "noise": st.just(CentralNoise()) | st.integers(0, 9).map(SimulatedNoise),
    "noise_multiplier": st.fractions(Fraction(1, 10), 50, max_denominator=1000),
    "denominator": st.integers(1, 2**36),
    "dimension": st.just(6),
    "rounds": st.integers(1, 2**36),
    "epsilon": st.floats(1e-3, 1e3),
    "delta": st.floats(1e-30, 1e-12),
    "grid_steps": st.sampled_from([2**16, 2**18, 2**20]),
    "largest_weight": st.none() | st.integers(1, 2**36),
}


OF_SHARES = CHANGES | {
    "adjacency": st.sampled_from([Adjacency.REPLACE_ONE, Adjacency.ZERO_OUT]),
    "sampling": st.builds(Uncontrolled, st.integers(1, 9), st.integers(1, 9)),
    "noise": st.builds(NoiseShares, st.integers(9, 12), st.integers(6, 9), st.integers(0, 3)),
}
OPENLY = OF_SHARES | {"noise": CHANGES["noise"]}


def openly(**changes: Any) -> PrivacyPlan:
    return plans.client(**plans.OPENLY | changes)


@given(
    st.data(),
    st.sampled_from([(plans.client, CHANGES), (openly, OPENLY), (plans.shared, OF_SHARES)]),
)
def test_two_plans_have_one_digest_only_if_they_are_the_same(data: st.DataObject, of: Any) -> None:
    maker, known = of
    fields_of = st.fixed_dictionaries({}, optional=known)
    changes, more = data.draw(fields_of), data.draw(fields_of)
    one, other = maker(**changes), maker(**changes | more)
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


@given(st.data(), st.sampled_from(list(plans.MAKERS.values())), HOSTILE)
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
