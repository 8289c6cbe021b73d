"""624 roles of Shakespeare teach an LSTM which character comes next; then it speaks itself."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedcore.data import Dataset
from fedcore.errors import DataFormatError, FedcoreError
from fedcore.federated.flat import FlatModel
from fedcore.federated.reference import train_in_process
from fedcore.training import accuracy, evaluate, predict
from fedsim import RoundRecord, Scenario, World, scenario_with, simulate
from fedsim.sources.text import CHARACTERS

SCENARIO = Path(__file__).with_suffix(".toml")

Vector = NDArray[np.float32]


def show(record: RoundRecord) -> None:
    """A line, where the model was measured."""
    if record.test is not None:
        print(f"round {record.round + 1:>3}: {record.test.accuracy:.1%}", flush=True)


def after_one(train: Dataset, test: Dataset) -> float:
    """The share that is right by the last character alone, from counts of all pairs."""
    pairs = np.bincount(train.x.ravel() * np.int64(97) + train.y.ravel(), minlength=97**2)
    likeliest = pairs.reshape(97, 97).argmax(axis=1)
    return float((likeliest[test.x] == test.y).mean())


def speech(scenario: Scenario, theta: Vector, start: str, *, length: int) -> str:
    """What the model says after `start`, drawn character by character."""
    model, draw = FlatModel(scenario.task).model(theta), np.random.default_rng(1)
    codes = [CHARACTERS.index(character) for character in start]
    for _ in range(length):
        scores = predict(model, np.array([codes[-40:]], np.uint8))[0, -1] / 0.6
        chances = np.exp(scores - scores.max(), dtype=np.float64)
        codes.append(int(draw.choice(len(chances), p=chances / chances.sum())))
    return "".join(CHARACTERS[code] for code in codes)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table and a speech, and returns an exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="with shakespeare_37plays_by_role.json, or it")
    parser.add_argument("--rounds", type=int, help="in place of the scenario's 15")
    parser.add_argument("--roles", type=int, default=3, help="of middling length, to train alone")
    options = parser.parse_args(argv)
    settings: dict[str, Any] = {}
    if options.data is not None:
        settings["population.source.path"] = str(options.data.resolve())
    if options.rounds is not None:
        settings["rounds.count"] = options.rounds
    try:
        scenario = scenario_with(SCENARIO, settings)
        world = World.of(scenario)
        train, test = world.source.train, world.source.test
        assert test is not None
        model = FlatModel(scenario.task).model
        theta = simulate(scenario, world=world, on_round=show).theta
        order = np.argsort(world.population.sizes(), kind="stable")
        middling = order[(len(order) - options.roles) // 2 :][: options.roles].tolist()
        alone = [
            train_in_process(scenario.task, {one.name: one.dataset})[-1]
            for one in (world.population[place] for place in middling)
        ]
    except DataFormatError as error:
        print(f"{error}\n  Or: pass --data FOLDER, where they lie already", file=sys.stderr)
        return 1
    except FedcoreError as error:
        print(error, file=sys.stderr)
        return 1
    right = [evaluate(model(one), test, metrics=[accuracy])["accuracy"] for one in (theta, *alone)]
    rows = {
        f"federated, {len(world.population)} roles": right[0],
        f"one role alone, mean of {len(alone)}": sum(right[1:]) / len(alone),
        "by the last character alone": after_one(train, test),
        "always a blank": float((test.y == CHARACTERS.index(" ")).mean()),
    }
    print(f"\n{'predicted how':<36}{'characters right':>16}")
    for row, share in rows.items():
        print(f"{row:<36}{share:16.1%}")
    print(f"\n{speech(scenario, theta, 'O Romeo, ', length=160)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
