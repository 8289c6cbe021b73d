"""The row, or the mean of the few, that most others are near to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import TaskError
from fedcore.settings import Bounds
from fedsim.algorithms.algorithm import Vector
from fedsim.robust.distances import squared_distances
from fedsim.robust.rule import Rule, mean_of, require_rows

__all__ = ["Krum", "MultiKrum"]


@dataclass(frozen=True, kw_only=True)
class Krum(Rule):
    """The row of the smallest score: the sum of its n - f - 2 smallest squared distances to others.

    Holds for f wrong rows of n ≥ 2f + 3; of equal scores the first counts. Source: Blanchard et
    al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent", 2017, section 4.
    """

    f: Annotated[int, Bounds(least=0, most=1_000_000)] = 0

    def require(self, rows: int) -> None:
        _require_majority(self, self.f, rows)

    def combine(self, updates: Vector, weights: NDArray[np.float64] | None) -> Vector:
        chosen: Vector = updates[np.argmin(_scores(updates, self.f))]
        return chosen.copy()


@dataclass(frozen=True, kw_only=True)
class MultiKrum(Rule):
    """The mean of the m rows of the smallest scores, as `Krum` has them; m = 0 means n - f - 2.

    Source: Blanchard et al., 2017, section 5; that m may be n - f - 2, and no more: Damaskinos et
    al., "AggregaThor: Byzantine Machine Learning via Robust Gradient Aggregation", 2019.
    """

    f: Annotated[int, Bounds(least=0, most=1_000_000)] = 0
    m: Annotated[int, Bounds(least=0, most=1_000_000)] = 0

    def require(self, rows: int) -> None:
        _require_majority(self, self.f, rows)
        if self.m > rows - self.f - 2:
            raise TaskError(
                f"MultiKrum(f = {self.f}, m = {self.m}) of {rows} rows",
                why="where f rows are wrong, no more than n - f - 2 are certain to lie close",
                fix=f"set m to {rows - self.f - 2} or less, or to 0 for as many as possible",
                where="robust.m",
            )

    def combine(self, updates: Vector, weights: NDArray[np.float64] | None) -> Vector:
        order = np.argsort(_scores(updates, self.f), kind="stable")
        chosen = np.sort(order[: self.m or len(updates) - self.f - 2])
        return mean_of(updates, chosen)


def _scores(updates: Vector, f: int) -> NDArray[np.float64]:
    distances = squared_distances(updates)
    np.fill_diagonal(distances, np.inf)
    distances.sort(axis=1)
    found: NDArray[np.float64] = distances[:, : len(updates) - f - 2].sum(axis=1)
    return found


def _require_majority(rule: Rule, f: int, rows: int) -> None:
    most = (rows - 3) // 2
    fix = f"set f to {most} or less, or let {2 * f + 3} rows come" if most >= 0 else ""
    require_rows(rule, rows, 2 * f + 3, fix)
