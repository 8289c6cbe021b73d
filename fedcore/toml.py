"""TOML files are read so that every mistake is told with the line that holds it.

The standard library's parser gives values without places. A scanner of the same text finds the line
of each dotted path; it is asked only when there is a mistake to tell.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, TypeVar

from fedcore.errors import TaskError
from fedcore.settings import read_settings

__all__ = ["LARGEST_TEXT", "locate", "located", "parse", "read_file", "read_table", "text_of"]

LARGEST_TEXT: Final = 2**20
"""In characters; no settings that people write are longer."""

T = TypeVar("T")

_DEEPEST: Final = 64
# The parser takes time in the square of a key's parts: 45 minutes for one that fills a whole text.
_DEEP = re.compile(
    rf"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){{{_DEEPEST}}}""", re.ASCII
)
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SPACE = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_BLANK = re.compile(r"[ \t]*")
_SCALAR = re.compile(r"[^,\]}#\n]*")
_STRINGS = (
    re.compile(r'"""(?:[^\\]|\\.)*?"{3,5}(?!")', re.DOTALL),
    re.compile(r"'''.*?'{3,5}(?!')", re.DOTALL),
    re.compile(r'"(?:[^"\\\n]|\\.)*"'),
    re.compile(r"'[^'\n]*'"),
)


def read_file(path: Path, schema: type[T]) -> T:
    """The dataclass `schema` from a file. Raises: TaskError, as `read_table`."""
    return read_table(text_of(path), path.name, schema)


def text_of(path: Path) -> str:
    """The text of a settings file. Raises: TaskError if it cannot be read as one."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_TEXT + 1)
        return data.decode()
    except UnicodeDecodeError as error:
        raise TaskError(
            f"{path.name} is no TOML", why="TOML is text in UTF-8", fix="save it as UTF-8"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        why = error.strerror if isinstance(error, OSError) else "the path is not valid"
        raise TaskError(
            f"{path.name or path} cannot be read",
            why=(why or "").lower(),
            fix="name a file of settings that this user may read",
        ) from error


def read_table(text: str, source: str, schema: type[T]) -> T:
    """The dataclass `schema` from a text; `source`: what errors call it.

    Raises: TaskError with `source:line`, also for keys that the schema has not.
    """
    with located(text, source):
        return read_settings(parse(text, source), schema)


def parse(text: str, source: str) -> dict[str, Any]:
    """The values of a text, numbers with a point as Decimal. Raises: TaskError with its line."""
    if len(text) > LARGEST_TEXT:
        raise TaskError(
            f"{source} has {len(text)} characters",
            why=f"settings have at most {LARGEST_TEXT}",
            fix="keep data in files of their own",
        )
    if found := _DEEP.search(text):
        raise TaskError(
            f"{source} has a key of more than {_DEEPEST} parts",
            why="no setting lies that deep",
            fix="look up what the setting is called",
            where=f"{source}:{text.count(chr(10), 0, found.start()) + 1}",
        )
    try:
        return tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        reason, _, place = str(error).partition(" (at ")
        found = re.match(r"line (\d+)", place)
        line = found[1] if found else text.count("\n") + 1
        raise TaskError(
            f"{source} is no TOML",
            why=reason,
            fix="mend that line: a text stands in quotation marks, a table's name in brackets, and"
            " a key once",
            where=f"{source}:{line}",
        ) from error
    except (RecursionError, ValueError, ArithmeticError) as error:
        raise TaskError(
            f"{source} is no TOML",
            why="a value is nested too deep, or has too many digits",
            fix="write a plain value: no setting needs more",
        ) from error


@contextmanager
def located(text: str, source: str) -> Iterator[None]:
    """Gives a TaskError from inside, whose `where` is a dotted path, the line of that path."""
    try:
        yield
    except TaskError as error:
        if error.where and not error.where.startswith(f"{source}:"):
            line = locate(text, error.where)
            error.where = f"{source}:{line}" if line else source
        raise


def locate(text: str, path: str) -> int | None:
    r"""The line, from 1, on which a dotted path begins, or else the nearest table around it.

    >>> text = "[model]\n[[model.layers]]\nkind = 'relu'\n[[model.layers]]\nkind = 'tanh'"
    >>> locate(text, "model.layers[1].kind"), locate(text, "model.layers[1].bias")
    (5, 4)
    """
    scanner = _Scanner(text)
    with suppress(tomllib.TOMLDecodeError):  # of what is no TOML, the part before the mistake
        scanner.scan()
    lines = scanner.found
    while path:
        if path in lines:
            return lines[path]
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return None


class _Scanner:
    """Walks a text that tomllib accepts, and notes on which line each path begins."""

    def __init__(self, text: str) -> None:
        self.text = text.replace("\r\n", "\n")
        self.at = 0
        self.found: dict[str, int] = {}
        self.tables: dict[str, int] = {}  # arrays of tables: the index of the last one

    def scan(self) -> None:
        prefix = ""
        while self.skip(_SPACE) < len(self.text):
            start = self.at
            if self.text[self.at] == "[":
                prefix = self.header()
            else:
                self.pair(prefix)
            if self.at == start:
                break

    def header(self) -> str:
        start, double = self.at, self.text.startswith("[[", self.at)
        self.at += 2 if double else 1
        path = ""
        keys = self.keys()
        for depth, key in enumerate(keys):
            path = f"{path}.{key}" if path else key
            last = depth == len(keys) - 1
            if last and double:
                self.tables[path] = self.tables.get(path, -1) + 1
                self.note(path, start)
            if path in self.tables and (double or not last):
                path = f"{path}[{self.tables[path]}]"
            self.note(path, start)
        self.skip(_BLANK)
        self.at += 2 if double else 1
        return path

    def pair(self, prefix: str) -> None:
        start, path = self.at, prefix
        for key in self.keys():
            path = f"{path}.{key}" if path else key
            self.note(path, start)
        self.skip(_BLANK)
        self.at += 1  # the equals sign
        self.skip(_BLANK)
        self.value(path)

    def value(self, path: str) -> None:
        opening = self.text[self.at : self.at + 1]
        if opening == "[":
            self.items("]", path)
        elif opening == "{":
            self.items("}", path)
        elif opening in ("'", '"'):
            self.string()
        else:
            self.skip(_SCALAR)

    def items(self, closing: str, path: str) -> None:
        """The entries of an array or of an inline table, up to what closes it."""
        self.at += 1
        index = 0
        while self.skip(_SPACE) < len(self.text) and self.text[self.at] != closing:
            start = self.at
            if closing == "}":
                self.pair(path)
            else:
                self.note(f"{path}[{index}]", start)
                self.value(f"{path}[{index}]")
            index += 1
            if self.skip(_SPACE) < len(self.text) and self.text[self.at] == ",":
                self.at += 1
            if self.at == start:
                return
        self.at += 1

    def keys(self) -> list[str]:
        found = []
        while True:
            self.skip(_BLANK)
            start = self.at
            if self.text[start : start + 1] in ("'", '"'):
                self.string()
                [key] = tomllib.loads(f"{self.text[start : self.at]} = 0")
                found.append(key)
            else:
                self.skip(_BARE)
                found.append(self.text[start : self.at])
            self.skip(_BLANK)
            if self.text[self.at : self.at + 1] != ".":
                return found
            self.at += 1

    def string(self) -> None:
        for pattern in _STRINGS:
            if match := pattern.match(self.text, self.at):
                self.at = match.end()
                return
        self.at = len(self.text)

    def skip(self, pattern: re.Pattern[str]) -> int:
        if match := pattern.match(self.text, self.at):
            self.at = match.end()
        return self.at

    def note(self, path: str, at: int) -> None:
        self.found.setdefault(path, self.text.count("\n", 0, at) + 1)
