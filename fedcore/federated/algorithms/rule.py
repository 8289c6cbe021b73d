"""What an algorithm is: three functions of flat vectors, for what is sent, trained and applied."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedcore.optim import Optimizer

__all__ = ["Rule", "ServerState", "Vector"]

Vector = NDArray[np.float32]
ServerState = dict[str, Vector]
"""What a server keeps beside the model and sends to nobody: by name, vectors (D,)."""


class Rule(ABC):
    """An algorithm's three functions, which by default leave things as they are.

    `keeps`: the names of the vectors in its state.
    """

    keeps: ClassVar[tuple[str, ...]] = ()

    def start(self, dimension: int) -> ServerState:
        """The state before the first round, for parameters (D,)."""
        return {name: np.zeros(dimension, np.float32) for name in self.keeps}

    def sent(self, theta: Vector, state: ServerState) -> Vector:
        """What clients start from, made of the model (D,) and the state."""
        return theta

    def local(self, optimizer: Optimizer) -> Optimizer:
        """What a client trains with, made of the optimiser that the task names."""
        return optimizer

    @abstractmethod
    def apply(self, theta: Vector, delta: Vector, state: ServerState) -> tuple[Vector, ServerState]:
        """The model and the state after a round whose mean update is `delta` (D,)."""
