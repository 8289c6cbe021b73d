"""Each scenario that the project brings is simulated, and the guide knows what a run leaves."""

from __future__ import annotations

import re
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


def test_the_guide_names_every_file_of_a_runs_folder(fed: Fed, file: Path) -> None:
    fed.done("run", file, "--folder", "a", "-q")
    named = set(re.findall(r"`([\w.-]+)(?:/[^`]*)?`", GUIDE))
    assert {path.name for path in Path("a").iterdir()} - {"lock"} <= named
