"""Frozen dataclasses as plain JSON and back, exactly: what a run leaves is read years later.

A float that JSON lacks is the text "inf", "-inf" or "nan"; an enum is its value; a mapping keeps
its order. What is read is checked against the annotations, so a file that was edited by hand is
refused with the place of the mistake, and never half understood.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from types import MappingProxyType, NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from fedcore.console import Json
from fedcore.errors import DataFormatError

__all__ = ["canonical_json", "from_plain", "parse_json", "to_plain"]

T = TypeVar("T")

_NOT_FINITE = ("inf", "-inf", "nan")


def to_plain(value: Any) -> Json:
    """A dataclass, or anything that one of its fields may hold, as JSON values.

    Raises: TypeError for a value of a type that records do not have.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, Enum):
        return to_plain(value.value)
    if is_dataclass(value):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    raise TypeError(f"a record holds no {type(value).__name__}")


def from_plain(schema: type[T], value: Any, *, place: str = "") -> T:
    """The dataclass that `to_plain` gave as `value`. Raises: DataFormatError with the place."""
    found: T = _read(schema, value, place or schema.__name__)
    return found


def canonical_json(value: Json) -> bytes:
    """The one form of a JSON value: sorted keys, no spaces, ASCII. Raises: ValueError for NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


def parse_json(data: bytes, *, place: str) -> Any:
    """The value of a JSON text. Raises: DataFormatError, also for NaN, and for a key twice."""
    try:
        return json.loads(data, parse_constant=_no_constant, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise _damaged(place, f"it is not JSON: {error}") from error


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _read(annotation: Any, value: Any, place: str) -> Any:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        return _read(next(kind for kind in arguments if kind is not NoneType), value, place)
    if origin is tuple:
        items = _require(value, list, place)
        return tuple(_read(arguments[0], item, f"{place}[{i}]") for i, item in enumerate(items))
    if origin is not None:  # a Mapping of texts to something
        table = _require(value, dict, place)
        read = {key: _read(arguments[1], item, f"{place}.{key}") for key, item in table.items()}
        return MappingProxyType(read)
    if is_dataclass(annotation):
        return _read_fields(annotation, _require(value, dict, place), place)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        try:
            return annotation(value)
        except ValueError:
            raise _damaged(place, f"{value!r:.60} is none of its values") from None
    if annotation is float and type(value) is str and value in _NOT_FINITE:
        return float(value)
    if annotation is float and type(value) is int:
        value = float(value)
    return _require(value, annotation, place)


def _read_fields(schema: Any, table: dict[str, Any], place: str) -> Any:
    hints, found = _hints(schema), {}
    if unknown := sorted(table.keys() - hints.keys()):
        raise _damaged(place, f"it has no field {unknown[0]!r:.60}")
    for field in fields(schema):
        if field.name in table:
            found[field.name] = _read(hints[field.name], table[field.name], f"{place}.{field.name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise _damaged(place, f"{field.name} is missing")
    return schema(**found)


@cache
def _hints(schema: Any) -> dict[str, Any]:
    return get_type_hints(schema)


def _require(value: Any, kind: type, place: str) -> Any:
    if type(value) is not kind:  # exact, because a bool is an int to isinstance
        raise _damaged(place, f"{value!r:.60} is no {kind.__name__}")
    return value


def _damaged(place: str, why: str) -> DataFormatError:
    return DataFormatError(
        f"{place} cannot be read",
        why=why,
        fix="use the file as the simulator wrote it, with the release that wrote it or a later one",
    )
