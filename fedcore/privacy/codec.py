"""Plans and events as JSON: a record's own type annotations are the list of what may be read.

Nothing is imported or called by name: a record is read only where an annotation names its class,
each value only in its one canonical form.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from enum import Enum
from fractions import Fraction
from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from fedcore.errors import FedcoreError, LedgerError

__all__ = ["from_json", "to_json"]

_DEEPEST = 6
_LARGEST_INTEGER = 2**63 - 1
_LONGEST_INTEGER = 2000  # decimal digits of a fraction: variances are exact, not endless


def to_json(value: Any) -> Any:
    """A record, and what it holds, as JSON values.

    A record becomes an object whose "kind" is its class; a Fraction "numerator/denominator"; a
    float its hexadecimal form, so that nothing is rounded; an Enum its name; a tuple a list.

    >>> from fedcore.privacy.events import GaussianEvent
    >>> to_json(GaussianEvent(Fraction(3, 2)))
    {'kind': 'GaussianEvent', 'noise_multiplier': '3/2'}
    """
    if is_dataclass(value):
        values = {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
        return {"kind": type(value).__name__, **values}
    if isinstance(value, Fraction):
        return f"{value.numerator}/{value.denominator}"
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, tuple):
        return [to_json(item) for item in value]
    return value


def from_json(data: object, annotation: Any) -> Any:
    """The value of type `annotation` (a class or a union of them) that `to_json` wrote as `data`.

    Raises: LedgerError for anything else, and for a record that refuses its own values, or that
    fills in what is missing.
    """
    found = _read(data, annotation, _DEEPEST)
    if to_json(found) != data:
        raise _malformed("a value that is chosen by default has to be written out")
    return found


def _read(data: object, annotation: Any, depth: int) -> Any:
    if depth == 0:
        raise _malformed("it is nested deeper than any record")
    if get_origin(annotation) in (Union, UnionType):
        return _read_union(data, get_args(annotation), depth)
    if get_origin(annotation) is tuple:
        if not isinstance(data, list):
            raise _malformed("a list is missing")
        return tuple(_read(item, get_args(annotation)[0], depth - 1) for item in data)
    if isinstance(annotation, type) and is_dataclass(annotation):
        return _read_record(data, annotation, depth)
    if annotation in (int, str, bool, NoneType):
        if type(data) is int and abs(data) > _LARGEST_INTEGER:
            raise _malformed("an integer is larger than any that is counted")
        if type(data) is annotation:
            return data
    elif isinstance(data, str):
        found = _read_text(data, annotation)
        if found is not None and to_json(found) == data:
            return found
    raise _malformed(f"a value is no {annotation.__name__} in canonical form")


def _read_union(data: object, choices: tuple[Any, ...], depth: int) -> Any:
    """Records are told apart by their kind, other types by their JSON type."""
    if data is None and NoneType in choices:
        return None
    records = {
        choice.__name__: choice
        for choice in choices
        if isinstance(choice, type) and is_dataclass(choice)
    }
    if isinstance(data, dict) and records:
        kind = data.get("kind")
        if not isinstance(kind, str) or kind not in records:
            raise _malformed(f"its kind is none of {', '.join(records)}")
        return _read(data, records[kind], depth)
    others = [choice for choice in choices if choice is not NoneType and not is_dataclass(choice)]
    if len(others) != 1:
        raise _malformed("a record is missing")
    return _read(data, others[0], depth)


def _read_record(data: object, cls: Any, depth: int) -> Any:
    hints = _hints(cls)
    if not isinstance(data, dict) or data.get("kind") != cls.__name__:
        raise _malformed(f"a {cls.__name__} is missing")
    if set(data) != {"kind", *hints}:
        raise _malformed(f"the fields of a {cls.__name__} are {', '.join(hints)}")
    values = {name: _read(data[name], hint, depth - 1) for name, hint in hints.items()}
    try:
        return cls(**values)
    except FedcoreError as error:
        raise _malformed(error.what) from error


def _read_text(text: str, annotation: Any) -> Any:
    if annotation is Fraction:
        top, _, bottom = text.partition("/")
        if max(len(top), len(bottom)) > _LONGEST_INTEGER or not bottom.isdecimal():
            return None
        if not top.removeprefix("-").isdecimal() or int(bottom) == 0:
            return None
        return Fraction(int(top), int(bottom))
    if annotation is float:
        try:
            return float.fromhex(text)
        except (ValueError, OverflowError):
            return None
    if issubclass(annotation, Enum):
        return annotation.__members__.get(text)
    return None


@cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in fields(cls)}


def _malformed(why: str) -> LedgerError:
    return LedgerError(
        "a stored record cannot be read",
        why=why,
        fix="restore the file from where it was written; do not edit it",
    )
