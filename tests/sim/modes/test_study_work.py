"""What a study sends is what its devices have to upload and download."""

from __future__ import annotations

from fedsim import Scenario, World
from fedsim.clock import Work
from fedsim.modes.studies import study_work

_SCENARIO = """
scenario = { name = "few", mode = "plain" }
task = { name = "few", seed = 1 }
data = { dataset = "d" }
model = { layers = [{ kind = "linear", inputs = 39, outputs = 5 }] }
secure_aggregation = { profile = "off" }
rounds = { count = 1 }
cohort = { goal = 4, minimum = 4 }
[population]
source = { name = "synthetic", rows = 60, shape = [39], classes = 5 }
partition = { name = "iid" }
clients = 6
[training]
loss = "cross_entropy"
epochs = 1
batch_size = 5
optimizer = { name = "sgd", lr = 0.1 }
"""


def _work(algorithm: str, study: str = "") -> tuple[Work, Work]:
    """Of a study, and of the task as a server runs it."""
    scenario = Scenario.from_toml(f"algorithm = {algorithm}\n{study}\n{_SCENARIO}")
    world = World.of(scenario)
    return study_work(scenario, world), Work.of(scenario.task, world.population.sizes())


def test_control_variates_double_both_ways() -> None:
    found, task = _work('{ name = "scaffold" }')
    assert found.model_bytes == 2 * task.model_bytes
    assert found.update_bytes == 2 * task.update_bytes


def test_a_compressed_update_is_shorter_and_the_model_is_not() -> None:
    compression = 'study.compression = { name = "random_k", fraction = 0.25 }'
    found, task = _work('{ name = "fedavg" }', compression)
    assert found.model_bytes == task.model_bytes
    assert found.update_bytes == task.update_bytes / 4
