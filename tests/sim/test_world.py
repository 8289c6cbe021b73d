"""What clients lack is refused where the model is measured on it, and only there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedcore.errors import TaskError
from fedsim.partition import PartitionSpec
from fedsim.scenario import Scenario
from fedsim.sources import SourceSpec
from fedsim.world import World
from tests.sim.scenarios import scenario_of


def with_rows(path: Path, *, train: list[int], test: list[int]) -> Scenario:
    """A scenario of rows of these classes, in a file, dealt to one client each twenty."""
    rows = {"x": np.zeros((len(train), 6)), "y": np.array(train)}
    held = {"x_test": np.zeros((len(test), 6)), "y_test": np.array(test)}
    np.savez(path, **rows, **held)
    scenario = scenario_of(clients=12)
    source = SourceSpec.read({"name": "npz", "path": str(path)}, "source")
    partition = PartitionSpec.read({"name": "iid"}, "partition")
    population = replace(scenario.population, source=source, partition=partition)
    return replace(scenario, population=population)


def test_a_class_that_is_tested_and_that_no_client_has_is_refused(tmp_path: Path) -> None:
    scenario = with_rows(tmp_path / "rows.npz", train=[0, 1] * 60, test=[0, 1, 2] * 20)
    with pytest.raises(TaskError, match="no client has the classes 2") as refused:
        World.of(scenario)
    assert "20 rows" in str(refused.value)


def test_a_letter_that_only_the_end_of_a_text_has_stops_nobody(tmp_path: Path) -> None:
    scenario = with_rows(tmp_path / "rows.npz", train=[0, 1] * 60, test=[0, 1] * 60 + [2])
    assert len(World.of(scenario).population) == 12
