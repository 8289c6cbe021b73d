"""A command's output is data alone: strict JSON in a versioned envelope, or text for people."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from fedcore.console import ENVELOPE_VERSION, FORMATS, Console, ExitCode, Json, Parser, exit_code
from fedcore.errors import JoinStringError

DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def printed(console: Console, data: Json) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        console.show(data, "text")
    return out.getvalue()


def with_named_floats(value: Any) -> Any:
    if isinstance(value, list):
        return [with_named_floats(item) for item in value]
    if isinstance(value, dict):
        return {key: with_named_floats(item) for key, item in value.items()}
    unwritable = isinstance(value, float) and value - value != 0
    return str(value) if unwritable else value


@given(data=DATA, form=st.sampled_from(["json", "jsonl"]))
def test_an_envelope_is_standard_json_and_holds_the_data(data: Any, form: Any) -> None:
    text = printed(Console("a b", form), data)
    envelope = json.loads(text, parse_constant=pytest.fail)
    assert list(envelope) == ["version", "command", "data"]
    assert envelope["version"] == ENVELOPE_VERSION and envelope["command"] == "a b"
    assert envelope["data"] == with_named_floats(data)
    assert text.isascii() and (form == "json" or text.count("\n") == 1)


@pytest.mark.parametrize(
    "wrong",
    [b"x", {1: 2}, [{"a": object()}], {1, 2}, 1j],
    ids=["bytes", "integer key", "object", "set", "complex"],
)
def test_data_that_json_lacks_is_a_bug_of_the_command(wrong: Any) -> None:
    with pytest.raises(TypeError, match="JSON takes no"):
        printed(Console("a", "json"), wrong)
    assert printed(Console("a", "text"), wrong) == "text\n"


@pytest.mark.parametrize("form", FORMATS)
def test_many_results_come_one_by_one_or_as_one_document(form: Any) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        Console("a", form).show_each(
            (number, f"{number} after {len(out.getvalue().splitlines())}") for number in range(3)
        )
    text = out.getvalue()
    if form == "text":
        assert text == "0 after 0\n1 after 1\n2 after 2\n"
    elif form == "jsonl":
        assert [json.loads(line)["data"] for line in text.splitlines()] == [0, 1, 2]
    else:
        assert json.loads(text)["data"] == [0, 1, 2]


def test_every_subcommand_parses_with_the_same_strictness() -> None:
    parser = Parser("fed x")
    assert isinstance(parser.add_subparsers().add_parser("y"), Parser)
    assert not parser.allow_abbrev


def test_the_exit_codes_are_those_that_scripts_know() -> None:
    assert [int(code) for code in ExitCode] == [0, 1, 2, 3, 4, 5, 130]


def test_a_damaged_join_string_is_a_wrong_argument() -> None:
    assert exit_code(JoinStringError("it is damaged")) == ExitCode.ARGUMENTS
