"""What a robust rule is: from the updates of all clients to one, whatever a few of them send.

A rule has to see each update. Under secure aggregation it can see sums of groups: see `grouped`.
A row with NaN or infinity is a row like others that are wrong, and no reason to end a round.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import DtypeError, ShapeError, TaskError
from fedcore.settings import Settings
from fedsim.algorithms.algorithm import Vector

__all__ = ["BLOCK", "Rule", "columns", "finite_rows", "mean_of", "require_rows"]

BLOCK = 1 << 19
"""How many numbers are looked at together: their copies in float64 take 4 MiB."""


@dataclass(frozen=True, kw_only=True)
class Rule(Settings):
    """A rule with its options; calling it maps updates (n, D) to one (D,), all float32.

    `weighted`: `weights` (n,) count. Other rules let all rows count alike: a weight is a client's
    own word, and who lies in its update may lie in that. Memory: blocks of columns, and (n, n).
    Raises: TaskError for fewer rows than the rule holds for; ShapeError and DtypeError for others
    than float32 (n, D).
    """

    weighted: ClassVar[bool] = False

    def __call__(self, updates: Vector, weights: NDArray[np.float64] | None = None) -> Vector:
        if updates.ndim != 2:
            raise ShapeError(
                f"{type(self).__name__}: updates of shape {updates.shape}",
                why="there is one row a client",
                fix="pass an array (n, D)",
            )
        if updates.dtype != np.float32:
            raise DtypeError(
                f"{type(self).__name__}: updates of {updates.dtype}",
                why="updates are float32 everywhere",
                fix="pass updates.astype(numpy.float32)",
            )
        self.require(len(updates))
        with np.errstate(over="ignore", invalid="ignore"):  # rows may hold anything
            return self.combine(updates, weights)

    def require(self, rows: int) -> None:
        """Raises: TaskError for fewer rows than the rule holds for, and says for what they do."""
        require_rows(self, rows, 1, "")

    @abstractmethod
    def combine(self, updates: Vector, weights: NDArray[np.float64] | None) -> Vector:
        """The rule itself, for updates (n, D) and n that it holds for."""


def require_rows(rule: Rule, rows: int, least: int, fix: str) -> None:
    """Raises: TaskError unless there are at least so many rows."""
    if rows < least:
        options = ", ".join(f"{name} = {value}" for name, value in rule.write().items())
        raise TaskError(
            f"{type(rule).__name__}({options}) of {rows} rows",
            why=f"it holds for {least} rows and more",
            fix=fix or "let more clients report",
            where="robust",
        )


def columns(updates: Vector) -> Iterator[slice]:
    """Blocks of columns, that together are all of them."""
    rows, dimension = updates.shape
    width = max(1, BLOCK // rows)
    for begin in range(0, dimension, width):
        yield slice(begin, min(begin + width, dimension))


def finite_rows(updates: Vector) -> NDArray[np.bool_]:
    """Which rows hold numbers alone, (n,)."""
    found = np.ones(len(updates), np.bool_)
    for part in columns(updates):
        found &= np.isfinite(updates[:, part]).all(axis=1)
    return found


def mean_of(updates: Vector, chosen: NDArray[np.intp]) -> Vector:
    """The mean of the chosen rows, summed in float64."""
    result = np.empty(updates.shape[1], np.float32)
    for part in columns(updates):
        result[part] = updates[chosen, part].mean(axis=0, dtype=np.float64)
    return result
