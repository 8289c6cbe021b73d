"""What clients lack is refused where the model is measured on it, and only there."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedcore.data import Dataset
from fedcore.errors import DatasetError, TaskError
from fedsim.partition import PartitionSpec
from fedsim.scenario import Scenario
from fedsim.sources import Source, SourceSpec
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


def of_rows(path: Path, x: np.ndarray, y: np.ndarray) -> Scenario:
    """A scenario of these rows, held out of nothing."""
    np.savez(path, x=x, y=y)
    scenario = scenario_of(clients=12)
    source = SourceSpec.read({"name": "npz", "path": str(path), "held_out": 0.0}, "source")
    partition = PartitionSpec.read({"name": "iid"}, "partition")
    population = replace(scenario.population, source=source, partition=partition)
    return replace(scenario, population=population)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.zeros((60, 7)), np.arange(60) % 3),  # more features than the model has inputs
        (np.zeros((60, 0)), np.arange(60) % 3),
        (np.zeros((60, 6)), np.arange(60) % 3 + (np.arange(60) == 59)),  # one row of a fourth class
        (np.zeros((60, 6)), np.where(np.arange(60) == 30, 2**40, 0)),
    ],
)
def test_a_model_that_does_not_fit_its_data_is_refused_with_the_shape_that_does(
    tmp_path: Path, x: np.ndarray, y: np.ndarray
) -> None:
    with pytest.raises(TaskError, match="do not fit the rows") as refused:
        World.of(of_rows(tmp_path / "rows.npz", x, y))
    assert f"shape {x.shape[1:]}" in refused.value.fix


REGRESSION = {'"cross_entropy"': '"mse"', "outputs = 3": "outputs = 1"}
CODES = {"path =": "codes = true, path ="}
EMBEDDED = {
    'kind = "linear"\ninputs = 6': 'kind = "embedding"\ncount = 9\nfeatures = 8\n'
    '[[model.layers]]\nkind = "flatten"\n[[model.layers]]\nkind = "linear"\ninputs = 48'
}


def test_rows_of_another_kind_than_the_task_reads_are_told_by_their_kind(tmp_path: Path) -> None:
    """And what is told does: the text of the scenario is changed as it says."""
    numbers, classes = np.zeros((60, 6)), np.arange(60) % 3
    cases = [
        ((numbers, np.linspace(0.0, 1.0, 60)), {}, REGRESSION, "save y as integers"),
        ((numbers, classes), {'"cross_entropy"': '"mse"'}, {'"mse"': '"cross_entropy"'}, "loss"),
        ((numbers.astype(int), classes), CODES, {"codes = true, ": ""}, "codes out"),
        ((numbers.astype(int), classes), CODES, EMBEDDED, "begins with an embedding"),
        ((numbers.astype(int), classes), EMBEDDED, CODES, "source.codes = true"),
    ]
    for number, ((x, y), wrong, right, said) in enumerate(cases):
        path = tmp_path / f"{number}.npz"
        np.savez(path, x=x, y=y)
        source = f'source = {{ name = "npz", path = "{path.name}" }}'
        text = scenario_of(partition='name = "iid"').text
        text = _changed(re.sub("source = .*", source, text), wrong)
        with pytest.raises(TaskError, match="do not fit the rows") as refused:
            World.of(Scenario.from_toml(text, base=tmp_path))
        assert said in refused.value.fix and "shape" not in refused.value.fix
        World.of(Scenario.from_toml(_changed(text, right), base=tmp_path))


def _changed(text: str, changes: dict[str, str]) -> str:
    for before, after in changes.items():
        assert before in text
        text = text.replace(before, after)
    return text


def with_batches(size: int) -> Scenario:
    scenario = scenario_of(clients=12)
    training = replace(scenario.task.training, batch_size=size)
    return replace(scenario, task=replace(scenario.task, training=training))


def test_a_batch_that_is_nearly_all_filling_is_refused_with_one_that_holds_all_rows() -> None:
    scenario = with_batches(2**20)
    with pytest.raises(TaskError, match="no client has more than") as refused:
        World.of(scenario)
    largest = int(refused.value.fix.split("batch_size = ")[1].split(":")[0])
    assert World.of(with_batches(largest))


def test_rows_prepared_elsewhere_stand_in_for_those_that_a_scenario_would_load(
    tmp_path: Path,
) -> None:
    scenario = of_rows(tmp_path / "rows.npz", np.ones((60, 7)), np.arange(60) % 3)
    loaded = scenario.population.source.load(scenario.base)
    narrow = replace(loaded, train=Dataset(loaded.train.x[:, :6], loaded.train.y))
    world = World.of(scenario, source=narrow)
    assert world.population.data.x.shape == (60, 6) and len(world.population) == 12
    with pytest.raises(TaskError, match="do not fit the rows"):
        World.of(scenario, source=loaded)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("part", ["train", "test"])
def test_a_row_that_no_model_can_read_is_refused_before_anything_is_trained(
    part: str, bad: float
) -> None:
    """Its client would fail in every round, or every loss would be NaN, and nobody would know."""
    scenario = scenario_of(clients=12)
    rows = Dataset(np.zeros((60_000, 6)), np.arange(60_000) % 3)
    x = rows.x.copy()
    x[51_234, 2] = bad
    parts = {"train": rows, "test": rows, part: Dataset(x, rows.y, "mine")}
    with pytest.raises(DatasetError, match="mine: some features are NaN or infinite") as refused:
        World.of(scenario, source=Source(**parts, classes=3))
    assert refused.value.where == "row 51234"
