"""How a task's one vector falls into named arrays: for the files in which models travel."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import numpy as np

from fedcore.autograd.ravel import Entry, Spec, ravel
from fedcore.federated.models import build_model
from fedcore.federated.task import Task
from fedcore.nn import ravel_state

__all__ = ["parameters_of"]


def parameters_of(task: Task) -> Spec:
    """The arrays of a task's model by name: parameters, then state, or the arrays that it names.

    Raises: ProgramError for a model that is not installed.
    """
    return Spec(tuple(_placed(_shapes(task))), np.dtype(np.float32))


def _shapes(task: Task) -> Iterator[tuple[str, tuple[int, ...]]]:
    if task.model.arrays:
        yield from ((array.name, array.shape) for array in task.model.arrays)
        return
    model = build_model(task.model, task.seed)
    for entry in chain(ravel(model)[1].spec, ravel_state(model)[1].spec):
        yield entry.path, entry.shape


def _placed(shapes: Iterator[tuple[str, tuple[int, ...]]]) -> Iterator[Entry]:
    offset = 0
    for path, shape in shapes:
        entry = Entry(path, shape, offset)
        yield entry
        offset += entry.size
