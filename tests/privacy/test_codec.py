"""What was written is read as what it was, and nothing else is read at all."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, strategies as st

from fedcore.errors import LedgerError
from fedcore.privacy.codec import from_json, to_json
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


class Colour(Enum):
    RED = 1
    ROSE = 2


@dataclass(frozen=True)
class Leaf:
    number: Fraction


@dataclass(frozen=True)
class Everything:
    whole: int
    truth: bool
    text: str
    nothing: None
    exact: Fraction
    rounded: float | None
    colour: Colour
    several: tuple[int, ...]
    leaf: Leaf
    either: Leaf | Fraction | None


FRACTIONS = st.fractions(Fraction(1, 10**20), 10**20)
COUNTS = st.integers(1, 2**40)
GAUSS = st.builds(GaussianEvent, st.fractions(Fraction(1, 10**12), 10**12))
NOISE = st.one_of(
    GAUSS,
    st.builds(
        lambda shares, local, squared, dimension: SharesEvent(
            shares, local, shares * local / squared, dimension
        ),
        COUNTS,
        FRACTIONS,
        FRACTIONS,
        COUNTS,
    ),
    st.builds(
        lambda variance, squared, dimension: SkellamEvent(variance, variance / squared, dimension),
        FRACTIONS,
        FRACTIONS,
        COUNTS,
    ),
)
PAIRS = st.tuples(COUNTS, COUNTS).map(sorted)
SAMPLED = st.one_of(
    NOISE,
    st.builds(PoissonEvent, st.integers(1, RATE_UNIT), NOISE),
    st.builds(
        lambda rate, pair, event: TruncatedPoissonEvent(rate, pair[0], pair[1], event),
        st.integers(1, RATE_UNIT),
        PAIRS,
        GAUSS,
    ),
    st.builds(lambda pair, event: FixedSizeEvent(pair[0], pair[1], event), PAIRS, GAUSS),
)
EVENTS: st.SearchStrategy[Any] = st.one_of(SAMPLED, st.builds(RepeatedEvent, COUNTS, SAMPLED))
RECORDS = st.builds(
    Everything,
    whole=st.integers(-(2**63) + 1, 2**63 - 1),
    truth=st.booleans(),
    text=st.text(),
    nothing=st.none(),
    exact=st.fractions(),
    rounded=st.none() | st.floats(allow_nan=False),
    colour=st.sampled_from(Colour),
    several=st.lists(st.integers(-9, 9)).map(tuple),
    leaf=st.builds(Leaf, st.fractions()),
    either=st.none() | st.fractions() | st.builds(Leaf, st.fractions()),
)


@given(EVENTS)
def test_an_event_is_read_as_it_was_written(event: Any) -> None:
    text = json.dumps(to_json(event), allow_nan=False)
    assert from_json(json.loads(text), Event) == event


@given(RECORDS)
def test_every_type_of_field_is_read_as_it_was_written(record: Everything) -> None:
    found = from_json(json.loads(json.dumps(to_json(record))), Everything)
    assert found == record and type(found.either) is type(record.either)
    assert math.copysign(1, found.rounded or 1) == math.copysign(1, record.rounded or 1)


SAMPLE = Everything(
    1,
    True,
    "x",
    None,
    Fraction(1, 2),
    1.5,
    Colour.RED,
    (1, 2),
    Leaf(Fraction(3)),
    Leaf(Fraction(3)),
)
UNREADABLE: dict[str, dict[str, Any]] = {
    "a float for a fraction": {"exact": 0.5},
    "an integer for a fraction": {"exact": 1},
    "a fraction that is not reduced": {"exact": "2/4"},
    "a fraction with blanks": {"exact": " 1/2"},
    "a fraction in other digits": {"exact": "\u0661/2"},
    "a fraction with two signs": {"exact": "--1/2"},
    "a fraction over zero": {"exact": "1/0"},
    "a fraction without an end": {"exact": "1/" + "3" * 2001},
    "a float for an integer": {"whole": 1.0},
    "a truth for an integer": {"whole": True},
    "an integer beyond counting": {"whole": 2**63},
    "an integer for a truth": {"truth": 1},
    "a decimal float": {"rounded": "1.5"},
    "a float with leading zeros": {"rounded": "0x01.8p+0"},
    "a number for a float": {"rounded": 1.5},
    "a float beyond floats": {"rounded": "0x1p+5000"},
    "a name of no colour": {"colour": "BLUE"},
    "the number of a colour": {"colour": 1},
    "an attribute of a colour": {"colour": "name"},
    "a number for a list": {"several": 1},
    "a text for a list": {"several": "12"},
    "a list of fractions": {"several": ["1/2"]},
    "a text for a record": {"leaf": "3/1"},
    "another record": {"leaf": {"kind": "Everything", "number": "3/1"}},
    "a kind of no record": {"either": {"kind": "os.system", "number": "3/1"}},
    "a kind that is no word": {"either": {"kind": ["Leaf"], "number": "3/1"}},
    "no kind": {"either": {"number": "3/1"}},
    "one field more": {"leaf": {"kind": "Leaf", "number": "3/1", "more": 1}},
    "one field less": {"leaf": {"kind": "Leaf"}},
    "something for nothing": {"nothing": 0},
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_to_json_does_not_write_is_not_read(case: str) -> None:
    with pytest.raises(LedgerError) as found:
        from_json(to_json(SAMPLE) | UNREADABLE[case], Everything)
    assert found.value.code == "FED-1508" and found.value.why and found.value.fix


@pytest.mark.parametrize("data", [None, 1, "x", [], [1], {}, {"kind": 1}])
def test_what_is_no_record_is_not_read(data: object) -> None:
    for annotation in (Everything, Event, Leaf | None if data is not None else Leaf):
        with pytest.raises(LedgerError):
            from_json(data, annotation)


def test_deep_nesting_ends_in_an_error_and_not_in_a_recursion() -> None:
    data: Any = to_json(GaussianEvent(Fraction(1)))
    for depth in range(10_000):
        data = {"kind": "RepeatedEvent", "count": 1, "event": data}
        if depth in (4, 9_999):
            with pytest.raises(LedgerError, match="deeper"):
                from_json(data, Event)


def test_a_record_that_refuses_its_own_values_is_unreadable() -> None:
    data = to_json(PoissonEvent(1, GaussianEvent(Fraction(1)))) | {"rate": 2**40}
    with pytest.raises(LedgerError, match="rate of 1099511627776 parts"):
        from_json(data, Event)
