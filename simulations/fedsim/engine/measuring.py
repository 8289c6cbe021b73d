"""How good a model is on rows of the data: what `evaluate_sums` finds, compiled where that pays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedcore.autograd.replay import Compiled, compile
from fedcore.data import Dataset
from fedcore.federated.choices import METRICS
from fedcore.federated.flat import FlatModel
from fedcore.federated.task import Task
from fedcore.metrics import measured
from fedcore.tensor.registry import operations

__all__ = ["PIECE", "Measuring", "pieces_of"]

Vector: TypeAlias = NDArray[np.float32]

PIECE: Final = 256
"""Rows that are measured at once, as on a device: sums of pieces in their order have its bits."""

# What is measured of a task that names no metrics, by its loss.
_USUAL: Final[Mapping[str, tuple[str, ...]]] = {
    "cross_entropy": ("accuracy",),
    "binary_cross_entropy": ("binary_accuracy",),
    "nll": ("accuracy",),
}
_PROGRAMS: Final = 4  # for lengths of clients' last pieces: each works in memory of its own


def pieces_of(data: Dataset) -> int:
    """How many pieces of rows a dataset has."""
    return data.steps_per_epoch(PIECE)


class Measuring:
    """Measures models of a task on rows of `data`."""

    def __init__(self, task: Task, flat: FlatModel, data: Dataset) -> None:
        self._flat, self._data = flat, data
        names = task.evaluation.metrics or _USUAL.get(task.training.loss or "", ())
        self._metrics = {name: METRICS[name] for name in names}
        self._seen: Counter[int] = Counter()
        self._programs: dict[int, Compiled] = {}

    def client(self, theta: Vector, rows: NDArray[np.int64]) -> dict[str, float]:
        """Sums over these rows for the model `theta` (D,), by the names of `evaluate_sums`.

        Raises: what the model and its loss raise for data that do not fit.
        """
        sums = self._nothing()
        for begin in range(0, len(rows), PIECE):
            self._add(sums, theta, rows[begin : begin + PIECE])
        return sums

    def piece(self, theta: Vector, number: int) -> dict[str, float]:
        """Sums over one of the pieces that all rows are cut into; raises as `client`."""
        sums = self._nothing()
        self._add(sums, theta, slice(number * PIECE, (number + 1) * PIECE))
        return sums

    def _nothing(self) -> dict[str, float]:
        names = ("loss", *self._metrics)
        return {"evaluation_examples": 0} | {f"evaluation_{name}": 0.0 for name in names}

    def _add(self, sums: dict[str, float], theta: Vector, rows: slice | NDArray[np.int64]) -> None:
        x, y = _single(self._data.x[rows]), _single(self._data.y[rows])
        weight = np.ones(len(y), np.float32)
        with np.errstate(all="ignore"):
            loss, *values = self._function(len(y))(theta, x, y, weight)
        sums["evaluation_examples"] += len(y)
        sums["evaluation_loss"] += loss.item() * len(y)
        for name, value in zip(self._metrics, values, strict=True):
            sums[f"evaluation_{name}"] += value.item()

    def _function(self, length: int) -> Any:
        """A replay where a length comes again; of many lengths, the first few."""
        found = self._programs.get(length)
        if found is not None:
            return found
        self._seen[length] += 1
        full = length == PIECE
        if self._seen[length] > 1 and (full or len(self._programs) < _PROGRAMS):
            found = self._programs[length] = compile(self._measure)
            return found
        return self._measure

    def _measure(self, theta: Any, x: Any, y: Any, weight: Any) -> tuple[Any, ...]:
        prediction = self._flat.model(theta)(x)
        sums = [
            operations.sum(measured(metric, prediction, y)) for metric in self._metrics.values()
        ]
        return self._flat.loss(prediction, y, weight=weight), *sums


def _single(array: NDArray[Any]) -> NDArray[Any]:
    """Floating data in the precision of the parameters."""
    return array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array
