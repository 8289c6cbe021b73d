"""What a program hands over is taken as it is meant, or refused in words of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedcore.data import Dataset
from fedcore.errors import ArgumentError, TaskError
from fedsim import Scenario, World, scenario_with
from tests.sim.scenarios import scenario_of


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(scenario_of().text)
    return path


@pytest.mark.parametrize(
    ("number", "plain"),
    [(np.float32(0.5), 0.5), (np.float64(0.5), 0.5), (np.int64(2), 2), (np.uint8(2), 2)],
)
def test_a_number_of_numpy_is_the_number(study: Path, number: Any, plain: float) -> None:
    found = scenario_with(study, {"training.optimizer.lr": number})
    assert found.digest == scenario_with(str(study), {"training.optimizer.lr": plain}).digest


def test_paths_and_arrays_are_texts_and_lists_wherever_they_stand(study: Path) -> None:
    def with_rows(rows: Any, shape: Any) -> bytes:
        source = {"name": "synthetic", "rows": rows, "shape": shape, "classes": 3}
        return scenario_with(study, {"population.source": source}).digest

    assert with_rows(np.int64(60), np.array([6])) == with_rows(60, [6])
    source = {"name": "npz", "path": study.parent / "rows.npz"}
    found = scenario_with(study, {"population.source": source}).population.source
    assert dict(found.options)["path"] == str(study.parent / "rows.npz")


@pytest.mark.parametrize("value", [None, object(), 1j, b"x", {1: 2}, [None], np.bytes_(b"x")])
def test_what_toml_has_no_form_for_is_refused_with_its_path(study: Path, value: Any) -> None:
    with pytest.raises(ArgumentError, match=r"rounds\.count = ") as refused:
        scenario_with(study, {"rounds.count": value})
    assert refused.value.why and "TOML has no" in refused.value.why and refused.value.fix


@pytest.mark.parametrize("settings", [None, 5, "rounds.count=3", [("rounds.count", 3)], {1: 2}])
def test_settings_that_are_none_are_refused(study: Path, settings: Any) -> None:
    with pytest.raises(ArgumentError):
        scenario_with(study, settings)


@pytest.mark.parametrize("source", [None, 5, b"x", {}, ["a"], "study.toml", "runs/a-1/study.toml"])
def test_a_scenario_comes_from_a_path_or_from_its_text(source: Any) -> None:
    with pytest.raises(ArgumentError, match="a scenario from") as refused:
        Scenario.from_toml(source)
    assert "pathlib.Path" in refused.value.fix


def test_a_path_that_is_none_cannot_be_read_and_a_base_may_be_a_text(study: Path) -> None:
    with pytest.raises(TaskError, match="cannot be read"):
        Scenario.from_toml(Path("a\0b"))
    assert Scenario.from_toml(study.read_text(), base=str(study.parent)).base == study.parent


def test_a_world_is_of_a_scenario_and_of_a_source() -> None:
    rows = Dataset(np.zeros((3, 6), np.float32), np.arange(3))
    others: list[Any] = [Path("study.toml"), None, scenario_of().text]
    for other in others:
        with pytest.raises(ArgumentError, match="a world of"):
            World.of(other)
    wrong: Any = rows
    with pytest.raises(ArgumentError, match="as source Dataset"):
        World.of(scenario_of(), source=wrong)
