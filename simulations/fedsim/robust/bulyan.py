"""Krum's choice of rows, and of each coordinate only what lies around the median."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from fedcore.settings import Bounds
from fedsim.algorithms.algorithm import Vector
from fedsim.robust.distances import squared_distances
from fedsim.robust.rule import Rule, columns, require_rows

__all__ = ["Bulyan"]


@dataclass(frozen=True, kw_only=True)
class Bulyan(Rule):
    """Of θ = n - 2f rows, the mean of the θ - 2f values of each coordinate nearest its median.

    The rows are chosen by Krum, one after another, each from those that are left. When fewer than
    f + 3 are left, a row's score is its distance to the nearest. Holds for f wrong rows of
    n ≥ 4f + 3. Source: El Mhamdi et al., "The Hidden Vulnerability of Distributed Learning in
    Byzantium", 2018, section 4.
    """

    f: Annotated[int, Bounds(least=0, most=1_000_000)] = 0

    def require(self, rows: int) -> None:
        most = (rows - 3) // 4
        fix = f"set f to {most} or less, or let {4 * self.f + 3} rows come" if most >= 0 else ""
        require_rows(self, rows, 4 * self.f + 3, fix)

    def combine(self, updates: Vector, weights: NDArray[np.float64] | None) -> Vector:
        chosen = self._choose(squared_distances(updates))
        kept = len(chosen) - 2 * self.f
        result = np.empty(updates.shape[1], np.float32)
        for part in columns(updates):
            block = updates[chosen, part].T.astype(np.float64)  # (columns, θ)
            far = np.abs(block - np.median(block, axis=1, keepdims=True))
            nearest = np.argsort(far, axis=1, kind="stable")[:, :kept]
            result[part] = np.take_along_axis(block, nearest, axis=1).mean(axis=1)
        return result

    def _choose(self, distances: NDArray[np.float64]) -> NDArray[np.intp]:
        """The rows chosen, rising."""
        count = len(distances)
        np.fill_diagonal(distances, np.inf)
        order = np.argsort(distances, axis=1, kind="stable")
        rising = np.take_along_axis(distances, order, axis=1)
        left = np.ones(count, np.bool_)
        for remaining in range(count, 2 * self.f, -1):
            # A row's own place is the last of its order, and never among its nearest.
            neighbours = min(max(remaining - self.f - 2, 1), remaining - 1)
            counts = left[order]
            near = counts & (np.cumsum(counts, axis=1) <= neighbours)
            scores = np.where(near, rising, 0.0).sum(axis=1)
            candidates = np.flatnonzero(left)
            left[candidates[np.argmin(scores[candidates])]] = False
        return np.flatnonzero(~left)
