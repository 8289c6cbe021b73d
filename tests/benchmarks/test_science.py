"""What was recorded of published results is what tables and plots show, and can be run again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

from benchmarks import sim_algorithms, sim_personalisation, sim_robust, sim_scaffold
from benchmarks.science.curves import rounds_to, smoothed
from benchmarks.science.mcmahan import (
    MODELS,
    PAPER,
    PARTITIONS,
    Cell,
    CellRun,
    best,
    chart_of,
    read_runs,
    table_of,
    write_runs,
)
from benchmarks.science.mcmahan_runs import CHARTED, PLANS, recorded, scenario_of
from benchmarks.science.people import Served
from benchmarks.science.scenarios import HERE, changed, records_until
from benchmarks.science.tables import README, with_table
from benchmarks.sim_writers_dp import SCENARIO
from fedcore.data import Dataset
from fedcore.errors import DataFormatError
from fedsim.partition import Partition
from fedsim.population import Population
from fedsim.run.folder import RunFolder
from fedsim.run.reading import read_run
from fedsim.run.simulation import plan_of
from fedsim.scenario import Scenario
from fedsim.sources import Source
from fedsim.world import World
from tests.sim.scenarios import scenario_of as small_scenario

_CURVES = st.lists(st.floats(0, 1), min_size=1, max_size=8).map(
    lambda shares: [(2 * i + 1, share) for i, share in enumerate(shares)]
)


@given(curve=_CURVES, target=st.floats(0.01, 1))
def test_rounds_to_a_target_lie_in_the_stretch_that_first_reaches_it(
    curve: list[tuple[int, float]], target: float
) -> None:
    found = rounds_to(curve, target)
    first = next((i for i, (_, share) in enumerate(curve) if share >= target), None)
    if first is None:
        assert found is None
    else:
        assert found is not None
        assert (curve[first - 1][0] if first else 0) <= found <= curve[first][0]


@given(curve=_CURVES)
def test_a_smoothed_curve_never_falls_and_takes_as_many_rounds(
    curve: list[tuple[int, float]],
) -> None:
    shares = [share for _, share in smoothed(curve)]
    assert shares == sorted(shares)
    assert rounds_to(smoothed(curve), 0.5) == rounds_to(curve, 0.5)


def _run(cell: Cell, rate: float, *curve: tuple[int, float]) -> CellRun:
    return CellRun("small", cell, rate, 1, curve)


SGD, FIVE = Cell("iid", 1, 600), Cell("iid", 5, 10)


def test_the_best_run_of_a_cell_is_the_first_at_the_target_or_the_nearest_to_it() -> None:
    slow, fast = _run(FIVE, 0.1, (8, 0.98)), _run(FIVE, 0.2, (4, 0.98))
    near, far = _run(SGD, 0.1, (9, 0.97)), _run(SGD, 0.2, (9, 0.96))
    assert best([slow, near, fast, far], "small") == {FIVE: fast, SGD: near}
    assert best([slow], "paper") == {}


def test_a_row_has_rounds_the_speed_beside_fedsgd_and_the_papers() -> None:
    runs = [_run(SGD, 0.2, (100, 0.98)), _run(FIVE, 0.1, (10, 0.98))]
    lines = table_of(runs, "small").splitlines()
    assert "| FedSGD | 100 (1.0 ×) | 626 (1.0 ×) | 0.2 | – | 483 (1.0 ×) | – |" in lines
    assert "| FedAvg, E = 5, B = 10 | 10 (10.0 ×) | 20 (31.3 ×) | 0.1 |" in lines[-1]
    short = table_of([_run(SGD, 0.2, (100, 0.5))], "small")
    assert "50.00% after 100" in short


def test_lines_are_read_as_they_were_written(tmp_path: Path) -> None:
    runs = [_run(FIVE, 0.1, (1, 0.25), (2, 0.5)), _run(SGD, 0.2, (5, 0.125))]
    write_runs(runs, tmp_path / "lines")
    assert read_runs(tmp_path / "lines") == [
        replace(run, curve=list(run.curve)) for run in sorted(runs, key=lambda run: run.cell)
    ]


def test_the_readme_and_the_plots_show_what_was_recorded() -> None:
    runs, text = read_runs(), README.read_text("utf-8")
    assert {run.model for run in runs} == set(MODELS)
    for model in MODELS:
        assert with_table(text, f"sim-mcmahan {model}", table_of(runs, model)) == text
    for partition in PARTITIONS:
        drawn = chart_of(runs, "small", partition, most=CHARTED[partition])
        assert (HERE / f"mcmahan-{partition}.svg").read_text("utf-8") == drawn


def test_a_table_without_its_place_is_refused() -> None:
    with pytest.raises(DataFormatError, match="no place"):
        with_table("nothing", "t", "new")


def test_every_cell_of_the_paper_is_planned_and_what_was_recorded_was_planned() -> None:
    assert sorted(plan.cell for plan in PLANS["small"]) == sorted(PAPER)
    for run in read_runs():
        plan = next(plan for plan in PLANS[run.model] if plan.cell == run.cell)
        assert run.rate in plan.rates
        assert all(round % plan.every == 0 for round, _ in run.curve)


def test_a_folder_is_recorded_as_the_cell_that_it_ran(tmp_path: Path) -> None:
    plan = PLANS["small"][-1]
    scenario = scenario_of("small", plan, 0.2)
    with RunFolder.create(tmp_path, plan_of(scenario)) as folder:
        found = recorded(read_run(folder.path))
    assert found == CellRun("small", plan.cell, 0.2, 1, [])


@pytest.mark.parametrize("path", sorted(HERE.glob("*.toml")), ids=lambda path: path.stem)
def test_scenarios_are_accepted(path: Path) -> None:
    assert Scenario.from_toml(path).task.dimension > 0


def test_the_writers_scenario_takes_features_in_place_of_images() -> None:
    writers = np.arange(539).repeat(10)
    rows = Dataset(np.ones((5390, 1000), np.float32), np.tile(np.arange(10), 539))
    source = Source(rows, test=rows, ids=writers, classes=10)
    assert len(World.of(changed(SCENARIO, {}), source=source).population) == 539


def test_a_run_ends_at_its_target() -> None:
    scenario = small_scenario(mode="plain", rounds=50)
    records = records_until(scenario, World.of(scenario), accuracy=0.6)
    reached = [record.test is not None and record.test.accuracy >= 0.6 for record in records]  # type: ignore[operator]
    assert reached.index(True) == len(records) - 1


def test_scaffold_is_held_beside_averaging_by_their_means() -> None:
    rounds = [10.0, 20.0], [25.0, 35.0]
    figure = sim_scaffold.figure_of("sim-scaffold", rounds)
    assert (figure.value, figure.ratio, figure.meets) == (15.0, 0.5, True)
    unreached = [13.0], [98.0, 100.0]
    found = {"sim-scaffold": rounds, "sim-scaffold.all": unreached}
    partial, everybody = sim_scaffold.table_of(found).splitlines()[2:]
    assert partial.endswith("| 15.0 (10.0 to 20.0) | 30.0 (25.0 to 35.0) | 0.80 |")
    assert "over 99.0 (98.0 to over 100.0)" in everybody


def test_what_algorithms_send_is_counted_by_their_own_vectors() -> None:
    sent = {
        one.name: sim_algorithms.upload_bytes(one.scenario(1)) for one in sim_algorithms.ALGORITHMS
    }
    assert sent["scaffold"] == 2 * sent["fedavg"]
    assert sent["fednova"] == sent["fedavg"] + 4
    assert sent["fedper"] < sent["fedavg"]
    found = {name: [Served(80.0, 50.0), Served(82.0, 60.0)] for name in sent}
    row = sim_algorithms.table_of(found).splitlines()[2]
    assert row.startswith("| fedavg | 81.0 | 2.0 | 55.0 | 12.8 |")


def test_only_those_who_are_wrong_are_changed() -> None:
    rows = np.arange(72)
    data = Dataset(np.ones((72, 3), np.float32), rows % 6)
    people = Population(data, Partition.of(rows.reshape(36, 2)))
    scenario = small_scenario()
    world = replace(World.of(scenario), source=Source(data, classes=6), population=people)
    after = sim_robust.attacked(world, 30.0).population
    for place, (one, before) in enumerate(zip(after, people, strict=True)):
        wrong = place in sim_robust.WRONG
        assert (one.dataset.x == (30 if wrong else 1)).all()
        assert (one.dataset.y == (before.dataset.y + wrong) % 6).all()


def test_gains_are_points_over_training_alone() -> None:
    alone = np.full((4, 4), 0.5)
    found = {"alone": alone, "fedavg": alone - 0.1, "fedper": alone, "ditto": alone + 0.02}
    found["fedavg"][:, 2] -= 0.1
    averaging, _, ditto = sim_personalisation.figures_of(found)
    assert averaging.value == pytest.approx(-20) and averaging.unit.endswith("switzerland")
    assert ditto.value == pytest.approx(2) and ditto.meets
    assert "52.0 (+2.0 ± 0.0)" in sim_personalisation.table_of(found)
