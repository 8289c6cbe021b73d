"""A census under differential privacy: what a promise to every person costs, promise by promise.

Places, an occupation each, train under secure aggregation; the server sees noisy sums alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import DataFormatError, FedcoreError
from fedcore.federated.flat import FlatModel
from fedcore.federated.reference import train_in_process
from fedcore.training import accuracy, evaluate
from fedsim import World, scenario_with, simulate

PRIVATE = Path(__file__).with_suffix(".toml")
OPEN = Path(__file__).with_name("without_privacy.toml")
EPSILONS = (1.0, 0.3, 0.05)


def show(row: str, share: float, spent: str = "") -> None:
    """A row of the table."""
    print(f"{row:<34}{share:13.1%}{spent:>14}".rstrip(), flush=True)


def compare(place: Mapping[str, str], rounds: Mapping[str, int], epsilons: Sequence[float]) -> None:
    """Prints the table: by row the share of people of the official test set that is told right."""
    scenario = scenario_with(OPEN, place)
    world = World.of(scenario)
    task, test, model = scenario.task, world.source.test, FlatModel(scenario.task).model
    assert test is not None

    def reached(theta: NDArray[np.float32]) -> float:
        return evaluate(model(theta), test, metrics=[accuracy])["accuracy"]

    print(f"{'trained how':<34}{'test accuracy':>13}{'epsilon spent':>14}")
    for epsilon in epsilons:
        settings = {**place, **rounds, "privacy.epsilon": epsilon}
        private = simulate(scenario_with(PRIVATE, settings))
        assert private.result.privacy is not None
        spent = f"{private.result.privacy.epsilon:.2f}"
        show(f"private, epsilon at most {epsilon}", reached(private.theta), spent)
    federated = simulate(scenario, world=world)
    show("federated, nothing promised", reached(federated.theta), "infinite")
    alone = [
        reached(train_in_process(task, {one.name: one.dataset})[-1]) for one in world.population
    ]
    show("one occupation alone, mean", sum(alone) / len(alone))
    show("always 50,000 dollars at most", float((test.y == 0).mean()))


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table and returns an exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="the folder with adult.data and adult.test")
    parser.add_argument("--rounds", type=int, help="in place of the private scenario's 40")
    parser.add_argument("--epsilon", type=float, nargs="+", default=EPSILONS, metavar="E")
    options = parser.parse_args(argv)
    place = {} if options.data is None else {"population.source.path": str(options.data.resolve())}
    rounds = {} if options.rounds is None else {"rounds.count": options.rounds}
    try:
        compare(place, rounds, options.epsilon)
    except DataFormatError as error:
        print(f"{error}\n  Or: pass --data FOLDER, where they lie already", file=sys.stderr)
        return 1
    except FedcoreError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
