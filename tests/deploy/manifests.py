"""What the manifests of deploy/ name has to be there: commands, options, ports, files, settings."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from fedcore.cli import main
from fedserver.config import Config, load
from tests.conftest import ROOT

__all__ = [
    "DEPLOY",
    "IMAGE_USER",
    "bytes_of",
    "option",
    "require_command",
    "seconds_of",
    "settings_in",
]

DEPLOY = ROOT / "deploy"
IMAGE_USER = 65532
_SECOND = {"s": 1, "m": 60}
_BYTE = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def settings_in(folder: str) -> Config:
    """The settings of a way to deploy, as the server would read them."""
    return load(DEPLOY / folder / "server.toml")


def require_command(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Fails unless `fed` has such a verb, with such options."""
    verb = list(words[:2])
    capsys.readouterr()
    assert main([*verb, "--help"]) == 0, verb
    known = capsys.readouterr().out
    for option in (word for word in words[2:] if word.startswith("--")):
        assert re.search(rf"{option}\b", known), (verb, option)


def seconds_of(text: str) -> int:
    """Of a duration as containers have it: "60s"."""
    return int(text[:-1]) * _SECOND[text[-1]]


def bytes_of(text: str) -> int:
    """Of a size as containers, Kubernetes and systemd have it: "2g", "2Gi", "2G"."""
    found = re.fullmatch(r"(\d+)([kmg])i?", text.lower())
    assert found is not None, text
    return int(found[1]) * _BYTE[found[2]]


def option(words: Sequence[str], name: str) -> str:
    """The value that a command line gives to an option."""
    return words[words.index(name) + 1]
