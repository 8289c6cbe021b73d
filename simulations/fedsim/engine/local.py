"""One client's round as its algorithm sees it, stopped wherever it wants to train.

An algorithm is a function of what a client has and what its trainings led to. So it is asked again
from the beginning once a training is done, and between those times the trainings of many clients
that wait are taken side by side, whatever each has in mind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedsim.algorithms import Algorithm, Sent, State, Trained, Vector

__all__ = ["StudyLocal", "Wish"]

_Mask: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Wish:
    """A training that an algorithm asks for: see `Local.train`."""

    start: Vector
    correction: Vector | None
    anchor: Vector | None
    pull: float
    frozen: _Mask | None
    purpose: str

    @property
    def is_steered(self) -> bool:
        """Whether its steps are others than the optimiser's own."""
        pulled = self.anchor is not None and self.pull != 0
        return pulled or self.correction is not None or self.frozen is not None


class _Stopped(BaseException):
    """Leaves an algorithm, through whatever it catches."""

    def __init__(self, wish: Wish) -> None:
        self.wish = wish


class StudyLocal:
    """A `Local`: `theta` (T,) as sent, and what was sent beside it; `measure`: of its mean loss."""

    def __init__(
        self,
        theta: Vector,
        *,
        sent: Mapping[str, Vector],
        state: State,
        examples: int,
        lr: float,
        measure: Callable[[Vector], float],
    ) -> None:
        self.theta, self.sent, self.state = theta, sent, state
        self.examples, self.lr = examples, lr
        self._measure = measure
        self._answers: list[Trained | Exception] = []
        self._asked = 0

    def advance(self, algorithm: Algorithm) -> Sent | Wish | Exception:
        """What the client gives, or what it has to train first, or what it failed with."""
        self._asked = 0
        try:
            return algorithm.client(self)
        except _Stopped as stopped:
            return stopped.wish
        except Exception as error:
            return error

    def answer(self, found: Trained | Exception) -> None:
        """What the training that was asked for last led to."""
        self._answers.append(found)

    @property
    def steps(self) -> int:
        """How many steps were taken so far, in all trainings."""
        return sum(found.steps for found in self._answers if isinstance(found, Trained))

    def train(
        self,
        start: Vector,
        *,
        correction: Vector | None = None,
        anchor: Vector | None = None,
        pull: float = 0.0,
        frozen: _Mask | None = None,
        purpose: str = "",
    ) -> Trained:
        self._asked += 1
        if self._asked > len(self._answers):
            raise _Stopped(Wish(start, correction, anchor, pull, frozen, purpose))
        found = self._answers[self._asked - 1]
        if isinstance(found, Exception):
            raise found
        return found

    def loss(self, theta: Vector) -> float:
        return self._measure(theta)
