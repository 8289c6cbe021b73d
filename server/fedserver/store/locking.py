"""One process at a time on a database: SQLite alone would let two of them write in turns."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from fedcore.errors import StoreError

__all__ = ["FileLock", "require_free"]


class FileLock:
    """Held from its making until `release`, or until the process ends, however it ends.

    Raises: StoreError while another holds it.
    """

    def __init__(self, database: Path) -> None:
        name = _lock_path(database)
        self._file: int | None = None
        try:
            self._file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(
                f"the lock {name.name} cannot be made",
                why=f"{type(error).__name__}: {error.strerror}",
                fix="look at its folder: its owner, its permissions, and the room on its disk",
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.release()
            raise StoreError(
                f"the database {database.name} is in use",
                why="another server, or a `fed db` command, is running on it",
                fix="stop that one first; two processes never write to one database",
            ) from None

    def release(self) -> None:
        """Gives it up; a second time, nothing happens."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def require_free(database: Path) -> None:
    """Raises: StoreError while a process holds the lock of a database. It makes no file."""
    if _lock_path(database).exists():
        FileLock(database).release()


def _lock_path(database: Path) -> Path:
    return database.with_name(database.name + "-lock")
