"""Standardised features: mean 0 and standard deviation 1 on the data they were measured on.

The statistics belong to the rows they come from. Measured on one client's data they stay on that
client; measured over clients they are a release like any other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedcore.data.dataset import Dataset
from fedcore.errors import DatasetError, DtypeError

__all__ = ["Standardizer", "standardize"]


@dataclass(frozen=True, eq=False, slots=True)
class Standardizer:
    """A function of datasets: (x - mean) / scale, with missing values (NaN) set to the mean.

    Shapes: mean (F,), scale (F,), float64; x (N, ..., F) -> (N, ..., F) float32.
    Raises: DatasetError if the last axis of x is not F, or for a value that is beyond float32 once
    it is divided by `scale`.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    def __call__(self, dataset: Dataset) -> Dataset:
        """The same rows with standardised features."""
        _check(dataset, features=len(self.mean))
        # Subtracting in float64: float32 would lose all digits of a feature such as a timestamp.
        centred = dataset.x - self.mean
        try:
            with np.errstate(over="raise"):
                x = np.divide(centred, self.scale, out=centred).astype(np.float32)
        except FloatingPointError:
            raise DatasetError(
                "standardize: a value is beyond float32",
                why="it is more than 3.4e38 standard deviations away from its feature's mean, as "
                "those are of the data that were measured",
                fix="mark it as missing with NaN, or leave out the feature, which hardly changes",
            ) from None
        np.nan_to_num(x, copy=False, nan=0.0)
        return Dataset(x, dataset.y, dataset.name)


def standardize(train: Dataset) -> Standardizer:
    """The standardiser measured on `train`: per feature, the last axis, over all other axes.

    A feature that is constant has scale 1, and one that is missing throughout has mean 0, so that
    both become 0. Standard deviations are those of the population (divisor N).
    Raises: DtypeError if x holds no real numbers; DatasetError if it has one axis or infinities.

    >>> data = Dataset(np.array([[1.0, 5.0], [3.0, 5.0], [np.nan, 5.0]]), np.zeros(3))
    >>> standardize(data)(data).x.tolist()
    [[-1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]
    """
    _check(train, features=None)
    x = train.x.reshape(-1, train.x.shape[-1])
    present = ~np.isnan(x)
    counts = np.maximum(present.sum(axis=0), 1)
    mean = np.sum(x, axis=0, dtype=np.float64, where=present) / counts
    variance = np.sum(np.square(x - mean), axis=0, where=present) / counts
    # A constant feature's deviations are rounding errors of the mean, not a scale to divide by; nor
    # is what float32 calls next to nothing, by which any other value becomes infinite.
    least = np.maximum(1e-12 * np.abs(mean), np.finfo(np.float32).tiny)
    constant = np.sqrt(variance) <= least
    return Standardizer(mean, np.where(constant, 1.0, np.sqrt(variance)))


def _check(dataset: Dataset, *, features: int | None) -> None:
    if dataset.x.dtype.kind not in "fiu":
        raise DtypeError(
            f"standardize: x is {dataset.x.dtype}",
            why="only real numbers have a mean",
            fix="encode the features as numbers first",
        )
    if dataset.x.ndim < 2 or (features is not None and dataset.x.shape[-1] != features):
        expected = "F" if features is None else features
        raise DatasetError(
            f"standardize: x has shape {dataset.x.shape}, expected (N, ..., {expected})",
            why="the last axis counts the features",
            fix="pass data with the features of the training data",
        )
    if bool(np.isinf(dataset.x).any()):
        raise DatasetError(
            "standardize: x holds infinities",
            why="they have neither a mean nor a place among finite features",
            fix="mark them as missing with NaN",
        )
