"""What the demo's private model is held against: the same task without privacy, apart, and pooled.

Each is computed in this process by `train_in_process`, which does what devices and a server do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedcore.data import Dataset
from fedcore.federated import Task, train_in_process
from fedcore.federated.flat import FlatModel
from fedcore.metrics import accuracy
from fedcore.training import evaluate

__all__ = ["Rivals", "accuracy_of", "compare"]

TASK = Path(__file__).parent / "tasks/digits-plain.toml"


class Rivals(NamedTuple):
    """Accuracies: of federated averaging and of pooled images by round, of writers at the end."""

    plain: list[float]
    alone: dict[str, float]
    pooled: list[float]


def compare(writers: Mapping[str, Dataset], test: Dataset, *, rounds: int) -> Rivals:
    """What the same model reaches on `test` without privacy, in `rounds` rounds.

    Alone, a writer averages with nobody; pooled, one holder has all images.
    """
    task = Task.from_toml(TASK).resolved()
    task = replace(task, rounds=replace(task.rounds, count=rounds))

    def reached(clients: Mapping[str, Dataset]) -> list[float]:
        return [accuracy_of(task, theta, test) for theta in train_in_process(task, clients)]

    def at_last(name: str, data: Dataset) -> float:
        return accuracy_of(task, train_in_process(task, {name: data})[-1], test)

    pooled = Dataset(
        np.concatenate([data.x for data in writers.values()]),
        np.concatenate([data.y for data in writers.values()]),
    )
    return Rivals(
        reached(writers),
        {name: at_last(name, data) for name, data in writers.items()},
        reached({"pooled": pooled}),
    )


def accuracy_of(task: Task, theta: NDArray[np.float32], test: Dataset) -> float:
    """The share of `test` that the task's model of this vector tells right."""
    model = FlatModel(task).model(theta)
    found = evaluate(model, test, metrics=[accuracy])
    return found["accuracy"]
