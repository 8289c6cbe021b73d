"""The commands of docs/privacy.md about a ledger run as they stand, on a ledger that is spent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedcore.cli import main
from fedcore.privacy import Ledger
from tests.docs.blocks import blocks_of, commands_of
from tests.private_terms import planned


def test_every_command_about_a_ledger_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with Ledger.create("DIR", planned()) as ledger:
        Path("HEAD.json").write_text(json.dumps(ledger.head.to_json()), "utf-8")
    commands = [words for b in blocks_of("docs/privacy.md", "console") for words in commands_of(b)]
    assert len(commands) >= 5
    for words in commands:
        assert words[:2] == ["fed", "privacy"]
        assert main(words[1:]) == 0, capsys.readouterr().err
    assert json.loads(Path("certificate.json").read_text("utf-8"))["version"] == 1
