"""The fixtures that the tests of several files of this folder share."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache

import pytest

from fedcore import cli
from fedcore.cli import main
from fedcore.privacy import accounting, ledger_history
from fedcore.privacy.events import Event
from fedcore.privacy.units import Adjacency
from tests.errors_said import every_error_says_all
from tests.privacy.commands_world import Fed

__all__ = ["coarse_losses", "every_error_says_all", "fed"]

_installed = cache(cli._entry_points)


@pytest.fixture
def coarse_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Privacy loss distributions on no finer a grid than it takes to tell figures apart.

    Whoever asks for the same again, as for text and then for JSON, is told what was found.
    """
    real = accounting.pld_epsilon
    found: dict[tuple[object, ...], float] = {}

    def coarse(spend: Mapping[Event, int], *, adjacency: Adjacency, delta: float) -> float:
        asked = (*spend.items(), adjacency, delta)
        if asked not in found:
            found[asked] = real(spend, adjacency=adjacency, delta=delta, interval=2e-3)
        return found[asked]

    monkeypatch.setattr(accounting, "pld_epsilon", coarse)
    monkeypatch.setattr(ledger_history, "pld_epsilon", coarse)


@pytest.fixture
def fed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, coarse_losses: None
) -> Fed:
    """Runs `fed privacy` here: its exit code, standard output and standard error.

    It waits for no disk, and which commands are installed is looked up once for all.
    """
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(cli, "_entry_points", _installed)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["privacy", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return (code, out, err)

    return run
