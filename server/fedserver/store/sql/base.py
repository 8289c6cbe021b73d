"""What every part of the store stands on: a way to write, and a way to read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection as ReadConnection

from fedserver.store.records import AuditEntry, Idempotency, Stored
from fedserver.store.sealing import Sealer
from fedserver.store.sql.driver import Connection, Driver
from fedserver.store.sql.reads import Reads
from fedserver.store.sql.transaction import Transaction
from fedserver.store.sql.writer import Writer

__all__ = ["SqlBase"]

T = TypeVar("T")


class SqlBase(ABC):
    """The parts of a store; the mixins beside this file say what they keep there."""

    def __init__(self, driver: Driver, reads: Reads, sealer: Sealer) -> None:
        """Raises: StoreError where the database cannot be opened."""
        self._driver, self._reads, self._sealer = driver, reads, sealer
        self._writer = Writer(driver)
        self._closed = False

    @abstractmethod
    async def now_ms(self) -> int: ...

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._reads.close()
        try:
            await self._finish()
        finally:
            await self._writer.close()

    async def _finish(self) -> None:  # noqa: B027 - most databases want nothing
        """What the database wants to be done before its last connection is closed."""

    async def _overwrite(self) -> None:  # noqa: B027
        """Takes what was erased out of the files too, as far as it can. Raises: StoreError."""

    async def _write(self, name: str, act: Callable[[Transaction], T]) -> T:
        """What `act` returns, once what it wrote is durable."""

        def operation(connection: Connection) -> T:
            now_ms = self._driver.now_ms(connection)
            return act(Transaction(connection, name, now_ms, self._sealer))

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

    async def _read(self, query: Callable[[ReadConnection], T]) -> T:
        return await self._reads.run(query)
