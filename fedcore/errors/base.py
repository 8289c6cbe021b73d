"""What every error is: a code, what happened, why, what to do, and the user's own line."""

from __future__ import annotations

import linecache
import os
import sys
from typing import ClassVar

__all__ = ["FedcoreError", "user_line"]

_OURS = ("fedcore.", "fedclient.", "fedserver.", "fedsim.")


def user_line() -> str:
    """The innermost line outside this package as `file:line: source`, or "" if there is none."""
    frame = sys._getframe(1)
    while frame is not None and _is_ours(frame.f_globals.get("__name__")):
        frame = frame.f_back  # type: ignore[assignment]
    if frame is None:
        return ""
    name, line = frame.f_code.co_filename, frame.f_lineno
    source = linecache.getline(name, line).strip()
    return f"{os.path.basename(name)}:{line}" + (f": {source}" if source else "")


def _is_ours(module: object) -> bool:
    """By a module's name: methods that dataclasses generate have no file.

    `contextlib` stands between a user and what it decorates.
    """
    return module == "contextlib" or f"{module}.".startswith(_OURS)


class FedcoreError(Exception):
    """The base of all errors: a stable `code`, the reason `why`, and the remedy `fix`.

    >>> from fedcore.errors import ShapeError
    >>> print(ShapeError("matmul: inner sizes differ", why="784 is not 128", fix="transpose b"))
    FED-1101 matmul: inner sizes differ
      Why: 784 is not 128
      Fix: transpose b
    """

    code: ClassVar[str] = "FED-1000"

    def __init__(self, what: str, *, why: str = "", fix: str = "", where: str = "") -> None:
        super().__init__(what)
        self.what, self.why, self.fix, self.where = what, why, fix, where

    def __str__(self) -> str:
        lines = [f"{self.code} {self.what}"]
        lines += [f"  at {self.where}"] if self.where else []
        lines += [f"  Why: {self.why}"] if self.why else []
        lines += [f"  Fix: {self.fix}"] if self.fix else []
        return "\n".join(lines)
