"""A task's model as one flat vector: what is trained, and after it what the model only remembers.

Statistics of batches, as batch normalisation keeps them, travel with the parameters and are
averaged with them, so that the model that a server publishes is whole.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedcore.autograd.ravel import ravel
from fedcore.autograd.tree import map_tree
from fedcore.errors import ProgramError, UpdateError
from fedcore.federated.choices import LOSSES
from fedcore.federated.models import build_model
from fedcore.federated.task import Task
from fedcore.nn import Module, ravel_state
from fedcore.step import Loss
from fedcore.tensor.tensor import Tensor, tensor

__all__ = ["FlatModel"]


class FlatModel:
    """The model of a task with layers or a name, as functions of its vector (D,): theta, state.

    `trained`: how many numbers are parameters; those that follow are state. `rebuild` makes the
    model of a theta (trained,), for training.
    Raises: ProgramError for a model that is not installed, or is another than the task's.
    """

    def __init__(self, task: Task) -> None:
        self._loss = task.training.loss
        model = build_model(task.model, task.seed)
        state, self._with_state = ravel_state(model)
        theta, self.rebuild = ravel(map_tree(_place, model))
        self.trained, self.dimension = theta.size, theta.size + state.size
        promised = task.model.dimension
        if promised not in (None, self.dimension):
            raise ProgramError(
                f"the installed model {task.model.name!r} is another than the task's",
                why=f"it has {self.dimension} numbers, and the task says {promised}",
                fix="install the release of the package that the task was made with",
            )

    @property
    def loss(self) -> Loss:
        """What the task trains it by. Raises: ProgramError where that is a program's own matter."""
        if self._loss is None:
            raise ProgramError(
                "the task names no loss",
                why="its program trains by one of its own",
                fix="set training.loss in the task, or train with its program",
            )
        loss: Loss = LOSSES[self._loss]
        return loss

    def split(self, vector: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Views of the parameters and of the state. Raises: UpdateError for another length."""
        if vector.shape != (self.dimension,) or vector.dtype != np.float32:
            raise UpdateError(
                f"a model of {vector.dtype} with shape {vector.shape}",
                why=f"the task's has {self.dimension} numbers in float32",
                fix="pass the vector that the task's rounds began with, or one that came of it",
            )
        return vector[: self.trained], vector[self.trained :]

    def model(self, vector: NDArray[np.float32]) -> Module:
        """The model of a vector (D,), for predictions."""
        theta, state = self.split(vector)
        built: Module = self._with_state(self.rebuild(tensor(theta)), tensor(state))
        return built


def _place(parameter: Any) -> Tensor:
    """Zeros of its shape in the memory of one: the structure keeps them, and no second model."""
    array = tensor(parameter).data
    return Tensor(np.broadcast_to(np.zeros((), array.dtype), array.shape))
