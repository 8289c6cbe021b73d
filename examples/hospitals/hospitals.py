"""Four hospitals whose people are unlike: one model for all, one each, or one made one's own.

Accuracies, and below them mean log losses, on patients whom no model was trained on: means over
several ways to hold a third of each hospital's patients out.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedcore import nn
from fedcore.errors import DataFormatError, FedcoreError
from fedcore.federated.flat import FlatModel
from fedcore.federated.reference import train_in_process
from fedcore.training import accuracy, evaluate
from fedsim import Scenario, World, own_models, scenario_with, simulate

SCENARIO = Path(__file__).with_suffix(".toml")
ALGORITHMS = {
    "federated averaging": {"name": "fedavg"},
    "FedPer: own last layer": {"name": "fedper", "layers": 1},
    "Ditto: own model, held near": {"name": "ditto", "lam": 0.3},
}
ALONE = "each hospital alone"

Models = Mapping[str, NDArray[np.float32]]
Table = dict[str, dict[str, tuple[float, float]]]


def models_of(scenario: Scenario, world: World) -> Models:
    """By hospital, the model that it uses after the scenario was simulated."""
    with tempfile.TemporaryDirectory() as root:
        simulate(scenario, folder=Path(root) / "run", world=world)
        return own_models(scenario, world, Path(root) / "run")


def trained_alone(scenario: Scenario, world: World) -> Models:
    """By hospital, the model that it trains just as long with nobody else."""
    return {
        one.name: train_in_process(scenario.task, {one.name: one.dataset})[-1]
        for one in world.population
    }


def measured(scenario: Scenario, world: World, models: Models) -> dict[str, tuple[float, float]]:
    """By hospital, accuracy and loss of its model on its own held-out patients."""
    test, whose = world.source.test, world.source.test_ids
    assert test is not None and whose is not None
    found = {}
    for name, theta in models.items():
        model = FlatModel(scenario.task).model(theta)
        of_it = evaluate(model, test[whose == name], loss=nn.cross_entropy, metrics=[accuracy])
        found[name] = (of_it["accuracy"], of_it["loss"])
    return found


def compare(*, data: Path | None, rounds: int, splits: int) -> Table:
    """By row and hospital, mean accuracy and loss over `splits` ways to hold patients out."""
    each: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    place = {} if data is None else {"population.source.path": str(data.resolve())}
    for split in range(splits):
        common = {**place, "rounds.count": rounds, "population.source.seed": split}
        rows = {}
        for row, algorithm in ALGORITHMS.items():
            scenario = scenario_with(SCENARIO, {**common, "algorithm": algorithm})
            world = World.of(scenario)
            rows[row] = measured(scenario, world, models_of(scenario, world))
        rows[ALONE] = measured(scenario, world, trained_alone(scenario, world))
        for row, by_hospital in rows.items():
            for hospital, pair in by_hospital.items():
                each[row][hospital].append(pair)
    return {
        row: {name: tuple(np.mean(pairs, axis=0).tolist()) for name, pairs in of_row.items()}
        for row, of_row in each.items()
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table and returns an exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="the folder with processed.cleveland.data …")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--splits", type=int, default=5, help="ways to hold patients out")
    options = parser.parse_args(argv)
    try:
        table = compare(data=options.data, rounds=options.rounds, splits=options.splits)
    except DataFormatError as error:
        print(f"{error}\n  Or: pass --data FOLDER, where they lie already", file=sys.stderr)
        return 1
    except FedcoreError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{'on held-out patients':<28}" + "".join(f"{name:>13}" for name in table[ALONE]))
    for row, of_row in table.items():
        print(f"{row:<28}" + "".join(f"{share:13.1%}" for share, _ in of_row.values()))
        print(f"{'':<28}" + "".join(f"{loss:13.3f}" for _, loss in of_row.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
