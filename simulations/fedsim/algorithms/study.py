"""What algorithms of a study do unless they say otherwise: clients send how far they moved."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from fedcore.settings import Settings
from fedsim.algorithms.algorithm import Local, Sent, State, Turnout, Vector

__all__ = ["Study"]


@dataclass(frozen=True, kw_only=True)
class Study(Settings):
    """An `Algorithm`, with options that are checked, of which only `apply` is left open.

    Raises: TaskError for an option out of its range.
    """

    weighted: ClassVar[bool] = True
    stateful: ClassVar[bool] = False
    needs_sgd: ClassVar[bool] = False
    scalars: ClassVar[int] = 0
    trainings: ClassVar[int] = 1
    measures: ClassVar[bool] = False

    def length(self, dimension: int) -> int:
        return dimension + self.scalars

    def start(self, dimension: int) -> State:
        return {}

    def sent(self, theta: Vector, state: State) -> State:
        return {}

    def client(self, local: Local) -> Sent:
        trained = local.train(local.theta)
        return Sent(trained.theta - local.theta, trained.loss)

    @abstractmethod
    def apply(
        self, theta: Vector, mean: Vector, state: State, turnout: Turnout
    ) -> tuple[Vector, State]:
        """The next model and the server's state; what is given stays as it is."""

    def personal(self, theta: Vector, state: State) -> Vector:
        return theta
