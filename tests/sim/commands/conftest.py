"""A scenario's file that is simulated in milliseconds, and commands that run in this process.

Which commands are installed is asked once, and the scenario is simulated once for all tests that
only look at what a run leaves behind.
"""

from __future__ import annotations

import shutil
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from fedcore import cli
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


@pytest.fixture(scope="session")
def installed() -> dict[str, list[EntryPoint]]:
    return cli._entry_points()


@pytest.fixture
def fed(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    installed: dict[str, list[EntryPoint]],
) -> Fed:
    monkeypatch.setattr(cli, "_entry_points", lambda: installed)
    return Fed(capsys)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a scenario, in the working folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.toml"
    path.write_text(scenario_of(rounds=3).text)
    return path


class Ended:
    """Copies of one run of the scenario in `file`, which has come to its end."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def copied(self, name: str) -> Path:
        """A folder in the working folder that is as a run in it would have left it."""
        return Path(shutil.copytree(self._path, name))


@pytest.fixture(scope="session")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    folder = tmp_path_factory.mktemp("ended")
    source = folder / "small.toml"
    source.write_text(scenario_of(rounds=3).text)
    assert main(["sim", "run", str(source), "--folder", str(folder / "run"), "-q"]) == 0
    return Ended(folder / "run")
