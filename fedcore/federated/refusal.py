"""The one form in which a task is refused."""

from __future__ import annotations

from fedcore.errors import TaskError

__all__ = ["refused"]


def refused(path: str, what: str, why: str, fix: str) -> TaskError:
    """The error of a task whose part `path` cannot be so."""
    return TaskError(what, why=why, fix=fix, where=path)
