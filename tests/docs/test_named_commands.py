"""A command that a page names within a sentence is one, with the options that it is given."""

from __future__ import annotations

import re

import pytest

from fedcore.cli import main
from tests.docs.blocks import PAGES, page

COMMANDS = "audit|ca|client|db|model|privacy|round|server|sim|task|token"


@pytest.mark.parametrize("name", PAGES)
def test_every_command_within_a_sentence_exists(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = " ".join(re.sub(r"```.*?```", "", page(name), flags=re.DOTALL).split())
    for line in set(re.findall(rf"`(fed (?:{COMMANDS}) [a-z][^`]*)`", text)):
        _, command, verb, *rest = line.split()
        capsys.readouterr()
        assert main([command, verb, "--help"]) == 0, line
        known = capsys.readouterr().out
        for option in (word for word in rest if word.startswith("--")):
            assert re.search(rf"{option}\b", known), line
