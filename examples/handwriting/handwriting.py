"""Hundreds of people teach a model to read digits, and nobody's handwriting leaves its device.

With MNIST and the names of its writers, or where those files are absent with scikit-learn's digits.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import DataFormatError, FedcoreError
from fedcore.federated.flat import FlatModel
from fedcore.federated.reference import train_in_process
from fedcore.training import accuracy, evaluate
from fedsim import RoundRecord, Scenario, World, scenario_with, simulate

MNIST = Path(__file__).with_suffix(".toml")
DIGITS = Path(__file__).with_name("digits.toml")
ALONE = 10  # writers whose models of their own are measured


def found(data: Path | None, settings: Mapping[str, int]) -> tuple[Scenario, World]:
    """MNIST's writers, or where the scenario does not find them, the digits.

    Raises: DataFormatError for a folder that was named and has no MNIST.
    """
    place = {} if data is None else {"population.source.path": str(data.resolve())}
    scenario = scenario_with(MNIST, {**settings, **place})
    try:
        return scenario, World.of(scenario)
    except DataFormatError as error:
        if data is not None:
            raise
        print(
            f"{error}\n  Or: pass --data FOLDER, where they lie already\n"
            "Goes on with scikit-learn's digits\n",
            file=sys.stderr,
        )
        scenario = scenario_with(DIGITS, settings)
        return scenario, World.of(scenario)


def show(record: RoundRecord) -> None:
    """A line, where the model was measured."""
    if record.test is not None:
        print(f"round {record.round + 1:>3}: {record.test.accuracy:.1%}", flush=True)


def compare(scenario: Scenario, world: World) -> dict[str, float]:
    """The table: by row the share of test images that a model reads right."""
    task, people, test = scenario.task, world.population, world.source.test
    assert test is not None
    model = FlatModel(task).model

    def reached(theta: NDArray[np.float32]) -> float:
        return evaluate(model(theta), test, metrics=[accuracy])["accuracy"]

    federated = simulate(scenario, world=world, on_round=show)
    # In one place as often as an image was looked at in the federation.
    rounds = max(1, round(task.rounds.count * task.cohort.goal / len(people)))
    pooled = train_in_process(task, {"all of them": world.source.train}, rounds=rounds)[-1]
    alone = [
        reached(train_in_process(task, {one.name: one.dataset})[-1])
        for one in islice(people, ALONE)
    ]
    return {
        f"federated, {len(people)} writers": reached(federated.theta),
        "all images in one place": reached(pooled),
        f"one writer alone, best of {len(alone)}": max(alone),
        "one writer alone, mean": sum(alone) / len(alone),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table and returns an exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="the folder with train-images-idx3-ubyte.gz …")
    parser.add_argument("--rounds", type=int, help="in place of the scenario's")
    options = parser.parse_args(argv)
    settings = {} if options.rounds is None else {"rounds.count": options.rounds}
    try:
        table = compare(*found(options.data, settings))
    except DataFormatError as error:
        print(f"{error}\n  Or: pass --data FOLDER, where they lie already", file=sys.stderr)
        return 1
    except FedcoreError as error:
        print(error, file=sys.stderr)
        return 1
    print()
    for row, share in {"trained how": "test accuracy", **table}.items():
        print(f"{row:<37}{share if isinstance(share, str) else format(share, '13.1%')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
