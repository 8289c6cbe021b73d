"""ARFF, the format of Weka: a header that declares each column, then comma-separated rows.

Read: numeric, real and integer attributes as numbers; nominal attributes as categories with the
declared vocabulary; string attributes as categories with the words found; `?` as missing; quotes
with backslash escapes; `%` comments. Refused with the reason: dates, relations and sparse rows.

Source: Weka manual 3.9, chapter "ARFF".
"""

from __future__ import annotations

import os
import re
from collections.abc import Container
from pathlib import Path

from fedcore.data.source import MAX_BYTES, read_lines
from fedcore.data.table import Column, Table, parse_table
from fedcore.errors import DataFormatError

__all__ = ["load_arff"]

# Possessive quantifiers (*+) never backtrack, so no line takes more than linear time.
_QUOTED = r"""'(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+\""""
_ATTRIBUTE = re.compile(rf"@attribute\s++({_QUOTED}|[^\s{{'\"]++)\s*+(.++)$", re.IGNORECASE)
_NOMINAL = re.compile(rf"\{{((?:{_QUOTED}|[^}}'\"])*+)\}}\s*+(?:%.*+)?$")
_CELL = re.compile(rf"""\s*+(?:({_QUOTED})\s*+|([^,'"%]*+))(,|$|%.*+$)""")
_NUMERIC = {"numeric", "real", "integer"}


def load_arff(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> Table:
    """The table in an ARFF file, gzip or not; its name is that of the relation.

    Raises: DataFormatError with file and line if a declaration or a row is malformed, a type is not
    supported, a word is not in its column's declared vocabulary, or a number is none; what
    `fedcore.data.source.read_bytes` raises.
    """
    lines = read_lines(path, max_bytes=max_bytes)
    columns: dict[str, Column] = {}
    relation = Path(path).name
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        keyword = text.split(None, 1)[0].lower() if text else ""
        if keyword == "@relation":
            relation = _unquote(text[len("@relation") :].strip()) or relation
        elif keyword == "@attribute":
            column = _column(path, number, text, columns)
            columns[column.name] = column
        elif keyword.partition("%")[0] == "@data":
            return _table(path, list(columns.values()), lines, number, relation)
        elif text and not text.startswith("%"):
            raise _error(path, number, "has a header line that is no declaration", _HEADER_FIX)
    raise _error(path, len(lines), "has no @data line", _HEADER_FIX)


_HEADER_FIX = "the header holds @relation, @attribute NAME TYPE, % comments, and @data at its end"


def _table(
    path: str | os.PathLike[str], columns: list[Column], lines: list[str], start: int, relation: str
) -> Table:
    if not columns:
        raise _error(path, start, "declares no attribute", _HEADER_FIX)
    rows: list[list[str | None]] = []
    numbers: list[int] = []
    for number, line in enumerate(lines[start:], start=start + 1):
        text = line.strip()
        if text.startswith("{"):
            raise _error(path, number, "has a sparse row", "convert the file to dense rows")
        if text and not text.startswith("%"):
            rows.append(_cells(path, number, text))
            numbers.append(number)
    return parse_table(path, columns, rows, numbers, name=relation)


def _column(path: str | os.PathLike[str], number: int, text: str, taken: Container[str]) -> Column:
    declaration = _ATTRIBUTE.match(text)
    if declaration is None:
        raise _error(path, number, "has a malformed @attribute", "write @attribute NAME TYPE")
    name, kind = _unquote(declaration[1]), declaration[2].strip()
    if name in taken:
        raise _error(path, number, f"declares {name!r:.80} twice", "give each column its own name")
    if nominal := _NOMINAL.match(kind):
        words = [word for word in _cells(path, number, nominal[1]) if word is not None]
        if not words or len(set(words)) != len(words):
            fix = "list each value of the attribute once: {yes, no}"
            raise _error(path, number, f"declares no or repeated values of {name!r:.80}", fix)
        return Column(name, categorical=True, vocabulary=tuple(words))
    word = kind.partition("%")[0].split()[:1]
    kind = word[0].lower() if word else ""
    if kind in _NUMERIC:
        return Column(name)
    if kind == "string":
        return Column(name, categorical=True)
    fix = "supported are numeric, real, integer, string and {nominal, values}"
    raise _error(path, number, f"declares {name!r:.80} of an unsupported type", fix)


def _cells(path: str | os.PathLike[str], number: int, text: str) -> list[str | None]:
    """The cells of one line; an unquoted `?` is missing and becomes None."""
    if "'" not in text and '"' not in text and "%" not in text:
        stripped = (cell.strip() for cell in text.split(","))
        return [None if cell == "?" else cell for cell in stripped]
    cells: list[str | None] = []
    position = 0
    while True:
        match = _CELL.match(text, position)
        if match is None:
            fix = "close each quote and end a quoted cell with a comma or the line"
            raise _error(path, number, "has a line whose quotes do not fit", fix)
        quoted, plain, end = match.groups()
        bare = "" if plain is None else plain.strip()
        cells.append(_unquote(quoted) if quoted else None if bare == "?" else bare)
        if end != ",":
            return cells
        position = match.end()


def _unquote(text: str) -> str:
    if len(text) >= 2 and text[0] in "'\"" and text[-1] == text[0]:
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text


def _error(path: str | os.PathLike[str], line: int, what: str, fix: str) -> DataFormatError:
    name = os.path.basename(path)
    return DataFormatError(
        f"{name} {what}",
        where=f"{path}:{line}",
        why="this reader takes dense ARFF with numeric, nominal and string attributes",
        fix=fix,
    )
