"""Lengths of time as people write them on a command line."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Final

from fedcore.console import plain
from fedcore.errors import ArgumentError

__all__ = ["seconds_of"]

_UNITS: Final = MappingProxyType({"s": 1, "m": 60, "h": 3600, "d": 86_400})


def seconds_of(text: str, kind: str) -> int:
    """The seconds of a `kind`, like "lifetime". Raises: ArgumentError.

    >>> seconds_of("24h", "lifetime")
    86400
    """
    found = re.fullmatch(r"([1-9][0-9]{0,8})([smhd])", text, re.ASCII)
    if found is None:
        raise ArgumentError(
            f"{plain(text)!r} is no {kind}",
            why="it is a whole number and a unit: s, m, h or d",
            fix="write it like 24h",
        )
    return int(found[1]) * _UNITS[found[2]]
