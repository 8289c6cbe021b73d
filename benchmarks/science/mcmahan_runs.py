"""Simulates the cells of the table, and notes what it found: hours for the paper's CNN.

`python -m benchmarks.science.mcmahan_runs simulate small RUNS` goes on wherever the folder RUNS
stands; `... record RUNS` writes what is there into `mcmahan.jsonl`, the table into this folder's
README, and the plots. One cell by itself:

    fed sim run benchmarks/science/mcmahan.toml --set training.batch_size=10 --set training.epochs=1
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.science.curves import Curve, curve_of
from benchmarks.science.mcmahan import (
    MODELS,
    PARTITIONS,
    Cell,
    CellRun,
    chart_of,
    read_runs,
    table_of,
    write_runs,
)
from benchmarks.science.scenarios import HERE, Enough, changed
from benchmarks.science.tables import put_table
from fedsim import RoundRecord, Scenario, read_run, simulate
from fedsim.run.reading import Run

__all__ = ["CHARTED", "PLANS", "Plan", "main", "recorded", "scenario_of"]

_SCENARIOS: Final[Mapping[str, Path]] = {
    "paper": HERE / "mcmahan.toml",
    "small": HERE / "mcmahan-small.toml",
}
CHARTED: Final[Mapping[str, int]] = {"iid": 200, "shards": 400}
"""Rounds that a plot shows."""


@dataclass(frozen=True)
class Plan:
    """How a cell is searched: every rate for `tried` rounds, the best of them to `most`.

    `every`: rounds between two measurements.
    """

    cell: Cell
    rates: tuple[float, ...]
    every: int
    tried: int
    most: int


_SMALL: Final = (
    Plan(Cell("iid", 5, 10), (0.1, 0.05, 0.2), 1, 10, 400),
    Plan(Cell("iid", 1, 10), (0.2, 0.1, 0.05), 1, 20, 800),
    Plan(Cell("iid", 1, 600), (0.4, 0.2, 0.8), 5, 100, 3000),
    Plan(Cell("iid", 5, 50), (0.2, 0.1, 0.4), 1, 15, 400),
    Plan(Cell("iid", 1, 50), (0.4, 0.2, 0.1), 2, 30, 1000),
    Plan(Cell("iid", 5, 600), (0.4, 0.2, 0.8), 2, 40, 1000),
    Plan(Cell("shards", 5, 10), (0.05, 0.02, 0.1), 1, 25, 400),
    Plan(Cell("shards", 1, 10), (0.2, 0.1, 0.05), 2, 40, 800),
    Plan(Cell("shards", 1, 600), (0.2, 0.1, 0.4), 5, 100, 3000),
    Plan(Cell("shards", 5, 50), (0.1, 0.05, 0.2), 2, 30, 400),
    Plan(Cell("shards", 1, 50), (0.4, 0.2, 0.1), 2, 60, 1000),
    Plan(Cell("shards", 5, 600), (0.2, 0.1, 0.4), 2, 40, 1000),
)
# A search costs days here: rates are near those that were best for the small model.
_PAPER: Final = (
    Plan(Cell("iid", 1, 10), (0.2,), 2, 150, 150),
    Plan(Cell("iid", 5, 10), (0.1,), 1, 60, 60),
    Plan(Cell("iid", 1, 600), (0.2,), 10, 1200, 1200),
    Plan(Cell("shards", 1, 10), (0.1,), 5, 800, 800),
    Plan(Cell("shards", 1, 600), (0.1,), 10, 1200, 1200),
    Plan(Cell("shards", 5, 10), (0.05,), 2, 400, 400),
)
PLANS: Final[Mapping[str, Sequence[Plan]]] = {"paper": _PAPER, "small": _SMALL}


def scenario_of(model: str, plan: Plan, rate: float) -> Scenario:
    """The scenario of a cell at a rate; it is never run for all of its 3,000 rounds."""
    settings: dict[str, Any] = {
        "population.partition.name": plan.cell.partition,
        "training.epochs": plan.cell.epochs,
        "training.batch_size": plan.cell.batch,
        "training.optimizer.lr": rate,
        "rounds.count": 3000,
        "scenario.evaluate_every": plan.every,
        "task.seed": 1,
    }
    return changed(_SCENARIOS[model], settings)


def recorded(run: Run) -> CellRun:
    """A run's folder as a line."""
    scenario: Any = run.scenario
    task: Any = run.task
    training, name = task["training"], task["task"]["name"]
    partition = scenario["population"]["partition"]["name"]
    return CellRun(
        model=next(model for model in MODELS if name == _SCENARIO_NAMES[model]),
        cell=Cell(partition, training["epochs"], training["batch_size"]),
        rate=float(training["optimizer"]["lr"]),
        seed=task["task"]["seed"],
        curve=curve_of(run.rounds),
    )


_SCENARIO_NAMES: Final = {"paper": "mnist-mcmahan", "small": "mnist-mcmahan-small"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    simulated = commands.add_parser("simulate", help="run all cells of a model, or go on")
    simulated.add_argument("model", choices=MODELS)
    simulated.add_argument("runs", type=Path)
    record = commands.add_parser("record", help="write lines, table and plots")
    record.add_argument("runs", type=Path)
    options = parser.parse_args(argv)
    if options.command == "record":
        _record(options.runs)
        return 0
    options.runs.mkdir(parents=True, exist_ok=True)
    for plan in PLANS[options.model]:
        _cell(options.model, plan, options.runs)
    return 0


def _record(folder: Path) -> None:
    """Lines of the runs in `folder` replace those of the same cells, rates and seeds."""
    found = [recorded(read_run(path)) for path in sorted(folder.iterdir())]
    new = {_key(run): run for run in found if run.curve}
    runs = [run for run in read_runs() if _key(run) not in new] + list(new.values())
    write_runs(runs)
    for model in MODELS:
        put_table(f"sim-mcmahan {model}", table_of(runs, model))
    for partition in PARTITIONS:
        picture = chart_of(runs, "small", partition, most=CHARTED[partition])
        (HERE / f"mcmahan-{partition}.svg").write_text(picture, "utf-8")


def _key(run: CellRun) -> tuple[str, Cell, float, int]:
    return run.model, run.cell, run.rate, run.seed


def _cell(model: str, plan: Plan, root: Path) -> None:
    curves = {rate: _advance(model, plan, rate, plan.tried, root) for rate in plan.rates}
    target = MODELS[model]
    if all(max(share for _, share in curve) < target for curve in curves.values()):
        _advance(model, plan, max(curves, key=lambda rate: _late(curves[rate])), plan.most, root)


def _late(curve: Curve) -> float:
    """The mean of the last third of what was measured."""
    last = curve[-max(1, len(curve) // 3) :]
    return sum(share for _, share in last) / len(last)


def _advance(model: str, plan: Plan, rate: float, most: int, root: Path) -> Curve:
    """Takes a run to the target, or to so many rounds; what it has measured until then."""
    scenario, cell = scenario_of(model, plan, rate), plan.cell
    path = root / f"{model}-{cell.partition}-E{cell.epochs}-B{cell.batch}-lr{rate}"
    if path.exists():
        curve = curve_of(read_run(path).rounds)
        if curve and (curve[-1][0] >= most or max(s for _, s in curve) >= MODELS[model]):
            return curve

    def follow(record: RoundRecord) -> None:
        if record.test is not None and record.test.accuracy is not None:
            print(path.name, record.round + 1, record.test.accuracy, file=sys.stderr)
            if record.test.accuracy >= MODELS[model] or record.round + 1 >= most:
                raise Enough

    with suppress(Enough):
        simulate(scenario, folder=path, on_round=follow)
    return curve_of(read_run(path).rounds)


if __name__ == "__main__":
    sys.exit(main())
