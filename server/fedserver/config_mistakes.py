"""What is wrong with the server's settings, in the words in which tasks and policies are told.

pydantic finds the place; what is allowed there is read from the schema, so that every kind of
mistake in a setting is answered with the same set.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from fedcore.errors import TaskError
from fedcore.settings import setting_error

__all__ = ["explained", "read_texts", "setting_mistake", "unknown_setting"]

_KINDS: Final[Mapping[Any, str]] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    Path: "a path, written as a text",
}
_READ_FROM_TEXT: Final = (int, float, bool)
# Against a secret that was written where none belongs.
_HIDDEN: Final = {
    "file": "name the file that holds it, or env:NAME",
    "url": "write postgresql://user@host/database, and its password in database_password_file",
}
_BOUNDS: Final = ((Ge, "ge", "from"), (Gt, "gt", "above"), (Le, "le", "to"), (Lt, "lt", "below"))


def explained(error: ErrorDetails, schema: type[BaseModel]) -> TaskError:
    """The error of what pydantic refused first in values of `schema`."""
    location = tuple(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return unknown_setting(location, schema)
    field = _field(location, schema)
    if error["type"] == "value_error":
        reason = error["msg"].removeprefix("Value error, ")
    else:
        reason = f"it has to be {_allowed(field, item=location[-1].isdigit())}"
    # A secret that was written where its file should be named must not be shown.
    shown = not location[-1].endswith(("_file", "_url"))
    return setting_mistake(
        location,
        schema,
        error["input"] if shown else None,
        reason,
        _fix(error["input"], field) if shown else _HIDDEN[location[-1].rpartition("_")[2]],
    )


def setting_mistake(
    location: tuple[str, ...], schema: type[BaseModel], value: Any, why: str, fix: str
) -> TaskError:
    """The error of a setting, at its dotted path or named by its variable. None: do not show it."""
    where, name = _place(location, schema)
    hidden = value is None
    error = TaskError(name, why=why, fix=fix) if hidden else setting_error(name, value, why, fix)
    error.where = where
    return error


def unknown_setting(
    location: tuple[str, ...], schema: type[BaseModel], *, variable: str = ""
) -> TaskError:
    """The error of a key that is none, with the section that has it, or the nearest that is."""
    where, name = ("", variable) if variable else _place(location, schema)
    sections = dict(_sections(schema))
    known = sorted((sections[location[0]] if len(location) > 1 else schema).model_fields)
    homes = [f"[{home}]" for home in sections if location[-1] in sections[home].model_fields]
    near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
    if homes:
        fix = f"it belongs in {' or '.join(homes)}"
    else:
        fix = f"did you mean {near[0]}?" if near else "leave it out"
    return TaskError(
        f"{name:.80} is no setting", why=f"known here: {', '.join(known)}", fix=fix, where=where
    )


def read_texts(values: Mapping[str, Any], schema: type[BaseModel]) -> dict[str, Any]:
    """The values of variables, which are texts, as the numbers and truths that they stand for.

    What stands for none is left as it is, and then refused like any other text.
    """
    found = dict(values)
    for name in found.keys() & schema.model_fields.keys():
        field, value = schema.model_fields[name], found[name]
        if (section := _section_of(field)) and isinstance(value, Mapping):
            found[name] = read_texts(value, section)
        elif isinstance(value, str) and field.annotation in _READ_FROM_TEXT:
            found[name] = _read(value, field.annotation)
    return found


def _section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The schema of a field that is a table, or None."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _read(text: str, kind: Any) -> Any:
    try:
        return TypeAdapter(kind).validate_python(text, strict=False)
    except ValidationError:
        return text


def _sections(schema: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in schema.model_fields.items():
        if (section := _section_of(field)) is not None:
            yield name, section


def _field(location: tuple[str, ...], schema: type[BaseModel]) -> FieldInfo:
    field = schema.model_fields[location[0]]
    section = _section_of(field)
    return section.model_fields[location[1]] if section and len(location) > 1 else field


def _allowed(field: FieldInfo, *, item: bool = False) -> str:
    kind = field.annotation
    if _section_of(field):
        return "a table"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(repr, get_args(kind)))}"
    if get_origin(kind) is tuple:
        if item:
            return _KINDS[get_args(kind)[0]]
        least = next(extra.min_length for extra in field.metadata if isinstance(extra, MinLen))
        most = next(extra.max_length for extra in field.metadata if isinstance(extra, MaxLen))
        return f"a list of {least} … {most} texts"
    bounds = [
        f" {word} {getattr(extra, name)}"
        for mark, name, word in _BOUNDS
        for extra in field.metadata
        if isinstance(extra, mark)
    ]
    return _KINDS[kind] + "".join(bounds)


def _fix(value: Any, field: FieldInfo) -> str:
    kind, default = field.annotation, field.default
    if section := _section_of(field):
        return f"set its keys: {', '.join(sorted(section.model_fields))}"
    if isinstance(value, str):
        if get_origin(kind) is tuple:
            return f"write [{json.dumps(value, ensure_ascii=False)}]"
        near = difflib.get_close_matches(value[:60], map(str, get_args(kind)), n=1, cutoff=0.5)
        if near:
            return f"did you mean {near[0]!r}?"
        if kind in _READ_FROM_TEXT and not isinstance(_read(value, kind), str):
            return f"write {value} without quotes"
    if default in ("", Path()):
        return "leave it out"
    return f"leave it out for the default, {json.dumps(default, default=str)}"


def _place(location: tuple[str, ...], schema: type[BaseModel]) -> tuple[str, str]:
    """The dotted path in the file, and the name to tell; no path for a variable's value."""
    prefix = str(schema.model_config.get("env_prefix", ""))
    path = ""
    for part in location:
        path += f"[{part}]" if part.isdigit() else f".{part}" if path else part
    # An entry of a list is in its list's variable.
    for length in range(len(location), min(len(location), 2) - 1, -1):
        variable = (prefix + "__".join(location[:length])).upper()
        if variable in os.environ:
            return "", variable
    return path, path
