"""How good models are for people, on movements that were held out: for all, and the worst off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.dp_tasks import MNIST
from benchmarks.science.scenarios import HERE
from fedcore.federated.flat import FlatModel
from fedcore.training import accuracy, evaluate
from fedsim.scenario import Scenario
from fedsim.world import World

__all__ = ["DATA", "SCENARIO", "Served", "served"]

SCENARIO = HERE / "people.toml"
DATA = MNIST.with_name("wisdm")
_WORST = 4


@dataclass(frozen=True)
class Served:
    """In per cent: of all held-out rows, and the mean of the four people for whom it is lowest."""

    all: float
    worst: float


def served(scenario: Scenario, world: World, models: Mapping[str, NDArray[np.float32]]) -> Served:
    """By name the models (D,) of some clients, each measured on held-out rows of its own."""
    test, whose = world.source.test, world.source.test_ids
    assert test is not None and whose is not None
    model, by_person = FlatModel(scenario.task).model, whose.astype(str)
    right, rows = [], []
    for name, theta in models.items():
        own = test[by_person == name]
        found = evaluate(model(theta), own, metrics=[accuracy])
        right.append(found["accuracy"] * len(own))
        rows.append(len(own))
    shares = np.sort(np.array(right) / np.array(rows))
    return Served(100 * sum(right) / sum(rows), 100 * float(shares[:_WORST].mean()))
