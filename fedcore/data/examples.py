"""The file of one device's own examples, as its owner binds it to the name that a task asks for."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from fedcore.data.csv import load_csv
from fedcore.data.dataset import Dataset
from fedcore.data.npz import load_npz
from fedcore.errors import DatasetError

__all__ = ["load_examples"]


def load_examples(path: str | os.PathLike[str], name: str = "") -> Dataset:
    """The examples in an .npz with the arrays x and y, or in a .csv, gzip or not.

    Arrays stay as they were saved. The last column of a .csv is the target: whole numbers are
    classes, (N,) int64, others are predicted by a model of one output, (N, 1) float32.
    Raises: DatasetError for an .npz without x and y; what `load_npz`, `load_csv` and `Dataset`
    raise.
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
    found = load_csv(path).dataset(label=-1)
    whole = bool(np.all(found.y == np.floor(found.y)))
    return Dataset(found.x, found.y.astype(np.int64) if whole else found.y[:, np.newaxis], name)
