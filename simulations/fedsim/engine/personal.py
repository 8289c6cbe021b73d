"""Models measured by workers: the one that all train, and those that clients use themselves."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedcore.data import Dataset
from fedcore.federated.flat import FlatModel
from fedcore.federated.task import Task
from fedsim.engine.measuring import Measuring
from fedsim.population import Population

__all__ = ["Personal"]

Vector: TypeAlias = NDArray[np.float32]


class Personal:
    """Measures on clients' own rows, held out where they have such, and on those of a test set.

    `model`: the model (D,) that a client at this place uses itself, given the one that was sent;
    without it, that one.
    """

    def __init__(
        self,
        task: Task,
        population: Population,
        *,
        model: Callable[[Vector, int], Vector] | None = None,
    ) -> None:
        self._task, self._population, self._model = task, population, model
        self._test: Measuring | None = None

    def load(self, test: Dataset) -> None:
        """The rows that pieces are cut from."""
        self._test = Measuring(self._task, self._flat, test)

    def piece(self, theta: Vector, number: int) -> dict[str, float]:
        """Sums over a piece of the test set for the model `theta` (D,)."""
        assert self._test is not None
        return self._test.piece(theta, number)

    def client(self, theta: Vector, place: int) -> dict[str, float]:
        """Sums over a client's rows for its own model."""
        model = theta if self._model is None else self._model(theta, place)
        return self._own.client(model, self._population.measured_rows(place))

    # A model that programs alone know is never made: nobody can measure it here.
    @cached_property
    def _flat(self) -> FlatModel:
        return FlatModel(self._task)

    @cached_property
    def _own(self) -> Measuring:
        return Measuring(self._task, self._flat, self._population.data)
