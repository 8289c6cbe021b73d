"""Writes what a TOML parser reads, for texts that are made of others and not by a person."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import date, time
from decimal import Decimal
from typing import Any, Final

__all__ = ["toml_text", "toml_value"]

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")


def toml_text(tables: Mapping[str, Any]) -> str:
    """A text from which these values are read again; comments and the order of keys are lost.

    Raises: TypeError for what TOML has no form for.

    >>> print(toml_text({"model": {"layers": [{"kind": "relu"}]}, "rounds": {"count": 3}}), end="")
    [[model.layers]]
    kind = "relu"
    <BLANKLINE>
    [rounds]
    count = 3
    """
    return "\n".join("\n".join(block) + "\n" for block in _blocks(tables, "", ""))


def toml_value(value: Any) -> str:
    """One value on one line.

    >>> toml_value({"name": "sgd", "lr": Decimal("0.10"), "nesterov": True})
    '{ name = "sgd", lr = 0.10, nesterov = true }'
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float | Decimal):
        return _number(value)
    if isinstance(value, str):
        # JSON escapes all that TOML wants escaped, but for one letter.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Mapping):
        inside = ", ".join(f"{_key(key)} = {toml_value(item)}" for key, item in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    raise TypeError(f"TOML has no {type(value).__name__}")


def _blocks(table: Mapping[str, Any], path: str, header: str) -> list[list[str]]:
    """A table's header with its own values, then the tables in it."""
    inner = {key: item for key, item in table.items() if _is_block(item)}
    own = [f"{_key(key)} = {toml_value(item)}" for key, item in table.items() if key not in inner]
    found = [[header, *own] if header else own] if own or (header and not inner) else []
    if header.startswith("[[") and not found:
        found = [[header]]
    for key, item in inner.items():
        place = f"{path}.{_key(key)}" if path else _key(key)
        if isinstance(item, Mapping):
            found += _blocks(item, place, f"[{place}]")
        else:
            for entry in item:
                found += _blocks(entry, place, f"[[{place}]]")
    return found


def _is_block(value: Any) -> bool:
    if isinstance(value, Mapping):
        return True
    tables = isinstance(value, Sequence) and not isinstance(value, str) and bool(value)
    return tables and all(isinstance(item, Mapping) for item in value)


def _key(key: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"TOML has no keys that are {type(key).__name__}")
    return key if _BARE.fullmatch(key) else toml_value(key)


def _number(value: float | Decimal) -> str:
    if math.isfinite(value):
        text = str(value)
        return text if re.search(r"[.eE]", text) else f"{text}.0"
    return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
