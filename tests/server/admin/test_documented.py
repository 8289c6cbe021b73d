"""docs/commands.md has an example of each verb, and no example has an option that is not there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from fedcore.cli import main

COMMANDS = (
    *("audit", "ca", "client", "db", "model", "privacy", "round", "server", "sim", "task"),
    "token",
)
_VERB = re.compile(r"^ {2,4}([a-z]+) {2,}\S", re.MULTILINE)


def examples(root: Path) -> list[list[str]]:
    text = (root / "docs/commands.md").read_text("utf-8")
    return [shlex.split(line, comments=True)[2:] for line in text.splitlines() if "$ fed " in line]


def help_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main([*words, "--help"]) == 0
    return capsys.readouterr().out


def verbs_of(text: str) -> set[str]:
    listed = re.split(r"^(?:Commands|positional arguments):$", text, flags=re.MULTILINE)[1]
    return set(_VERB.findall(listed.split("\n\n")[0]))


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_are_those_of_the_verbs_and_use_their_options(
    root: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    shown = [words for words in examples(root) if words[0] == command]
    assert {words[1] for words in shown} == verbs_of(help_of(capsys, command))
    for words in shown:
        text = help_of(capsys, *words[:2])
        for option in (word for word in words[2:] if word.startswith("--")):
            assert option == "--format" or re.search(rf"{option}\b", text), (words, option)
