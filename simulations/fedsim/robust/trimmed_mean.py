"""The mean of each coordinate without its extremes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from fedcore.settings import Bounds
from fedsim.algorithms.algorithm import Vector
from fedsim.robust.rule import Rule, columns

__all__ = ["TrimmedMean"]


@dataclass(frozen=True, kw_only=True)
class TrimmedMean(Rule):
    """Of each coordinate, the ⌊beta·n⌋ largest and as many of the smallest are left out.

    While no more rows than that are wrong, each coordinate lies among those of the others.
    Source: Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
    2018, definition 2.
    """

    beta: Annotated[float, Bounds(least=0, below=0.5)] = 0.1

    def cut(self, rows: int) -> int:
        """How many of so many rows are left out at each end.

        >>> TrimmedMean(beta=0.29).cut(100)
        29
        """
        return math.floor(Fraction(str(self.beta)) * rows)  # 0.29·100 is below 29 in floats

    def combine(self, updates: Vector, weights: NDArray[np.float64] | None) -> Vector:
        rows, dimension = updates.shape
        cut = self.cut(rows)
        result = np.empty(dimension, np.float32)
        for part in columns(updates):
            block = np.ascontiguousarray(updates[:, part].T)  # (columns, n)
            block.partition((cut, rows - cut - 1), axis=1)  # NaN stands last, beyond infinity
            result[part] = block[:, cut : rows - cut].mean(axis=1, dtype=np.float64)
        return result
