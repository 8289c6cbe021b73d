"""Features that a model can read: none missing or infinite, and of one scale if asked.

What is measured for it is measured on the training rows alone, so that a test row says nothing of
itself before it is tested.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from fedcore.data import Dataset, standardize
from fedcore.errors import DatasetError
from fedsim.sources.source import Source

__all__ = ["imputed", "missing", "require_finite", "standardized"]

_BLOCK: Final = 1 << 18  # numbers that stay in the cache: 30 ms for MNIST's 55 million


def missing(source: Source) -> int:
    """How many features are missing (NaN), of the rows to train and to test on."""
    parts = [part.x for part in (source.train, source.test) if part is not None]
    return sum(int(np.isnan(x).sum()) for x in parts if x.dtype.kind == "f")


def imputed(source: Source) -> Source:
    """Each missing feature (NaN) as its mean over the training rows that have it, or 0 for none.

    Shapes: x (N, ..., F) float32, or integers, which are never missing.
    Raises: DatasetError for infinities.
    """
    parts = [part for part in (source.train, source.test) if part is not None]
    if parts[0].x.dtype.kind != "f" or all(np.isfinite(part.x).all() for part in parts):
        return source
    if any(np.isinf(part.x).any() for part in parts):
        raise DatasetError(
            f"source {source.train.name!r}: some features are infinite, or beyond float32",
            why="no model can be trained on them",
            fix="mark them as missing, or bring the feature to another unit",
        )
    x = source.train.x.reshape(-1, source.train.x.shape[-1])
    present = ~np.isnan(x)
    sums = np.sum(x, axis=0, dtype=np.float64, where=present)
    mean = (sums / np.maximum(present.sum(axis=0), 1)).astype(np.float32)
    filled = [
        Dataset(np.where(np.isnan(part.x), mean, part.x), part.y, part.name) for part in parts
    ]
    return replace(source, train=filled[0], test=filled[1] if len(filled) > 1 else None)


def standardized(source: Source) -> Source:
    """Features (…, F) with mean 0 and standard deviation 1 over the training rows; missing are 0.

    Raises: DatasetError for infinities, DtypeError for features that are no numbers.
    """
    scale = standardize(source.train)
    test = None if source.test is None else scale(source.test)
    return replace(source, train=scale(source.train), test=test)


def require_finite(data: Dataset) -> None:
    """Raises: DatasetError for features that are NaN or infinite, or beyond float32."""
    x = data.x
    if x.dtype.kind != "f":
        return
    rows = max(1, _BLOCK * len(x) // max(1, x.size))
    for start in range(0, len(x), rows):
        with np.errstate(over="ignore"):  # a model reads float32
            block = x[start : start + rows].astype(np.float32, copy=False)
        finite = np.isfinite(block)
        if not finite.all():
            first = start + int(np.argmin(finite.reshape(len(block), -1).all(axis=1)))
            raise DatasetError(
                f"{data.name or 'data'}: some features are NaN or infinite, or beyond float32",
                where=f"row {first}",
                why="no model can be trained on such a row, nor measured on it",
                fix="leave these rows out, or put numbers there",
            )
