"""Whether a scenario's model reads its data: asked of a few rows before anything is simulated."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fedcore.data import Dataset
from fedcore.errors import TaskError
from fedcore.federated.flat import FlatModel
from fedcore.federated.models import initial_theta
from fedcore.federated.task import Task
from fedsim.engine.jobs import described
from fedsim.engine.measuring import Measuring
from fedsim.sources import Source

__all__ = ["require_batch", "require_fit"]

_USUAL_BATCH: Final = 4096
_MOST_FILLED: Final = 16
_OF_CLASSES: Final = ("cross_entropy", "nll")
_OF_NUMBERS: Final = ("huber", "l1", "mse")


def require_fit(task: Task, source: Source, *, tested: bool) -> None:
    """Raises: TaskError where model and loss fail on rows with the extremes of what is there.

    `tested`: whether the test set is measured, too. A task whose loss its program alone knows is
    left to it. Raises also ProgramError, for a model that is not installed.
    """
    if task.training.loss is None:
        return
    flat, theta = FlatModel(task), initial_theta(task)
    for data in (source.train, source.test if tested else None):
        if data is None:
            continue
        try:
            Measuring(task, flat, data).client(theta, _extremes(data))
        except Exception as error:
            raise TaskError(
                f"the model and its loss do not fit the rows of {data.name!r}",
                why=described(error),
                fix=_remedy(task, source, data),
                where="model",
            ) from error


def require_batch(task: Task, largest: int) -> None:
    """Raises: TaskError for batches of which next to nothing is data. `largest`: rows of a client.

    Each batch has all its rows in memory, however few of them a client fills.
    """
    size = task.training.batch_size or 1
    if size > _USUAL_BATCH and size > _MOST_FILLED * largest:
        raise TaskError(
            f"training.batch_size = {size}, and no client has more than {largest} rows",
            why="a batch is filled up to its size, which is memory and time for nothing",
            fix=f"set batch_size = {largest}: all rows of each client are in one batch then, too",
            where="training.batch_size",
        )


def _remedy(task: Task, source: Source, data: Dataset) -> str:
    """What would do: other kinds of rows than the task reads, or else another shape of model."""
    layers, loss = task.model.layers, task.training.loss
    embeds = bool(layers) and layers[0].name == "embedding"
    if source.classes is None and loss in _OF_CLASSES:
        outputs = data.y.shape[-1]
        metrics = " and evaluation.metrics = []" if task.evaluation.metrics else ""
        return (
            f"save y as integers from 0, which are classes, or, for a regression, set "
            f'training.loss = "mse"{metrics}, and take a model of {outputs} outputs'
        )
    if source.classes is not None and loss in _OF_NUMBERS:
        return 'set training.loss = "cross_entropy", or save y as real numbers for a regression'
    if data.x.dtype.kind in "iu" and layers and not embeds:
        return "leave population.source.codes out, or take a model that begins with an embedding"
    if data.x.dtype.kind == "f" and embeds:
        return "set population.source.codes = true and save x as integers, or take no embedding"
    last = "" if source.classes is None else f", and ends with {source.classes} outputs"
    return f"take a model that begins with examples of shape {data.x.shape[1:]}{last}"


def _extremes(data: Dataset) -> NDArray[np.int64]:
    """The first row, and those with the least and the greatest class and code."""
    found = [0]
    for part in (data.x, data.y):
        if part.dtype.kind in "iu" and part.size:
            found += [_row_of(part, int(part.argmin())), _row_of(part, int(part.argmax()))]
    return np.unique(found)


def _row_of(array: NDArray[Any], place: int) -> int:
    return int(np.unravel_index(place, array.shape)[0])
