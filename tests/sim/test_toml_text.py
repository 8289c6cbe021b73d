"""What is written as TOML is read as the same values."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from hypothesis import given, strategies as st

from fedcore.toml import parse
from fedsim.sweep.changes import Axis
from fedsim.toml_text import toml_text, toml_value

SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.text(max_size=8),
    st.decimals(
        allow_nan=False, allow_infinity=False, places=4, min_value=-(10**9), max_value=10**9
    ),
    st.dates(),
    st.datetimes(),
)
KEYS = st.text(max_size=6)
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_every_table_is_read_back(tables: dict[str, Any]) -> None:
    assert parse(toml_text(tables), "text") == tables


@given(VALUES)
def test_every_value_is_read_back_from_one_line(value: Any) -> None:
    text = toml_value(value)
    assert "\n" not in text and parse(f"x = {text}", "text") == {"x": value}


@given(st.lists(VALUES, min_size=1, max_size=3, unique_by=toml_value))
def test_the_values_of_an_axis_are_told_apart_whatever_commas_they_hold(values: list[Any]) -> None:
    axis = Axis.parse(f"a.b={','.join(map(toml_value, values))}")
    assert list(axis.values) == values


def test_a_float_stays_a_float() -> None:
    assert parse(toml_text({"x": 1.0, "y": Decimal("1e-7"), "z": [1e300]}), "text") == {
        "x": Decimal(1),
        "y": Decimal("1e-7"),
        "z": [Decimal("1e300")],
    }
