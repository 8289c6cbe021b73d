"""What a study sends is what its devices have to upload and download."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from fedsim import World
from fedsim.clock import Work
from fedsim.modes.studies import study_work
from fedsim.run.folder import RunFolder
from fedsim.run.simulation import plan_of, simulate_in_folder
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


def test_a_model_of_ones_own_is_trained_as_long_as_the_one_of_all() -> None:
    found, task, _ = _work('name = "ditto"')
    assert found.examples.tolist() == (2 * task.examples).tolist()
    assert (found.model_bytes, found.update_bytes) == (task.model_bytes, task.update_bytes)


def test_the_loss_that_weighs_a_client_takes_a_way_through_the_model_but_none_back() -> None:
    found, task, _ = _work('name = "qfedavg"')
    rows = task.examples // 2  # of two epochs
    assert found.examples.tolist() == (task.examples + np.ceil(rows / 3)).tolist()


@pytest.mark.parametrize("name", ["fedavg", "fednova", "feddyn", "fedper", "scaffold"])
def test_all_others_train_once(name: str) -> None:
    found, task, _ = _work(f'name = "{name}"')
    assert found.examples.tolist() == task.examples.tolist()


def test_devices_take_the_time_that_their_algorithm_does(tmp_path: Path) -> None:
    """A speed of which nothing else takes time: Ditto's rounds last twice as long."""
    ends = {}
    for name, times in (("fedavg", 1), ("ditto", 2)):
        scenario = scenario_of(
            mode="plain",
            algorithm=f'name = "{name}"',
            more='devices.compute = { kind = "fixed", value = 100.0 }',
            rounds=2,
        )
        with RunFolder.create(tmp_path, plan_of(scenario)) as folder:
            ends[name] = simulate_in_folder(scenario, folder).totals.virtual_s / times
    assert ends["ditto"] == ends["fedavg"] > 0


def test_control_variates_take_their_time_both_ways(tmp_path: Path) -> None:
    found = {}
    for name in ("fedavg", "scaffold"):
        scenario = scenario_of(
            mode="plain",
            algorithm=f'name = "{name}"',
            more='devices.download = { kind = "fixed", value = 8000.0 }\n'
            'devices.upload = { kind = "fixed", value = 2000.0 }',
            rounds=2,
        )
        with RunFolder.create(tmp_path, plan_of(scenario)) as folder:
            found[name] = simulate_in_folder(scenario, folder).totals
    one, other = found["fedavg"], found["scaffold"]
    assert (other.bytes_down, other.bytes_up) == (2 * one.bytes_down, 2 * one.bytes_up)
    assert other.virtual_s == pytest.approx(2 * one.virtual_s, abs=0.01)


def test_a_compressed_update_is_shorter_and_the_model_is_not() -> None:
    compression = 'study.compression = { name = "random_k", fraction = 0.25 }'
    found, task, dimension = _work('name = "fedavg"', compression)
    kept = math.ceil(0.25 * dimension)
    assert found.model_bytes == task.model_bytes
    assert found.update_bytes == math.ceil(task.update_bytes * kept / dimension)
