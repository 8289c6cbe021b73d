"""A record is the state, exactly; what is not a record is refused in words."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, strategies as st

from fedcore.errors import StoreError
from fedcore.rounds import Loss, Phase, RoundState, from_record, to_record

ids = st.binary(min_size=1, max_size=3)
sets = st.frozensets(ids, max_size=4)
phases = st.sampled_from(Phase)
states = st.builds(
    RoundState,
    st.text(max_size=9),
    st.integers(0, 2**63),
    st.integers(1, 9),
    phases,
    st.integers(0, 99),
    st.integers(0, 2**63),
    deadline=st.none() | st.integers(0, 2**63),
    cohort=sets,
    members=sets,
    pending=sets,
    arrived=sets,
    survivors=sets,
    lost=st.dictionaries(ids, st.builds(Loss, phases, st.text(max_size=9)), max_size=4),
    closing=st.booleans(),
    reason=st.text(max_size=9),
    digest=st.binary(max_size=32),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(states)
def test_a_state_comes_back_exactly_through_json(state: RoundState) -> None:
    text = json.dumps(to_record(state), sort_keys=True)
    assert from_record(json.loads(text)) == state
    assert json.dumps(to_record(from_record(json.loads(text))), sort_keys=True) == text


@given(states, st.data())
def test_a_record_with_any_other_value_is_refused_or_is_another_state(
    state: RoundState, data: st.DataObject
) -> None:
    record: dict[str, Any] = to_record(state)
    name = data.draw(st.sampled_from(sorted(record)))
    was, record[name] = record[name], data.draw(json_values)
    try:
        found = from_record(record)
    except StoreError:
        return
    assert (found == state) == (record[name] == was)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("phase", "RESTING"),
        ("round", True),
        ("closing", 1),
        ("cohort", ["62", "61"]),
        ("cohort", ["61", "61"]),
        ("arrived", ["6 1"]),
        ("digest", "AB"),
        ("digest", "xy"),
        ("lost", {"61": ["KEYS"]}),
        ("lost", {"61": ["NOWHERE", "x"]}),
        ("lost", {"61": ["KEYS", 3]}),
        ("lost", {"6": ["KEYS", "x"]}),
        ("deadline", "soon"),
        ("task_id", 3),
        ("lost", []),
        ("members", "61"),
        ("since", -1),
    ],
)
def test_a_damaged_field_is_refused_by_its_name(name: str, value: object) -> None:
    record = to_record(RoundState.opened("t", round=0, attempt=1, at=0))
    with pytest.raises(StoreError) as caught:
        from_record({**record, name: value})
    assert re.match(rf"{name} |it is not in the one form", caught.value.why)


@given(json_values)
def test_what_is_no_record_at_all_is_refused(value: Any) -> None:
    with pytest.raises(StoreError):
        from_record(value)
