"""One thing that was looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fedcore.errors import FedcoreError

__all__ = ["SKEW_S", "Finding", "judged", "refused", "tried"]

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


def tried(check: str, act: Callable[[], str]) -> Finding:
    """What `act` says, or why it raises an error of ours."""
    try:
        return Finding(check, "ok", act())
    except FedcoreError as error:
        return refused(check, error)
