"""SQLite as the writer uses it: alone in the file, on the clock of the machine."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from fedcore.errors import StoreError
from fedserver.store.sql.driver import Connection

__all__ = ["SqliteDriver"]

# The disk could not sync: what the system's cache holds is not what the disk holds, and a later
# sync may succeed without ever having written it. Only a restart reads the truth back.
_FATAL = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class SqliteDriver:
    """`Driver` on what `connect` opens; `clock`: milliseconds of UTC."""

    errors: type[Exception] = sqlite3.Error

    def __init__(self, connect: Callable[[], sqlite3.Connection], clock: Callable[[], int]) -> None:
        self._connect, self._clock = connect, clock

    def connect(self) -> Connection:
        return self._connect()

    def begin(self, connection: Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")

    def now_ms(self, connection: Connection) -> int:
        return self._clock()

    def commit(self, connection: Connection) -> None:
        connection.execute("COMMIT")

    def is_fatal(self, error: Exception) -> bool:
        # The low byte is the kind of a failure, the rest its details.
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in _FATAL

    def failed(self, error: Exception) -> StoreError:
        # SQLite's messages name columns and constraints, never values.
        return StoreError(
            "the database did not keep what it was given",
            why=f"{type(error).__name__}: {error}",
            fix="look at the disk: its free space, its health, and who may write to the folder",
        )
