"""How a database file is opened: durable at every commit, with one connection that writes."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.pool import NullPool

from fedcore.errors import StoreError
from fedserver.disk import MAKE_ROOM, lacks_room

__all__ = ["engine_of", "is_full", "reading", "writing"]

# FULL syncs the log at every commit: NORMAL loses acknowledged commits in a power cut, which
# tests/server/store/test_power_cut.py shows. Mapped memory makes a known corruption of SQLite
# before 3.51.3 likelier; so do checkpoints by several connections, hence by the writer alone.
_WRITER = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA secure_delete=ON",  # what is scrubbed is overwritten
    "PRAGMA mmap_size=0",
    "PRAGMA wal_autocheckpoint=1000",
)
_READER = ("PRAGMA query_only=ON", "PRAGMA mmap_size=0", "PRAGMA wal_autocheckpoint=0")

# A second process that writes is a mistake that must show, not a wait.
_WRITER_WAITS_S = 2.0
_READER_WAITS_S = 10.0
_STATEMENTS = 512


def writing(path: Path) -> sqlite3.Connection:
    """The connection that writes; the file is made if there is none, for its owner alone.

    Raises: StoreError.
    """
    try:
        if not path.exists():
            path.touch(mode=0o600)
        return _opened(path, _WRITER, _WRITER_WAITS_S)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(
            f"the database {path.name} cannot be opened",
            why=f"{type(error).__name__}: {error}",
            fix=MAKE_ROOM
            if is_full(error)
            else "look at its folder, its owner and its permissions; is another server running?",
        ) from error


def reading(path: Path) -> sqlite3.Connection:
    """A connection that cannot change anything. Raises: sqlite3.Error."""
    return _opened(path, _READER, _READER_WAITS_S)


def is_full(error: BaseException | None) -> bool:
    """Whether a database could not be written because its disk is full."""
    if isinstance(error, OSError):
        return lacks_room(error)
    code = getattr(error, "sqlite_errorcode", 0)
    # The second is what SQLite says where there is no room for the index of its log.
    return code & 0xFF == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR_SHMSIZE


def engine_of(connect: Callable[[], sqlite3.Connection]) -> Engine:
    """SQLAlchemy without a pool, on connections that `connect` opens and that begin nothing."""
    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)
    event.listen(engine, "begin", _begin)
    return engine


def _begin(connection: Connection) -> None:
    # Without it each statement of a query would see another state, and a CREATE TABLE be final.
    connection.exec_driver_sql("BEGIN")


def _opened(path: Path, pragmas: tuple[str, ...], timeout_s: float) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path,
        timeout=timeout_s,
        isolation_level=None,  # transactions begin and end where we say so
        check_same_thread=False,  # pools hand a connection from thread to thread, never to two
        cached_statements=_STATEMENTS,
    )
    try:
        connection.row_factory = sqlite3.Row
        for pragma in pragmas:
            connection.execute(pragma)
    except BaseException:
        connection.close()
        raise
    return connection
