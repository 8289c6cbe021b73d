"""The store of a server on one machine: a SQLite file, its writer and its readers."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedserver.store.connection import writing
from fedserver.store.locking import FileLock
from fedserver.store.migrating import prepare
from fedserver.store.sealing import Sealer
from fedserver.store.sqlite.base import Clock
from fedserver.store.sqlite.participation import SqliteParticipation
from fedserver.store.sqlite.parties import SqliteParties
from fedserver.store.sqlite.reads import Reads
from fedserver.store.sqlite.rounds import SqliteRounds
from fedserver.store.sqlite.system import SqliteSystem
from fedserver.store.sqlite.tasks import SqliteTasks
from fedserver.store.sqlite.transaction import Transaction
from fedserver.store.sqlite.uploads import SqliteUploads
from fedserver.store.sqlite.writer import Writer

if TYPE_CHECKING:
    from fedserver.store.protocol import Store

__all__ = ["SqliteStore"]


class SqliteStore(
    SqliteSystem, SqliteParties, SqliteTasks, SqliteRounds, SqliteParticipation, SqliteUploads
):
    """`Store` on a SQLite file; only one may be open on it, in one process."""

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
        file, sealer = Path(path), Sealer(keys)
        lock = FileLock(file)
        try:
            await asyncio.to_thread(prepare, file)
            writer = Writer(lambda: writing(file))
        except BaseException:
            lock.release()
            raise
        source = Clock(clock if clock is not None else _machine_ms)
        store = cls(file, writer, Reads(file), lock, sealer=sealer, clock=source)
        try:
            await store._write("open", _identify)
        except BaseException:
            await store.close()
            raise
        return store

    async def checkpoint(self) -> None:
        await self._writer.run(_checkpoint, alone=True)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._reads.close()
        try:
            await self.checkpoint()
        finally:
            await self._writer.close()
            self._lock.release()


if TYPE_CHECKING:

    def _keeps_the_contract(store: SqliteStore) -> Store:
        return store


def _identify(db: Transaction) -> None:
    if db.one("SELECT 1 FROM server_identity") is None:
        db.insert("server_identity", server_id=os.urandom(16), epoch=1, created_ms=db.now_ms)


def _machine_ms() -> int:
    return time.time_ns() // 1_000_000


def _checkpoint(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
