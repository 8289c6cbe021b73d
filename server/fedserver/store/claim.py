"""The right to change a database from outside: only while no server runs on it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from fedcore.errors import StoreError
from fedserver.store.locking import FileLock
from fedserver.store.postgres.address import Database

__all__ = ["claimed"]


@contextlib.contextmanager
def claimed(database: Database) -> Iterator[None]:
    """Keeps servers from a database while it is entered. Raises: StoreError while one has it."""
    if isinstance(database, Path):
        lock = FileLock(database)
        try:
            yield
        finally:
            lock.release()
        return
    from fedserver.store.postgres.turn import Turn

    turn = Turn(database)
    try:
        if not turn.take():
            raise StoreError(
                f"the database {database.name} is in use",
                why="a server, or a `fed db` command, is running on it",
                fix="stop all servers first, also those that stand by",
            )
        yield
    finally:
        turn.close()
