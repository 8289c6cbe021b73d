"""The published layout of what a client reports without privacy, as one vector of integers.

A cut and weighted update on a grid, its weight, and sums of what was measured: all of it adds up,
in any order and behind masks, and the sums give the weighted mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedcore.federated.task import Task

__all__ = ["Mean", "UpdateLayout"]


@dataclass(frozen=True, slots=True, eq=False)
class Mean:
    """What a round's sums stand for.

    `vector`: the weighted mean update, float32 (D,). `weight`: the sum of weights, of which one
    client has at most 1. `reports`: how many clients are in it. `statistics`: by name, means over
    examples of what was measured, and the counts themselves.
    """

    vector: NDArray[np.float32]
    weight: float
    reports: int
    statistics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class UpdateLayout:
    """The blocks "update" (D,) and "statistics" of a task without privacy."""

    dimension: int

    @classmethod
    def of(cls, task: Task) -> UpdateLayout:
        """The layout of a resolved task. Raises: PlanError for a task with privacy."""
        raise NotImplementedError

    @property
    def blocks(self) -> tuple[str, ...]:
        """The names of the blocks, in their order on the wire."""
        raise NotImplementedError

    def encode(
        self, vector: NDArray[np.floating[Any]], weight: int, statistics: Mapping[str, float]
    ) -> tuple[NDArray[np.int64], ...]:
        """One client's update (D,), trained on `weight` examples, as blocks of integers.

        Raises: UpdateError for another length, a weight below 1 or what is not finite.
        """
        raise NotImplementedError

    def mean(self, totals: Sequence[NDArray[np.int64]], reports: int) -> Mean:
        """The mean of so many reports, of the sums of their blocks. Raises: UpdateError."""
        raise NotImplementedError
