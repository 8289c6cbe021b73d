"""What every part of the store stands on: a way to write, a way to read, and a clock."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection

from fedserver.store.locking import FileLock
from fedserver.store.records import AuditEntry, Idempotency, Stored
from fedserver.store.sealing import Sealer
from fedserver.store.sqlite.reads import Reads
from fedserver.store.sqlite.transaction import Transaction
from fedserver.store.sqlite.writer import Writer

__all__ = ["Clock", "SqliteBase"]

T = TypeVar("T")


class Clock:
    """Milliseconds of UTC that never go back, as `source` gives them."""

    def __init__(self, source: Callable[[], int]) -> None:
        self._source = source
        self._last = 0
        self._lock = threading.Lock()

    def __call__(self) -> int:
        with self._lock:
            self._last = max(self._last, self._source())
            return self._last


class SqliteBase:
    """The parts of a store on one file; the mixins beside this file say what they keep there."""

    def __init__(
        self,
        path: Path,
        writer: Writer,
        reads: Reads,
        lock: FileLock,
        *,
        sealer: Sealer,
        clock: Clock,
    ) -> None:
        self._path = path
        self._writer = writer
        self._reads = reads
        self._lock = lock
        self._sealer = sealer
        self._clock = clock
        self._closed = False

    async def _write(self, name: str, act: Callable[[Transaction], T]) -> T:
        """What `act` returns, once what it wrote is durable."""

        def operation(connection: sqlite3.Connection) -> T:
            return act(Transaction(connection, name, self._clock(), self._sealer))

        return await self._writer.run(operation)

    async def _once(
        self,
        name: str,
        act: Callable[[Transaction], None],
        *,
        audit: AuditEntry | None,
        idempotency: Idempotency | None,
    ) -> Stored:
        """Does a mutation, unless it was done before."""

        def operation(db: Transaction) -> Stored:
            if idempotency is not None and (before := db.recall(idempotency)) is not None:
                return before
            act(db)
            db.audit(audit)
            return db.remember(idempotency)

        return await self._write(name, operation)

    async def _read(self, query: Callable[[Connection], T]) -> T:
        return await self._reads.run(query)
