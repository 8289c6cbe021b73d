"""Settings are frozen dataclasses whose fields say what they may hold; text is read into them.

Tasks, a device's policy and other files share this one reader, so that all of them are as strict,
and say what is wrong in the same words.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from datetime import date, time
from decimal import Decimal
from difflib import get_close_matches
from fractions import Fraction
from functools import cache
from types import NoneType, UnionType
from typing import (
    Any,
    Literal,
    Self,
    TypeAlias,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from fedcore.errors import TaskError

__all__ = [
    "Bounds",
    "Options",
    "Settings",
    "Value",
    "read_option",
    "read_settings",
    "read_value",
    "setting_error",
    "unknown_key",
    "write_options",
    "write_settings",
]

Value: TypeAlias = bool | int | float | str | tuple[Any, ...]
"""What an option may be."""

Options: TypeAlias = tuple[tuple[str, Value], ...]
"""Options by name, sorted: `dict(options)` looks one up."""

T = TypeVar("T")

_LARGEST_INTEGER = 2**63 - 1
_LONGEST_TEXT = 256
_MOST_DIGITS = 40
_MOST_OPTIONS, _MOST_ITEMS = 64, 64


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a setting may be, in its annotation: `Annotated[int, Bounds(least=1)]`.

    Of numbers the range, of texts the pattern, of lists the length; range and pattern hold for a
    list's entries, too.
    """

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    pattern: str | None = None
    length: tuple[int, int] | None = None

    def broken(self, value: Any) -> str:
        """What it has to be if it is not so, or ""."""
        if isinstance(value, tuple):
            if self.length is not None and not self.length[0] <= len(value) <= self.length[1]:
                return f"a list of {self.length[0]} … {self.length[1]} entries"
            return next((found for item in value if (found := self.broken(item))), "")
        if self.pattern is not None and not re.fullmatch(self.pattern, value, re.ASCII):
            return f"a text of the form {self.pattern}"
        holds = (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )
        return "" if holds else f"a number {self._range()}"

    def _range(self) -> str:
        bounds = {"from": self.least, "above": self.above, "to": self.most, "below": self.below}
        return " ".join(f"{word} {bound}" for word, bound in bounds.items() if bound is not None)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A table of settings, which cannot be made with a value that breaks a field's bounds.

    Raises: TaskError.

    >>> @dataclass(frozen=True, kw_only=True)
    ... class Rounds(Settings):
    ...     count: int
    >>> read_settings({"count": 3}, Rounds)
    Rounds(count=3)
    >>> read_settings({"cuont": 3}, Rounds, path="rounds")
    Traceback (most recent call last):
    ...
    fedcore.errors.federation.TaskError: FED-1601 rounds.cuont is no setting
      at rounds.cuont
      Why: known here: count
      Fix: did you mean count?
    """

    def __post_init__(self) -> None:
        schema: Any = type(self)
        for name, bounds in _bounds(schema).items():
            _check_bounds(name, getattr(self, name), bounds)

    @classmethod
    def read(cls, values: Mapping[str, Any], path: str) -> Self:
        """This table from parsed text. Raises: TaskError naming the dotted path."""
        found: Self = _read_fields(values, cls, path)
        return found

    def write(self) -> dict[str, Any]:
        """What `read` reads, as JSON values."""
        return _write_fields(self)


def setting_error(path: str, value: object, why: str, fix: str = "") -> TaskError:
    """The error of a setting that cannot be `value`; `where` is the dotted path."""
    return TaskError(f"{path} = {_shown(value)}", why=why, fix=fix, where=path)


def unknown_key(path: str, key: str, known: Sequence[str]) -> TaskError:
    """The error of a key that is none, with the nearest that is."""
    near = get_close_matches(key, known, n=1, cutoff=0.5)
    shown = f"{key:.60}"
    place = f"{path}.{shown}" if path else shown
    return TaskError(
        f"{place} is no setting",
        why=f"known here: {', '.join(known)}" if known else "nothing can be set here",
        fix=f"did you mean {near[0]}?" if near else "leave it out",
        where=place,
    )


def read_settings(values: Mapping[str, Any], schema: type[T], *, path: str = "") -> T:
    """The dataclass `schema` from the parsed text of a table.

    Types are strict: no text is a number, no fraction an int. An int is a float; a Decimal, an int
    or a text "1/3" is a Fraction, exactly.
    Raises: TaskError, whose `where` is the dotted path.
    """
    found: T = read_value(values, schema, path)
    return found


def read_value(value: Any, annotation: Any, path: str) -> Any:
    """`value` as the type `annotation`. Raises: TaskError."""
    if annotation == Options:
        return _read_options(value, path)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return read_option(value, path)
    if origin in (Union, UnionType):
        return read_value(value, _member(value, arguments, path), path)
    if origin is Literal:
        return _read_choice(value, arguments, path)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise setting_error(path, value, "it has to be a list")
        return tuple(
            read_value(item, arguments[0], f"{path}[{index}]") for index, item in enumerate(value)
        )
    if isinstance(annotation, type) and is_dataclass(annotation):
        if not isinstance(value, Mapping):
            raise setting_error(path, value, "it has to be a table")
        if issubclass(annotation, Settings):
            return annotation.read(value, path)
        return _read_fields(value, annotation, path)
    return _READERS[annotation](value, path)


def _member(value: Any, members: tuple[Any, ...], path: str) -> Any:
    """Of a union's types the one that is written like `value`."""
    wanted = [member for member in members if member is not NoneType]
    if len(wanted) == 1:
        return wanted[0]
    kind = tuple if isinstance(value, list | tuple) else type(value)
    for member in wanted:
        if kind is (get_origin(member) or member):
            return member
    raise setting_error(path, value, "it is of another type than any that is taken here")


def write_settings(value: Any) -> Any:
    """What `read_settings` reads, as JSON values: fractions as "1/3", what is None left out."""
    if isinstance(value, Settings):
        return value.write()
    if isinstance(value, Fraction):
        return f"{value.numerator}/{value.denominator}"
    if isinstance(value, tuple):
        return [write_settings(item) for item in value]
    return value


def _read_fields(values: Mapping[str, Any], schema: Any, path: str) -> Any:
    hints = _hints(schema)
    for key in values:
        if key not in hints:
            raise unknown_key(path, str(key), list(hints))
    found = {}
    for field in fields(schema):
        place = f"{path}.{field.name}" if path else field.name
        if field.name in values:
            value = found[field.name] = read_value(values[field.name], hints[field.name], place)
            _check_bounds(place, value, _bounds(schema).get(field.name))
        elif field.default is MISSING and field.default_factory is MISSING:
            raise TaskError(
                f"{place} is missing", why="it has no default", fix=f"set {place}", where=path
            )
    return schema(**found)


def _check_bounds(path: str, value: Any, bounds: Bounds | None) -> None:
    if value is not None and bounds is not None and (wanted := bounds.broken(value)):
        raise setting_error(path, value, f"it has to be {wanted}")


def _write_fields(settings: Settings) -> dict[str, Any]:
    schema: Any = type(settings)
    hints, found = _hints(schema), {}
    for field in fields(settings):
        if (value := getattr(settings, field.name)) is not None:
            options = hints[field.name] == Options
            found[field.name] = write_options(value) if options else write_settings(value)
    return found


def write_options(options: Options) -> dict[str, Any]:
    """Options as a JSON object."""
    return {name: write_settings(value) for name, value in options}


def _read_options(values: Any, path: str) -> Options:
    if not isinstance(values, Mapping):
        raise setting_error(path, values, "it has to be a table of options")
    if len(values) > _MOST_OPTIONS:
        raise setting_error(path, f"{len(values)} options", f"at most {_MOST_OPTIONS} are taken")
    return tuple(
        (_text(name, path), read_option(value, f"{path}.{name}"))
        for name, value in sorted(values.items())
    )


def read_option(value: Any, path: str, *, depth: int = 2) -> Value:
    """A plain value, or a list of such, or of lists. Raises: TaskError."""
    if isinstance(value, bool):
        return value
    if isinstance(value, list | tuple) and depth and len(value) <= _MOST_ITEMS:
        return tuple(
            read_option(item, f"{path}[{index}]", depth=depth - 1)
            for index, item in enumerate(value)
        )
    if isinstance(value, str):
        return _text(value, path)
    if isinstance(value, int):
        return _integer(value, path)
    if isinstance(value, float | Decimal):
        return _float(value, path)
    raise setting_error(path, value, "an option is a bool, a number, a text or a list of them")


def _read_choice(value: Any, choices: tuple[Any, ...], path: str) -> Any:
    if isinstance(value, str) and value in choices:
        return value
    near = get_close_matches(str(value)[:60], choices, n=1, cutoff=0.5)
    raise setting_error(
        path,
        value,
        f"it is one of {', '.join(map(repr, choices))}",
        f"did you mean {near[0]!r}?" if near else "",
    )


def _boolean(value: Any, path: str) -> bool:
    if not isinstance(value, bool):
        raise setting_error(path, value, "it has to be true or false")
    return value


def _integer(value: Any, path: str) -> int:
    if type(value) is not int:
        raise setting_error(path, value, "it has to be a whole number")
    if abs(value) > _LARGEST_INTEGER:
        raise setting_error(path, value, "it does not fit into 64 bits")
    return value


def _float(value: Any, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise setting_error(path, value, "it has to be a number")
    found = _integer(value, path) if isinstance(value, int) else value
    number = float(found)
    if not abs(number) <= sys.float_info.max:
        raise setting_error(path, value, "it has to be a finite number")
    return number + 0.0  # of the two zeros, the one without a sign


def _fraction(value: Any, path: str) -> Fraction:
    if isinstance(value, str):
        match = re.fullmatch(r"(-?\d{1,40})/(\d{1,40})", value, re.ASCII)
        if match is None or not int(match[2]):
            raise setting_error(path, value, 'it has to be a number or a text like "1/7"')
        return Fraction(int(match[1]), int(match[2]))
    if isinstance(value, Decimal):
        _, digits, exponent = value.as_tuple()
        short = isinstance(exponent, int) and abs(exponent) + len(digits) <= _MOST_DIGITS
        if not short:
            raise setting_error(path, value, f"it has more than {_MOST_DIGITS} digits")
        return Fraction(value)
    if isinstance(value, float) and math.isfinite(value):
        return Fraction(repr(value))
    return Fraction(_integer(value, path))


def _text(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise setting_error(path, value, "it has to be a text")
    if len(value) > _LONGEST_TEXT or not value.isprintable():
        raise setting_error(
            path, value, f"a text has at most {_LONGEST_TEXT} characters, all of them printable"
        )
    return value


_READERS = {bool: _boolean, int: _integer, float: _float, Fraction: _fraction, str: _text}


@cache
def _hints(schema: Any) -> dict[str, Any]:
    hints = get_type_hints(schema)
    return {field.name: hints[field.name] for field in fields(schema) if field.init}


@cache
def _bounds(schema: Any) -> dict[str, Bounds]:
    found = {}
    for name, hint in get_type_hints(schema, include_extras=True).items():
        for extra in getattr(hint, "__metadata__", ()):
            if isinstance(extra, Bounds):
                found[name] = extra
    return found


def _shown(value: object) -> str:
    try:
        unquoted = isinstance(value, Decimal | Fraction | date | time)
        shown = str(value) if unquoted else repr(value)
    except ValueError:  # Python refuses to print a long integer
        shown = "a number of many digits"
    return shown if len(shown) <= 80 else f"{shown[:77]}…"
