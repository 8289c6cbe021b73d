"""What a study sends is what its devices have to upload and download."""

from __future__ import annotations

import math

from fedsim import World
from fedsim.clock import Work
from fedsim.modes.studies import study_work
from tests.sim.scenarios import scenario_of


def _work(algorithm: str, more: str = "") -> tuple[Work, Work, int]:
    """Of a study, and of the task as a server runs it, which has so many parameters."""
    scenario = scenario_of(mode="plain", algorithm=algorithm, more=more)
    world = World.of(scenario)
    task = Work.of(scenario.task, world.population.sizes())
    return study_work(scenario, world), task, scenario.task.dimension


def test_control_variates_double_both_ways() -> None:
    found, task, _ = _work('name = "scaffold"')
    assert found.model_bytes == 2 * task.model_bytes
    assert found.update_bytes == 2 * task.update_bytes


def test_a_compressed_update_is_shorter_and_the_model_is_not() -> None:
    compression = 'study.compression = { name = "random_k", fraction = 0.25 }'
    found, task, dimension = _work('name = "fedavg"', compression)
    kept = math.ceil(0.25 * dimension)
    assert found.model_bytes == task.model_bytes
    assert found.update_bytes == math.ceil(task.update_bytes * kept / dimension)
