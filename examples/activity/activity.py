"""Sixteen people's phones and watches learn what people do, and seven others are recognised.

A model that one person trains alone knows how that person moves. What is measured is how well each
model knows people whom it has never met.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import DataFormatError, FedcoreError
from fedcore.federated.flat import FlatModel
from fedcore.federated.reference import train_in_process
from fedcore.training import accuracy, evaluate
from fedsim import World, scenario_with, simulate

SCENARIO = Path(__file__).with_suffix(".toml")


def compare(settings: Mapping[str, Any]) -> dict[str, float]:
    """The table: by row the share of strangers' windows whose activity is told right."""
    scenario = scenario_with(SCENARIO, settings)
    world = World.of(scenario)
    test, model = world.source.test, FlatModel(scenario.task).model
    assert test is not None
    print(f"{len(world.population)} people train; {len(test)} windows of others are tested on\n")

    def reached(theta: NDArray[np.float32]) -> float:
        return evaluate(model(theta), test, metrics=[accuracy])["accuracy"]

    federated = simulate(scenario, world=world)
    alone = [
        reached(train_in_process(scenario.task, {one.name: one.dataset})[-1])
        for one in world.population
    ]
    pooled = train_in_process(scenario.task, {"all of them": world.source.train})[-1]
    return {
        "federated": reached(federated.theta),
        "all recordings in one place": reached(pooled),
        "one person alone, best": max(alone),
        "one person alone, mean": sum(alone) / len(alone),
        "one person alone, worst": min(alone),
        "always the commonest activity": float(np.bincount(test.y).max() / len(test)),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table and returns an exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="the official folder, or that of har_sp_sw.npz")
    parser.add_argument("--rounds", type=int, help="in place of the scenario's 20")
    options = parser.parse_args(argv)
    settings: dict[str, Any] = {}
    if options.data is not None:
        settings["population.source.path"] = str(options.data.resolve())
    if options.rounds is not None:
        settings["rounds.count"] = options.rounds
    try:
        table = compare(settings)
    except DataFormatError as error:
        print(f"{error}\n  Or: pass --data FOLDER, where they lie already", file=sys.stderr)
        return 1
    except FedcoreError as error:
        print(error, file=sys.stderr)
        return 1
    for row, share in {"trained how": "accuracy on strangers", **table}.items():
        print(f"{row:<31}{share if isinstance(share, str) else format(share, '21.1%')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
