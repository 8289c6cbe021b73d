"""The store of a server on one machine: a SQLite file, its writer and its readers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from sqlalchemy import Connection as ReadConnection, text

from fedcore.errors import StoreError
from fedserver.store.connection import engine_of, reading, writing
from fedserver.store.locking import FileLock
from fedserver.store.migrating import prepare
from fedserver.store.records import StoreSize
from fedserver.store.sealing import Sealer
from fedserver.store.sql.clock import Clock
from fedserver.store.sql.driver import Connection
from fedserver.store.sql.reads import Reads
from fedserver.store.sql.store import SqlStore
from fedserver.store.sqlite.driver import SqliteDriver

if TYPE_CHECKING:
    from fedserver.store.protocol import Store

__all__ = ["SqliteStore"]

_BUSY_S, _PAUSE_S = 15.0, 0.05


class SqliteStore(SqlStore):
    """`Store` on a SQLite file; only one may be open on it, in one process."""

    def __init__(self, path: Path, sealer: Sealer, clock: Clock) -> None:
        """Raises: StoreError."""
        self._path, self._clock = path, clock
        self._lock = FileLock(path)
        try:
            prepare(path)
            reads = Reads(
                engine_of(lambda: reading(path)),
                errors=sqlite3.Error,
                remedy="look at the disk, and run `fed db check`",
            )
            super().__init__(SqliteDriver(lambda: writing(path), clock), reads, sealer)
        except BaseException:
            self._lock.release()
            raise

    @classmethod
    async def open(
        cls,
        path: str | os.PathLike[str],
        *,
        keys: Sequence[bytes],
        clock: Callable[[], int] | None = None,
    ) -> SqliteStore:
        """Opens the database, and makes it if there is none.

        `keys`: the datastore keys, the first seals; `clock`: milliseconds of UTC, by default the
        machine's. Raises: StoreError; SchemaError for a schema that this program does not know;
        ArgumentError for keys that are none.
        """
        source = Clock(_machine_ms if clock is None else clock)
        store = await asyncio.to_thread(cls, Path(path), Sealer(keys), source)
        await store.identify()
        return store

    async def now_ms(self) -> int:
        return self._clock()

    async def size(self) -> StoreSize:
        def measure() -> StoreSize:
            log, log_bytes = self._path.with_name(self._path.name + "-wal"), 0
            with contextlib.suppress(FileNotFoundError):
                log_bytes = log.stat().st_size
            return StoreSize(self._path.stat().st_size, log_bytes)

        try:
            return await asyncio.to_thread(measure)
        except OSError as error:
            raise StoreError(
                f"the database {self._path.name} cannot be measured",
                why=f"{type(error).__name__}: {error.strerror}",
                fix="look at the disk, and whether somebody took the file away",
            ) from error

    async def integrity(self) -> tuple[str, ...]:
        def query(connection: ReadConnection) -> tuple[str, ...]:
            found = [str(row[0]) for row in connection.execute(text("PRAGMA integrity_check"))]
            broken = connection.execute(text("PRAGMA foreign_key_check")).all()
            found += [
                f"a row of {row[0]} points to a row of {row[2]} that is gone" for row in broken
            ]
            return tuple(line for line in found if line != "ok")

        return await self._read(query)

    async def checkpoint(self) -> None:
        await self._writer.run(_checkpoint, alone=True)

    async def close(self) -> None:
        try:
            await super().close()
        finally:
            self._lock.release()

    async def _finish(self) -> None:
        await self.checkpoint()

    async def _overwrite(self) -> None:
        """Takes what was erased out of the write-ahead log too. Raises: StoreError.

        Pages are erased in the database file, but the log keeps them as they were until it is
        written anew. It cannot be emptied while a transaction reads it, as that of a backup.
        """
        # 1.3 ms an attempt beside 0.8 for the transaction, with a log of 20 records of 2 kB.
        loop = asyncio.get_running_loop()
        end = loop.time() + _BUSY_S
        while not await self._writer.run(_emptied, alone=True):
            if loop.time() > end:
                raise StoreError(
                    "what a round has erased is still in the database's log",
                    why=f"something has been reading the database for {_BUSY_S:g} s",
                    fix="end what reads it, as a shell of SQLite; the server tries again",
                )
            await asyncio.sleep(_PAUSE_S)


if TYPE_CHECKING:

    def _keeps_the_contract(store: SqliteStore) -> Store:
        return store


def _machine_ms() -> int:
    return time.time_ns() // 1_000_000


def _checkpoint(connection: Connection) -> None:
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _emptied(connection: Connection) -> bool:
    """Whether nothing is left in the log; the writer does not wait for those who read."""
    raw = cast(sqlite3.Connection, connection)
    (waits_ms,) = raw.execute("PRAGMA busy_timeout").fetchone()
    raw.execute("PRAGMA busy_timeout = 0")
    try:
        busy, _, _ = raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        raw.execute(f"PRAGMA busy_timeout = {waits_ms}")
    return not busy
