"""A command that a page names within a sentence is one, with the options that it is given."""

from __future__ import annotations

import re
from collections import defaultdict

import pytest

from fedcore.cli import main
from tests.docs.blocks import PAGES, page

COMMANDS = "audit|ca|client|db|model|privacy|round|server|sim|task|token"


def test_every_command_within_a_sentence_exists(capsys: pytest.CaptureFixture[str]) -> None:
    named: dict[tuple[str, str], set[str]] = defaultdict(set)
    for name in PAGES:
        text = " ".join(re.sub(r"```.*?```", "", page(name), flags=re.DOTALL).split())
        for line in re.findall(rf"`(fed (?:{COMMANDS}) [a-z][^`]*)`", text):
            _, command, verb, *rest = line.split()
            named[command, verb].update(word for word in rest if word.startswith("--"))
    assert len(named) > 20
    for (command, verb), options in named.items():
        capsys.readouterr()
        assert main([command, verb, "--help"]) == 0, (command, verb)
        known = capsys.readouterr().out
        assert [one for one in options if not re.search(rf"{one}\b", known)] == [], (command, verb)
