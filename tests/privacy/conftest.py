"""The fixtures that the tests of several files of this folder share."""

from __future__ import annotations

import os
from functools import partial

import pytest

from fedcore.cli import main
from fedcore.privacy import accounting, ledger_history
from tests.errors_said import every_error_says_all
from tests.privacy.commands_world import Fed

__all__ = ["every_error_says_all", "fed"]


@pytest.fixture
def fed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Fed:
    """Runs `fed privacy` here: its exit code, standard output and standard error.

    It waits for no disk, and for no grid finer than it takes to tell figures apart.
    """
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    coarse = partial(accounting.pld_epsilon, interval=2e-3)
    monkeypatch.setattr(accounting, "pld_epsilon", coarse)
    monkeypatch.setattr(ledger_history, "pld_epsilon", coarse)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["privacy", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return (code, out, err)

    return run
