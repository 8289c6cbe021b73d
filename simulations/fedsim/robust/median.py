"""The median of each coordinate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedsim.algorithms.algorithm import Vector
from fedsim.robust.rule import Rule, columns

__all__ = ["Median"]


@dataclass(frozen=True, kw_only=True)
class Median(Rule):
    """The coordinate-wise median; of an even number of rows, the mean of the two in the middle.

    While fewer than half of the rows are wrong, each coordinate lies among those of the others.
    Source: Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
    2018, definition 1.
    """

    def combine(self, updates: Vector, weights: NDArray[np.float64] | None) -> Vector:
        rows, dimension = updates.shape
        low, high = (rows - 1) // 2, rows // 2
        result = np.empty(dimension, np.float32)
        for part in columns(updates):
            # One column after another in memory: a partition along rows is several times slower.
            block = np.ascontiguousarray(updates[:, part].T)  # (columns, n)
            block.partition((low, high), axis=1)  # NaN stands last, beyond infinity
            result[part] = 0.5 * (block[:, low].astype(np.float64) + block[:, high])
        return result
