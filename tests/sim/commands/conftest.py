"""A scenario's file that is simulated in milliseconds, and commands that run in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedcore.cli import main
from tests.sim.scenarios import scenario_of

Ran = tuple[int, str, str]


class Fed:
    """Runs `fed sim` with some words: its exit code, standard output and standard error."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: object) -> Ran:
        self._capsys.readouterr()
        code = main(["sim", *map(str, words)])
        said = self._capsys.readouterr()
        return code, said.out, said.err

    def done(self, *words: object) -> str:
        """Standard output of what has to go well."""
        code, out, err = self(*words)
        assert code == 0, err
        return out


@pytest.fixture
def fed(capsys: pytest.CaptureFixture[str]) -> Fed:
    return Fed(capsys)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a scenario, in the working folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.toml"
    path.write_text(scenario_of(rounds=3).text)
    return path
