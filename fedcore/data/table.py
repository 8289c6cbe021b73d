"""A table of named columns, numbers or categories: what text formats hold before it is a dataset.

A category is stored as its index in a vocabulary. The vocabulary is either what the file contains,
sorted, or given by the caller: clients of one federation must all give the same one, or the same
code means different things to each of them.

Error messages name the file, line and column and never the cell's text, which is personal data.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedcore.data.dataset import Dataset
from fedcore.data.source import MAX_BYTES
from fedcore.errors import ArgumentError, DataFormatError, DatasetError

__all__ = ["Column", "Table", "column_names", "parse_table"]

_SHOWN = 8  # columns named by a table's repr


@dataclass(frozen=True, slots=True)
class Column:
    """How to read one column: as numbers, or as categories of a given or found vocabulary."""

    name: str
    categorical: bool = False
    vocabulary: tuple[str, ...] | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Table:
    """Columns by name, all (N,): float64 with NaN for missing, or int64 codes with -1 for missing.

    `vocabularies` holds the texts behind the codes of each categorical column.
    """

    columns: Mapping[str, NDArray[Any]]
    vocabularies: Mapping[str, tuple[str, ...]]
    name: str = ""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __repr__(self) -> str:
        name = f"{self.name!r}, " if self.name else ""
        kinds = (
            f"{len(self.vocabularies[column])} categories"
            if column in self.vocabularies
            else str(values.dtype)
            for column, values in self.columns.items()
        )
        named = [f"{column} {kind}" for column, kind in zip(self.columns, kinds, strict=True)]
        more = f", and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
        return f"Table({name}{len(self)} rows, {', '.join(named[:_SHOWN])}{more})"

    def __getitem__(self, column: str | int) -> NDArray[Any]:
        """One column by name or position. Raises: ArgumentError if there is no such column."""
        [name] = column_names(self.columns, [column], where=self.name)
        return self.columns[name]

    def dataset(
        self,
        *,
        label: str | int,
        exclude: Collection[str | int] = (),
        encode: Literal["codes", "one_hot"] = "codes",
    ) -> Dataset:
        """The table as examples: `label` is the target, all columns not in `exclude` are features.

        Shapes: x (N, F) float32 with NaN for missing; y (N,) int64 for a categorical label and
        float32 for a number. `one_hot` gives a categorical feature one column a word, all 0 where
        it is missing.
        Raises: ArgumentError if a column does not exist or no feature is left; DatasetError if a
        label is missing, or `one_hot` gives more than `fedcore.data.source.MAX_BYTES`.
        """
        names = list(self.columns)
        [target] = column_names(names, [label], where=self.name)
        left_out = {target, *column_names(names, exclude, where=self.name)}
        chosen = [name for name in names if name not in left_out]
        if encode == "one_hot":
            self._require_room(chosen)
        features = [self._feature(name, encode) for name in chosen]
        if not features or encode not in ("codes", "one_hot"):
            raise ArgumentError(
                f"table {self.name!r}: {len(features)} features, encode={encode!r:.80}",
                why="a dataset needs at least one feature, as codes or one_hot",
                fix='exclude fewer columns, and pass encode="codes" or encode="one_hot"',
            )
        y = self.columns[target]
        missing = y < 0 if target in self.vocabularies else np.isnan(y)
        if bool(missing.any()):
            raise DatasetError(
                f"table {self.name!r}: {int(missing.sum())} of {len(y)} labels are missing",
                where=f"column {target!r}, first in row {int(missing.argmax())}",
                why="a row without target teaches nothing",
                fix="remove these rows from the file, or choose another label",
            )
        y = y if target in self.vocabularies else y.astype(np.float32)
        return Dataset(np.concatenate(features, axis=1), y, self.name)

    def _require_room(self, features: Sequence[str]) -> None:
        """One number a word and row: a column of texts of one's own would fill a memory."""
        words = {
            name: len(self.vocabularies[name]) for name in features if name in self.vocabularies
        }
        size = len(self) * sum(words.values()) * np.dtype(np.float32).itemsize
        if size > MAX_BYTES:
            longest = max(words, key=words.__getitem__)
            raise DatasetError(
                f"table {self.name!r}: one_hot makes {size} bytes of {len(self)} rows",
                where=f"column {longest!r:.80}, of {words[longest]} words",
                why=f"each word is a column of numbers, and {MAX_BYTES} bytes are the most",
                fix='exclude this column, or pass encode="codes"',
            )

    def _feature(self, name: str, encode: str) -> NDArray[np.float32]:
        values = self.columns[name]
        if name not in self.vocabularies:
            return np.asarray(values[:, np.newaxis], np.float32)
        if encode == "one_hot":
            words = np.arange(len(self.vocabularies[name]))
            return np.asarray(values[:, np.newaxis] == words, np.float32)
        return np.where(values < 0, np.nan, values).astype(np.float32)[:, np.newaxis]


def column_names(
    names: Collection[str], columns: Iterable[str | int], *, where: str = ""
) -> list[str]:
    """The names of columns given by name or position, negative from the end.

    `where`: whose columns they are. Raises: ArgumentError if there is no such column.
    """
    places, known = list(names), set(names)
    found = []
    for column in columns:
        if isinstance(column, str) and column in known:
            found.append(column)
        elif isinstance(column, int) and -len(places) <= column < len(places):
            found.append(places[column])
        else:
            raise ArgumentError(
                f"table: no column {column!r:.80}",
                where=where,
                why=f"the {len(places)} columns are {', '.join(places):.400}",
                fix="pass one of these names, or a position from "
                f"{-len(places)} to {len(places) - 1}",
            )
    return found


def parse_table(
    path: str | os.PathLike[str],
    columns: Sequence[Column],
    rows: Sequence[Sequence[str | None]],
    lines: Sequence[int],
    *,
    name: str,
) -> Table:
    """The columns of `rows`, of which row i stands in line `lines[i]` and None is missing.

    Raises: DataFormatError if there are no rows, a row has too few or too many cells, a number is
    none or not finite, or a category is not in the given vocabulary.
    """
    if not rows:
        raise _cell_error(path, "has no rows", "", "there is nothing to learn from", "add rows")
    for cells, line in zip(rows, lines, strict=True):
        if len(cells) != len(columns):
            raise _cell_error(
                path,
                f"has a row of {len(cells)} cells",
                line,
                f"the table has {len(columns)} columns",
                "mend this line, or check the delimiter and the column names",
            )
    table: dict[str, NDArray[Any]] = {}
    vocabularies: dict[str, tuple[str, ...]] = {}
    for column, cells in zip(columns, zip(*rows, strict=True), strict=True):
        if column.categorical:
            words = column.vocabulary
            if words is None:
                words = tuple(sorted({cell for cell in cells if cell is not None}))
            vocabularies[column.name] = words
            table[column.name] = _codes(path, column.name, words, cells, lines)
        else:
            table[column.name] = _numbers(path, column.name, cells, lines)
        table[column.name].flags.writeable = False
    return Table(table, vocabularies, name)


def _numbers(
    path: str | os.PathLike[str], name: str, cells: Sequence[str | None], lines: Sequence[int]
) -> NDArray[np.float64]:
    values = np.empty(len(cells), np.float64)
    for row, cell in enumerate(cells):
        number = math.nan
        if cell is not None:
            try:
                number = float(cell) if "_" not in cell else math.nan  # Python's 1_000 is no data
            except ValueError:
                number = math.nan
            if not math.isfinite(number):
                raise _cell_error(
                    path,
                    f"has a cell that is no finite number in column {name!r}",
                    lines[row],
                    f"the column is read as numbers, and this cell has {len(cell)} characters",
                    "declare the column categorical, or this text as missing",
                )
        values[row] = number
    return values


def _codes(
    path: str | os.PathLike[str],
    name: str,
    words: tuple[str, ...],
    cells: Sequence[str | None],
    lines: Sequence[int],
) -> NDArray[np.int64]:
    index: dict[str | None, int] = {word: code for code, word in enumerate(words)}
    index[None] = -1
    codes = np.empty(len(cells), np.int64)
    for row, cell in enumerate(cells):
        if cell not in index:
            raise _cell_error(
                path,
                f"has a word outside the vocabulary of column {name!r}",
                lines[row],
                f"the vocabulary has {len(words)} words and this is none of them",
                "add the word to the vocabulary of every client, or declare it missing",
            )
        codes[row] = index[cell]
    return codes


def _cell_error(
    path: str | os.PathLike[str], what: str, line: int | str, why: str, fix: str
) -> DataFormatError:
    where = f"{path}:{line}" if line else str(path)
    return DataFormatError(f"{os.path.basename(path)} {what}", where=where, why=why, fix=fix)
