"""How numbers of a run are written for people: the same in progress, reports and comparisons."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

__all__ = ["NONE", "drops", "duration", "number", "share", "size"]

NONE: Final = "–"
"""What stands where nothing was measured."""

_UNITS: Final = ("kB", "MB", "GB", "TB", "PB")
# Phases of a deployment, by what a client owed when it was lost.
_OWED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "KEYS": "keys",
        "SHARES": "shares",
        "COLLECTING": "update",
        "CONFIRMING": "confirm",
        "UNMASKING": "unmask",
    }
)


def size(count: int) -> str:
    """A number of bytes, in powers of 1000.

    >>> size(999), size(61_200_000)
    ('999 B', '61.2 MB')
    """
    if count < 1000:
        return f"{count} B"
    value, power = count / 1000, 0
    while value >= 999.95 and power < len(_UNITS) - 1:
        value, power = value / 1000, power + 1
    return f"{value:.1f} {_UNITS[power]}"


def duration(seconds: float | None) -> str:
    """A time span.

    >>> duration(12.4), duration(3_723), duration(200_000), duration(None)
    ('12.4 s', '1 h 02 min', '2 d 07 h', '–')
    """
    if seconds is None or not math.isfinite(seconds):
        return NONE
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min"
    hours = minutes // 60
    return (
        f"{hours} h {minutes % 60:02} min" if hours < 48 else f"{hours // 24} d {hours % 24:02} h"
    )


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many decimals, or as a power of ten where these would not show it.

    >>> number(0.4123), number(1e-7), number(2.5e9), number(None)
    ('0.412', '1.0e-07', '2.5e+09', '–')
    """
    if value is None:
        return NONE
    if value == 0 or 10.0**-digits <= abs(value) < 1e6 or not math.isfinite(value):
        return f"{value:.{digits}f}"
    return f"{value:.1e}"


def share(value: float | None) -> str:
    """A share of 1 in percent.

    >>> share(0.8789), share(None)
    ('87.9%', '–')
    """
    return NONE if value is None else f"{100 * value:.1f}%"


def drops(lost: Mapping[str, int]) -> str:
    """How many clients were lost in all, and in which phases.

    >>> drops({"train": 7, "collecting": 4, "unmask": 1}), drops({})
    ('12 (train 7 update 4 unmask 1)', '0')
    """
    parts = [f"{_OWED.get(phase.upper(), phase.lower())} {n}" for phase, n in lost.items() if n]
    return f"{sum(lost.values())}" + (f" ({' '.join(parts)})" if parts else "")
