"""Comma-separated values, with or without a header line, as a table of numbers and categories.

Source: RFC 4180, read leniently: spaces around cells are dropped, blank lines are skipped.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from fedcore.data.source import MAX_BYTES, read_lines
from fedcore.data.table import Column, Table, column_names, parse_table
from fedcore.errors import ArgumentError, DataFormatError

__all__ = ["load_csv"]


def load_csv(
    path: str | os.PathLike[str],
    *,
    header: bool = True,
    names: Sequence[str] | None = None,
    categorical: Collection[str | int] = (),
    vocabularies: Mapping[str, Sequence[str]] | None = None,
    missing: Collection[str] = ("?", ""),
    delimiter: str = ",",
    comment: str | None = None,
    max_bytes: int = MAX_BYTES,
) -> Table:
    """The table in a CSV file, gzip or not.

    `header` says that the first line names the columns; `names` names them otherwise, and without
    either they are "0", "1", .... Columns in `categorical` become codes of the words found, sorted;
    columns in `vocabularies` become codes of the words given; all others are numbers. Lines that
    begin with `comment` are skipped.
    Raises: ArgumentError if an option contradicts the file; DataFormatError with file and line if a
    line has a wrong number of cells, a number is none, a word is unknown or quotes do not close;
    what `fedcore.data.source.read_bytes` raises.
    """
    if (
        len(delimiter) != 1
        or delimiter in '" '
        or not (delimiter.isprintable() or delimiter == "\t")
    ):
        raise ArgumentError(
            f"load_csv: delimiter is {delimiter!r:.80}",
            why="cells are separated by one character that no cell trims or quotes with",
            fix='pass one character, such as "," or ";" or "\\t"',
        )
    lines = read_lines(path, max_bytes=max_bytes)
    rows, numbers = _rows(path, lines, delimiter=delimiter, comment=comment)
    if len(rows) <= header:
        raise DataFormatError(
            f"{Path(path).name} has no rows",
            where=str(path),
            why="there is nothing to learn from",
            fix="add rows" + (", or pass header=False" if rows else ""),
        )
    if header:
        found, rows, numbers = rows[0], rows[1:], numbers[1:]
        names = found if names is None else names
    elif names is None:
        names = [str(position) for position in range(len(rows[0]))]
    if len(set(names)) != len(names):
        raise DataFormatError(
            f"{Path(path).name} names two columns alike",
            where=str(path),
            why="a column is chosen by its name",
            fix="pass distinct names=[...]; with header=True they replace the first line",
        )
    vocabularies = vocabularies or {}
    listed = zip(
        column_names(names, vocabularies, where=str(path)), vocabularies.values(), strict=True
    )
    given = {name: tuple(words) for name, words in listed}
    coded = {*column_names(names, categorical, where=str(path)), *given}
    columns = [Column(name, name in coded, given.get(name)) for name in names]
    absent = frozenset(missing)
    cells = [[None if cell in absent else cell for cell in row] for row in rows]
    return parse_table(path, columns, cells, numbers, name=Path(path).name)


def _rows(
    path: str | os.PathLike[str], lines: Sequence[str], *, delimiter: str, comment: str | None
) -> tuple[list[list[str]], list[int]]:
    """The trimmed cells of every row, and the line in which each row ends."""
    kept = [
        "" if comment is not None and line.startswith(comment) else line + "\n" for line in lines
    ]
    reader = csv.reader(kept, delimiter=delimiter, skipinitialspace=True, strict=True)
    rows: list[list[str]] = []
    numbers: list[int] = []
    try:
        for cells in reader:
            trimmed = [cell.strip() for cell in cells]
            if any(trimmed) or len(trimmed) > 1:
                rows.append(trimmed)
                numbers.append(reader.line_num)
    except csv.Error as error:
        quotes = 'close each quote, and double a quote inside quotes: "say ""yes"""'
        longest = f"leave out cells of more than {csv.field_size_limit()} characters, or "
        raise DataFormatError(
            f"{Path(path).name} has a line that is no CSV",
            where=f"{path}:{reader.line_num}",
            why=str(error),
            fix=(longest if "field limit" in str(error) else "") + quotes,
        ) from None
    return rows, numbers
