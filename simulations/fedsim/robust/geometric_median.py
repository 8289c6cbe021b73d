"""The point whose distances to all rows have the smallest sum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import ArgumentError
from fedcore.settings import Bounds
from fedcore.tensor import blas
from fedsim.algorithms.algorithm import Vector
from fedsim.robust.median import Median
from fedsim.robust.rule import Rule, columns, finite_rows

__all__ = ["GeometricMedian"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class GeometricMedian(Rule):
    """The z of the smallest Σ α_i |z - w_i|, where α are the weights divided by their sum.

    Weiszfeld's steps z ← Σ β_i w_i / Σ β_i with β_i = α_i / max(ν, |z - w_i|), from the coordinate
    median, until the pulls of the rows, unit vectors times α_i, add up to no more than `tolerance`,
    or for so many `iterations`. ν is `smoothing` times the distance within which half of the
    weight lies at first. Rows with NaN or infinity are left out. It holds while those that are
    wrong have less than half of the weight.

    Source: Pillutla et al., "Robust Aggregation for Federated Learning", 2022, algorithm 2.
    Raises: ArgumentError for weights that are not one number from 0 a row, and one above it.
    """

    weighted: ClassVar[bool] = True

    tolerance: Annotated[float, Bounds(above=0, most=1)] = 1e-5
    iterations: Annotated[int, Bounds(least=1, most=1_000_000)] = 1_000
    smoothing: Annotated[float, Bounds(above=0, most=1)] = 1e-6

    @blas.one_thread()
    def combine(self, updates: Vector, weights: Floats | None) -> Vector:
        finite = finite_rows(updates)
        alpha = _normalised(weights, len(updates)) * finite
        alpha /= alpha.sum() or 1.0
        start = Median().combine(updates, None)
        z = start.astype(np.float64)
        if not alpha.any() or not np.isfinite(z).all():
            return start
        far = _distances(updates, finite, z)
        nu = self.smoothing * _half(far, alpha)
        if nu == 0:  # half of the weight lies at z already
            return start
        for _ in range(self.iterations):
            beta = alpha / np.maximum(nu, far)
            after = _combination(updates, finite, beta / beta.sum())
            if beta.sum() * np.sqrt(np.square(after - z).sum()) <= self.tolerance:
                break
            z, far = after, _distances(updates, finite, after)
        return z.astype(np.float32)


def _normalised(weights: Floats | None, rows: int) -> Floats:
    alpha = np.ones(rows) if weights is None else np.asarray(weights, np.float64)
    fits = alpha.shape == (rows,) and np.isfinite(alpha).all() and (alpha >= 0).all()
    if not fits or not alpha.any():
        raise ArgumentError(
            f"weights of shape {alpha.shape} for {rows} rows, or not all of them numbers from 0",
            why="each row counts by its part of the sum of weights",
            fix="pass one number of at least 0 a row, and not all of them 0",
        )
    found: Floats = alpha / alpha.sum()
    return found


def _distances(updates: Vector, finite: NDArray[np.bool_], z: Floats) -> Floats:
    """From z to each row, (n,); infinite to a row that is not finite."""
    squares = np.zeros(len(updates))
    for part in columns(updates):
        squares += np.square(updates[:, part] - z[part]).sum(axis=1)
    return np.where(finite, np.sqrt(squares), np.inf)


def _combination(updates: Vector, finite: NDArray[np.bool_], factors: Floats) -> Floats:
    """Σ factors_i w_i over the rows that are finite, (D,)."""
    result = np.empty(updates.shape[1])
    for part in columns(updates):
        result[part] = factors[finite] @ updates[finite, part].astype(np.float64)
    return result


def _half(far: Floats, alpha: Floats) -> float:
    """The smallest distance within which half of the weight lies."""
    order = np.argsort(far, kind="stable")
    reached = np.cumsum(alpha[order]) >= 0.5 - 1e-12
    return float(far[order][np.argmax(reached)])
