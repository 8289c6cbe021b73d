"""What the demo's private model is held against: the same task without privacy, apart, and pooled.

Each is computed in this process by `train_in_process`, which does what devices and a server do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedcore.data import Dataset
from fedcore.federated import Task, train_in_process
from fedcore.federated.flat import FlatModel
from fedcore.metrics import accuracy
from fedcore.training import evaluate

__all__ = ["accuracy_of", "compare"]

TASK = Path(__file__).parent / "tasks/digits-plain.toml"


def compare(writers: Mapping[str, Dataset], test: Dataset, *, rounds: int) -> dict[str, float]:
    """The accuracies on `test`, by the row of the table: federated averaging for `rounds` rounds.

    Alone, a writer averages with nobody; pooled, one holder has all images.
    """
    task = Task.from_toml(TASK).resolved()
    task = replace(task, rounds=replace(task.rounds, count=rounds))

    def reached(clients: Mapping[str, Dataset]) -> float:
        return accuracy_of(task, train_in_process(task, clients)[-1], test)

    pooled = Dataset(
        np.concatenate([data.x for data in writers.values()]),
        np.concatenate([data.y for data in writers.values()]),
    )
    alone = [reached({name: data}) for name, data in writers.items()]
    return {
        "federated, without privacy": reached(writers),
        "each writer alone, best": max(alone),
        "each writer alone, mean": sum(alone) / len(alone),
        "each writer alone, worst": min(alone),
        "centralised, images pooled": reached({"pooled": pooled}),
    }


def accuracy_of(task: Task, theta: NDArray[np.float32], test: Dataset) -> float:
    """The share of `test` that the task's model of this vector tells right."""
    model = FlatModel(task).model(theta)
    found = evaluate(model, test, metrics=[accuracy])
    return found["accuracy"]
