"""How commands write times, sizes, digests and what a server says: on one line, nothing that acts.

A reason or a name in an answer may come from a client; a terminal must not obey it.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

from fedcore.console import plain
from fedcore.errors import ArgumentError

__all__ = [
    "digest_of",
    "hexadecimal",
    "identifier_of",
    "plain",
    "seconds",
    "size",
    "spent",
    "task_of",
    "time",
]

_UNITS = ("kB", "MB", "GB", "TB")


def time(ms: int) -> str:
    """Unix milliseconds as a time, "-" for none.

    >>> time(1_700_000_000_000), time(0)
    ('2023-11-14T22:13:20Z', '-')
    """
    # The bound is the year 9999, beyond which there are no dates.
    if not 0 < ms < 253_402_300_800_000:
        return "-"
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds(ms: int) -> str:
    """A duration in milliseconds.

    >>> seconds(12_400), seconds(3_723_000)
    ('12.4 s', '1 h 02 min')
    """
    if ms < 120_000:
        return f"{max(0, ms) / 1000:.1f} s"
    minutes = ms // 60_000
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


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


def spent(epsilon: float, budget: float) -> str:
    """What was spent of a budget of privacy, where the server knows.

    >>> spent(1.834, 4), spent(math.nan, 4)
    ('eps 1.83/4.00', 'eps ?/4.00')
    """
    known = "?" if math.isnan(epsilon) else f"{epsilon:.2f}"
    return f"eps {known}/{budget:.2f}"


def hexadecimal(value: bytes) -> str:
    """The digits of an id or digest, "-" for none."""
    return value.hex() or "-"


def digest_of(text: str) -> bytes:
    """A SHA-256 in hexadecimal digits. Raises: ArgumentError."""
    return _bytes_of(text, 32, "digest of a model", "copy it from `fed model list`")


def task_of(text: str) -> str:
    """A task's id, as it is. Raises: ArgumentError if it is none, as an empty variable is."""
    if re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,127}", text, re.ASCII) is None:
        raise ArgumentError(
            f"{plain(text)!r} is no id of a task",
            why="that has 1 to 128 of a-z, 0-9, dot, dash and underscore"
            if text
            else "it is empty, as a variable or a file may be after a submission that failed",
            fix="copy it from `fed task list`",
        )
    return text


def identifier_of(text: str) -> bytes:
    """A client's id in hexadecimal digits. Raises: ArgumentError."""
    return _bytes_of(text, 16, "id of a client", "copy it from `fed token clients`")


def _bytes_of(text: str, length: int, kind: str, fix: str) -> bytes:
    if re.fullmatch(r"[0-9a-f]+", text, re.ASCII) is None or len(text) != 2 * length:
        raise ArgumentError(
            f"{plain(text)!r} is no {kind}",
            why=f"that has {2 * length} hexadecimal digits in lower case",
            fix=fix,
        )
    return bytes.fromhex(text)
