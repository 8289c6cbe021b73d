"""The one SQLite file of a client: every write is on the disk when the call returns.

WAL with `synchronous=FULL`: what was acknowledged survives a power cut. As long as a process may
write, it holds a lock beside the file, because two would give two answers where only one may be
given. Who only reads needs none, and sees what was durable when it asked.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from fedcore.errors import ClientStateError

__all__ = ["Database", "Value"]

Value = bytes | str | int | float | None

_SCHEMA = """
CREATE TABLE record (key TEXT PRIMARY KEY, sealed BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE setting (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE assignment (one INTEGER PRIMARY KEY CHECK (one = 1), value BLOB NOT NULL);
CREATE TABLE contribution (assignment BLOB PRIMARY KEY, sealed_key BLOB NOT NULL,
    lengths TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE charge (
    task_digest BLOB NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL,
    task TEXT NOT NULL, at_ms INTEGER NOT NULL, given INTEGER NOT NULL DEFAULT 0,
    outcome TEXT NOT NULL DEFAULT '', bytes_up INTEGER NOT NULL DEFAULT 0,
    bytes_down INTEGER NOT NULL DEFAULT 0, seconds REAL NOT NULL DEFAULT 0,
    joules REAL NOT NULL DEFAULT 0, measured INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (task_digest, round, attempt)) WITHOUT ROWID;
CREATE INDEX charge_by_time ON charge (at_ms);
"""

# What vectors of a task that has no row here may have told is unknown, as of all of version 1.
_GUARANTEES = """
CREATE TABLE guarantee (
    task_digest BLOB PRIMARY KEY, epsilon REAL NOT NULL, delta REAL NOT NULL) WITHOUT ROWID;
ALTER TABLE charge ADD COLUMN warning TEXT NOT NULL DEFAULT '';
"""

# What of a part that came to nothing the server was told; of earlier parts it is not known.
_REASONS = """
ALTER TABLE charge ADD COLUMN reason TEXT NOT NULL DEFAULT '';
"""

# Each makes of a version the next; a new database goes through all of them.
_STEPS = (_SCHEMA, _GUARANTEES, _REASONS)
_VERSION = len(_STEPS)


class Database:
    """An open database; its methods may be called from any thread.

    A file of an earlier release is brought up to date, in one step or not at all.
    `read_only`: also while another process writes. Raises: ClientStateError if the file is in use,
    damaged, or of a later release.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._path, self._lock = path, threading.RLock()
        with ExitStack() as opened:
            try:
                if not read_only:
                    lock = opened.enter_context(closing(_connected(path.with_suffix(".lock"))))
                    lock.execute("BEGIN EXCLUSIVE")
                connection = _connected(path, read_only=read_only)
                self._connection = opened.enter_context(closing(connection))
                if not read_only:
                    self._set_up()
                version = self._version()
                if read_only and version < _VERSION:
                    Database(path).close()
                    version = self._version()
            except (OSError, sqlite3.Error) as error:
                raise self._failed(error) from error
            self._check(version)
            self._opened = opened.pop_all()

    def _set_up(self) -> None:
        run = self._connection.execute
        run("PRAGMA journal_mode=WAL")
        run("PRAGMA synchronous=FULL")
        run("PRAGMA secure_delete=ON")
        run("BEGIN IMMEDIATE")
        version = self._version()
        for statement in ";".join(_STEPS[version:]).split(";"):
            run(statement)
        run(f"PRAGMA user_version={max(version, _VERSION)}")
        run("COMMIT")

    def _version(self) -> int:
        version: int
        [version] = self._connection.execute("PRAGMA user_version").fetchone()
        return version

    def _check(self, version: int) -> None:
        if version > _VERSION:
            raise ClientStateError(
                f"the state of this client has version {version}",
                why=f"this release knows version {_VERSION}",
                fix="use the release that wrote it, or a later one",
            )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """What is written within is durable together when the block ends, or none of it."""
        with self._lock:
            self.write("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self.write("ROLLBACK")
                raise
            self.write("COMMIT")

    def write(self, sql: str, *values: Value) -> int:
        """Runs one statement, and returns how many rows it changed; durable outside a block."""
        with self._lock:
            try:
                return self._connection.execute(sql, values).rowcount
            except sqlite3.Error as error:
                raise self._failed(error) from error

    def rows(self, sql: str, *values: Value) -> list[tuple[Value, ...]]:
        """All rows of a query."""
        with self._lock:
            try:
                return self._connection.execute(sql, values).fetchall()
            except sqlite3.Error as error:
                raise self._failed(error) from error

    def checkpoint(self) -> None:
        """Writes the log into the file and empties it, so that what was erased is gone."""
        self.rows("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        with self._lock:
            self._opened.close()

    def _failed(self, error: Exception) -> ClientStateError:
        busy = "locked" in str(error)
        return ClientStateError(
            f"the state in {self._path.name} " + ("is in use" if busy else "cannot be used"),
            why="another process has it open" if busy else f"the disk or the file: {error}",
            fix="stop the other process, or use another folder"
            if busy
            else "free the disk, or restore the folder as it was",
        )


def _connected(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    if not read_only:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rw'}",
        uri=True,
        timeout=0.2,
        isolation_level=None,
        check_same_thread=False,
    )
