"""What tells the runs of a sweep apart."""

from __future__ import annotations

from pathlib import Path

from fedsim.sweep.changes import Axis
from fedsim.sweep.grid import Grid
from tests.sim.scenarios import scenario_of


def test_a_folder_is_named_by_what_is_different_without_marks(tmp_path: Path) -> None:
    file = tmp_path / "small.toml"
    file.write_text(scenario_of().text)
    axis = Axis.parse("algorithm.name=fedavg,fedavgm")
    folders = [point.folder for point in Grid(file, [axis], [1, 2]).points()]
    assert len(set(folders)) == 4
    assert folders[0].startswith("name=fedavg-seed=1-"), folders
