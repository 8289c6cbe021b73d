"""Each scenario that the project brings is simulated, and each command of the guide runs."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from fedsim.run.reading import read_run
from tests.conftest import ROOT
from tests.sim.commands.conftest import Fed

pytestmark = pytest.mark.slow

SCENARIOS = sorted((ROOT / "simulations/scenarios").glob("*.toml"))
GUIDE = (ROOT / "docs/simulation.md").read_text("utf-8")


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_every_scenario_of_the_project_is_simulated(
    fed: Fed, tmp_path: Path, path: Path, request: pytest.FixtureRequest
) -> None:
    pytest.importorskip("sklearn", reason="scenarios read the digits of the extra 'demo'")
    if path.stem.startswith("mnist"):
        request.getfixturevalue("shared_data")
    fed.done("run", path, "--folder", tmp_path / "a", "--rounds", 2, "--workers", 1)
    result = read_run(tmp_path / "a").result
    assert result is not None and result.totals.rounds == 2
    assert result.test is not None and result.test.accuracy is not None
    named = re.search(r'^mode = "(\w+)"', path.read_text("utf-8"), re.MULTILINE)
    assert named is not None and result.run.mode.value == named[1]


def test_every_command_of_the_guide_runs_in_the_order_in_which_they_stand(
    fed: Fed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn", reason="scenarios read the digits of the extra 'demo'")
    for name in ("simulations/scenarios", "examples/tasks"):
        shutil.copytree(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    lines = [shlex.split(line, comments=True) for line in re.findall(r"^\$ (.*)$", GUIDE, re.M)]
    assert len(lines) >= 8
    for words in lines:
        if words[0] == "cd":
            monkeypatch.chdir(words[1])
        else:
            assert words[:2] == ["fed", "sim"], words
            # Processes take a second to start, and find the same models.
            alone = ["--workers", "1"] if words[2] in ("run", "sweep") else []
            fed.done(*words[2:], *alone)
    assert read_run(Path("runs/longer")).result is not None


def test_the_guide_names_every_file_of_a_runs_folder(fed: Fed, file: Path) -> None:
    fed.done("run", file, "--folder", "a", "-q")
    named = set(re.findall(r"`([\w.-]+)(?:/[^`]*)?`", GUIDE))
    assert {path.name for path in Path("a").iterdir()} - {"lock"} <= named
