"""The file of one device's own examples, as its owner binds it to the name that a task asks for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import numpy as np

from fedcore.data.csv import load_csv
from fedcore.data.dataset import Dataset
from fedcore.data.npz import load_npz
from fedcore.errors import DatasetError

__all__ = ["load_examples"]

_LARGEST_CLASS: Final = 2**53  # float64, in which a table holds numbers, counts to here


def load_examples(path: str | os.PathLike[str], name: str = "") -> Dataset:
    """The examples in an .npz with the arrays x and y, or in a .csv, gzip or not.

    Arrays stay as they were saved. The last column of a .csv is the target: whole numbers are
    classes, (N,) int64, others are predicted by a model of one output, (N, 1) float32.
    Raises: DatasetError for an .npz without x and y, for a .csv with numbers that are none in
    float32 or int64; what `load_npz`, `load_csv` and `Dataset` raise.
    """
    path = Path(path)
    if path.suffix == ".npz":
        arrays = load_npz(path)
        if not {"x", "y"} <= arrays.keys():
            raise DatasetError(
                f"{path.name} has no arrays x and y",
                why=f"it has {', '.join(sorted(arrays)) or 'none'}",
                fix="numpy.savez(path, x=features, y=targets)",
            )
        return Dataset(arrays["x"], arrays["y"], name)
    table = load_csv(path)
    with np.errstate(over="ignore"):  # what is beyond float32 is refused as infinite
        found = table.dataset(label=-1)
    y = table[-1]  # in float64, which tells classes apart that are one in float32
    whole = bool(np.all(y == np.floor(y)))
    fits = np.abs(y).max() <= _LARGEST_CLASS if whole else np.isfinite(found.y).all()
    if not fits or np.isinf(found.x).any():
        raise DatasetError(
            f"{path.name} has numbers that no model reads",
            why="features and real targets are float32, and whole numbers in the last column are "
            f"classes, up to {_LARGEST_CLASS}",
            fix="bring the columns to other units, or number classes from 0",
        )
    return Dataset(found.x, y.astype(np.int64) if whole else found.y[:, np.newaxis], name)
