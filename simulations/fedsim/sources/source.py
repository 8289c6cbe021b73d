"""What every reader makes of its files: rows to train on, rows to test on, and whose they are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedcore.data import Dataset
from fedcore.errors import DatasetError
from fedcore.settings import Settings

__all__ = ["Reader", "Source"]


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A data set before it is dealt to clients.

    `ids` (N,): the natural client of each training row, integers or texts; None where the data say
    nothing of it. `test_ids`: the same of the test rows, for models of one's own. Lists become
    arrays.
    `classes`: y is int64 from 0 to `classes` - 1, (N,) or a class a step (N, length); None for a
    regression, whose y is float32 (N, 1), as a model of one output predicts it.
    `filled`: how many features were missing and are filled in, of all rows.
    `feature_names`: of tables, one for each of x's columns. `class_names`: by class number.
    Raises: DatasetError if rows, ids or labels are others.

    >>> data = Dataset(np.zeros((3, 2), np.float32), np.array([0, 2, 1]))
    >>> Source(data, ids=np.array([7, 7, 9]), classes=3).labels.tolist()
    [0, 2, 1]
    """

    train: Dataset
    test: Dataset | None = None
    ids: NDArray[Any] | None = None
    test_ids: NDArray[Any] | None = None
    classes: int | None = None
    feature_names: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    filled: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", _whole(self.classes))
        _check_data(self.train, "train")
        object.__setattr__(self, "ids", _checked_ids(self.train, self.ids))
        if self.test is not None:
            _check_data(self.test, "test")
            object.__setattr__(self, "test_ids", _checked_ids(self.test, self.test_ids))
            _check_rows(self.train, self.test)
        for part in (self.train, self.test):
            if part is not None:
                _check_labels(part, self.classes)

    @property
    def labels(self) -> NDArray[Any]:
        """One label a training row, (N,), which a partitioner deals by; of steps (N, length)."""
        y = self.train.y
        return y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y


@dataclass(frozen=True, kw_only=True)
class Reader(Settings, ABC):
    """The options of one source, and what reads it; the same files give the same arrays."""

    @abstractmethod
    def load(self, base: Path) -> Source:
        """What the files hold; paths of the options are relative to the folder `base`.

        Raises: DataFormatError for a file that is missing or of another form, DatasetError for
        parts that do not fit together, TaskError for options that do not suit the data.
        """


def _whole(classes: Any) -> int | None:
    try:
        return None if classes is None else index(classes)
    except TypeError:
        raise DatasetError(
            f"source: classes = {classes!r:.80}",
            why="it is how many classes y has, or None for a regression",
            fix="pass an integer, such as int(y.max()) + 1",
        ) from None


def _check_data(data: Any, part: str) -> None:
    if not isinstance(data, Dataset):
        raise DatasetError(
            f"source: {part} is {type(data).__name__}",
            why="rows come with their targets",
            fix="pass Dataset(x, y), of fedcore.data",
        )


def _checked_ids(data: Dataset, ids: Any) -> NDArray[Any] | None:
    if ids is None:
        return None
    found = np.asarray(ids)
    if found.shape != (len(data),) or found.dtype.hasobject:
        raise DatasetError(
            f"source {data.name!r}: ids are {found.dtype} of shape {found.shape}"
            f" for {len(data)} rows",
            why="every row belongs to one client",
            fix=f"give {len(data)} integers or texts; numpy.asarray(ids, dtype=str) makes texts",
        )
    return found


def _check_rows(train: Dataset, test: Dataset) -> None:
    shapes = [(part.x.shape[1:], part.y.shape[1:]) for part in (train, test)]
    if shapes[0] != shapes[1]:
        raise DatasetError(
            f"source {train.name!r}: rows to train on are {shapes[0]}, rows to test on {shapes[1]}",
            why="one model reads both",
            fix="give both parts the same features and the same form of target",
        )


def _check_labels(data: Dataset, classes: int | None) -> None:
    y = data.y
    if classes is None:
        fits, wanted = y.dtype == np.float32, "float32 numbers"
        fits = fits and y.size > 0 and bool(np.isfinite(y).all())
    else:
        wanted = f"int64 classes from 0 to {classes - 1}"
        fits = y.dtype == np.int64 and y.size > 0
        fits = fits and 0 <= int(y.min()) <= int(y.max()) < classes
    if not fits:
        raise DatasetError(
            f"source {data.name!r}: targets are {y.dtype} of shape {y.shape}",
            why=f"they have to be {wanted}, none of them missing",
            fix="leave out rows without a target, and number classes from 0",
        )
