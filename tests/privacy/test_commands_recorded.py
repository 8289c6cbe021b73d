"""The options of `fed privacy` and the figures that it shows are an interface, and on record."""

from __future__ import annotations

from pathlib import Path

from tests.privacy.commands_world import Fed
from tests.privacy.recorded_commands import QUESTIONS, on_record, options, recorded


def test_the_options_are_those_on_record() -> None:
    assert options() == on_record("options.json", options())


def test_the_answers_are_those_on_record(fed: Fed, tmp_path: Path) -> None:
    found = recorded(fed, tmp_path / "ledger")
    expected = on_record("answers.json", found)
    assert found.keys() == expected.keys() == QUESTIONS.keys()
    for name, answer in found.items():
        assert answer == expected[name], name
