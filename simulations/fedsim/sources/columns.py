"""From a table of named columns to a source: which is the target, which says whose a row is."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedcore.data import Dataset, Table
from fedcore.errors import DatasetError
from fedsim.sources.source import Source

__all__ = ["Columns", "Encoding", "examples", "ids_of", "with_test"]

Encoding: TypeAlias = Literal["codes", "one_hot"]
"""How a category is a feature: as its number, or as a column for each word."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What a table's columns are for; every column that is not named is a feature."""

    target: str
    ids: str = ""
    exclude: Collection[str] = ()
    encode: Encoding = "codes"


def examples(table: Table, columns: Columns) -> Source:
    """All rows of a table, to train on: classes of a categorical target, else a regression.

    Class numbers follow the order of words, of numbers that of numbers. Features are float32 with
    NaN where they are missing, (N, F).
    Raises: ArgumentError if a column does not exist or no feature is left; DatasetError if a target
    or an id is missing.
    """
    ids = ids_of(table, columns.ids) if columns.ids else None
    left_out = {*columns.exclude, *([columns.ids] if columns.ids else [])}
    with np.errstate(over="ignore"):  # what is beyond float32 is refused as infinite
        data = table.dataset(label=columns.target, exclude=left_out, encode=columns.encode)
    features = [name for name in table.columns if name not in {columns.target, *left_out}]
    named = tuple(name for column in features for name in _feature_names(table, column, columns))
    words = table.vocabularies.get(columns.target)
    if words is None:
        y = data.y.astype(np.float32)[:, np.newaxis]
        return Source(Dataset(data.x, y, data.name), ids=ids, feature_names=named)
    order = _order(words)
    rank = np.empty(len(words), np.int64)
    rank[order] = np.arange(len(words))
    return Source(
        Dataset(data.x, rank[data.y], data.name),
        ids=ids,
        classes=len(words),
        feature_names=named,
        class_names=tuple(words[place] for place in order),
    )


def with_test(train: Source, test: Source) -> Source:
    """The rows of `train` to train on and those of `test` to test on.

    Raises: DatasetError if their features are not the same.
    """
    if train.feature_names != test.feature_names or train.classes != test.classes:
        unlike = set(train.feature_names) ^ set(test.feature_names)
        raise DatasetError(
            f"{test.train.name!r} has other columns than {train.train.name!r}",
            why=f"in one of both alone: {', '.join(sorted(unlike)) or 'none, but in another order'}"
            f"; classes {train.classes} and {test.classes}",
            fix="give both files the same columns and words",
        )
    return replace(train, test=test.train, test_ids=test.ids)


def _feature_names(table: Table, column: str, columns: Columns) -> list[str]:
    words = table.vocabularies.get(column)
    if words is None or columns.encode == "codes":
        return [column]
    return [f"{column}={word}" for word in words]


def ids_of(table: Table, column: str) -> NDArray[Any]:
    """A column as ids (N,): int64 if all of them are whole numbers, else texts or numbers."""
    values = table[column]
    words = table.vocabularies.get(column)
    missing = np.isnan(values) if words is None else values < 0
    if bool(missing.any()):
        raise DatasetError(
            f"table {table.name!r}: {int(missing.sum())} of {len(values)} ids are missing",
            where=f"column {column!r}, first in row {int(missing.argmax())}",
            why="every row belongs to one client",
            fix="remove these rows from the file, or take another column",
        )
    if words is None:
        whole = values.astype(np.int64)
        return whole if bool((whole == values).all()) else values
    plain = all(re.fullmatch(r"0|[1-9]\d{0,17}", word, re.ASCII) for word in words)
    named = np.array([int(word) for word in words]) if plain else np.array(words)
    return np.asarray(named[values])


def _order(words: Sequence[str]) -> list[int]:
    """Places in sorted order: of numbers if all words are numbers, else as they stand."""
    try:
        keys = [float(word) for word in words]
    except ValueError:
        return list(range(len(words)))
    return sorted(range(len(words)), key=lambda place: keys[place])
