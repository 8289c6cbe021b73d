"""What tells the runs of a sweep apart."""

from __future__ import annotations

from pathlib import Path

from fedsim.sweep.changes import Axis
from fedsim.sweep.grid import Grid

_SCENARIO = """
scenario = { name = "few" }
task = { name = "few", seed = 1 }
data = { dataset = "d" }
model = { layers = [{ kind = "linear", inputs = 3, outputs = 2 }] }
algorithm = { name = "fedavg" }
secure_aggregation = { profile = "off" }
rounds = { count = 1 }
cohort = { goal = 4, minimum = 4 }
[population]
source = { name = "synthetic", rows = 60, shape = [3], classes = 2 }
partition = { name = "iid" }
clients = 6
[training]
loss = "cross_entropy"
epochs = 1
batch_size = 5
optimizer = { name = "sgd", lr = 0.1 }
"""


def test_a_folder_is_named_by_what_is_different_without_marks(tmp_path: Path) -> None:
    file = tmp_path / "few.toml"
    file.write_text(_SCENARIO)
    axis = Axis.parse("algorithm.name=fedavg,fedavgm")
    folders = [point.folder for point in Grid(file, [axis], [1, 2]).points()]
    assert len(set(folders)) == 4
    assert folders[0].startswith("name=fedavg-seed=1-"), folders
