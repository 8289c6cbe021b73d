"""One thing that was looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fedcore.errors import FedcoreError
from fedserver.disk import MAKE_ROOM, lacks_room

__all__ = ["SKEW_S", "Finding", "judged", "looked", "refused", "tried"]

SKEW_S = 300
"""How far clocks may differ."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`level`: "ok", "warning" or "error"; `fix`: what to do, empty where nothing has to be."""

    check: str
    level: str
    detail: str
    fix: str = ""


def judged(check: str, fits: bool, detail: str, fix: str, *, level: str = "error") -> Finding:
    """What was looked at, with a remedy and `level` unless it fits."""
    return Finding(check, "ok", detail) if fits else Finding(check, level, detail, fix)


def refused(check: str, error: FedcoreError) -> Finding:
    """What a start would refuse in the same words."""
    return Finding(check, "error", f"{error.what}: {error.why}", error.fix)


def looked(check: str, look: Callable[[], Finding]) -> Finding:
    """What `look` finds, or why it could not look to its end."""
    try:
        return look()
    except FedcoreError as error:
        return refused(check, error)
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        why = (error.strerror or str(error)).lower()
        fix = MAKE_ROOM if lacks_room(error) else "look at the path, its owner, and its disk"
        return Finding(check, "error", f"it cannot be looked at:{where} {why}", fix)


def tried(check: str, act: Callable[[], str]) -> Finding:
    """What `act` says, or why it could not."""
    return looked(check, lambda: Finding(check, "ok", act()))
