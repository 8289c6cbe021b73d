"""The store of one or several servers: a PostgreSQL database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import psycopg
from sqlalchemy import text

from fedserver.store.migrating import prepare
from fedserver.store.postgres.address import PostgresAddress
from fedserver.store.postgres.connection import NOW_MS
from fedserver.store.postgres.driver import PostgresDriver
from fedserver.store.postgres.engine import reading_engine
from fedserver.store.postgres.integrity import problems
from fedserver.store.records import StoreSize
from fedserver.store.sealing import Sealer
from fedserver.store.sql.clock import Clock
from fedserver.store.sql.driver import Connection
from fedserver.store.sql.reads import Reads
from fedserver.store.sql.store import SqlStore

if TYPE_CHECKING:
    from fedserver.store.protocol import Store

__all__ = ["PostgresStore"]


class PostgresStore(SqlStore):
    """`Store` on PostgreSQL, in as many processes as there may be."""

    def __init__(
        self, address: PostgresAddress, sealer: Sealer, clock: Callable[[], int] | None
    ) -> None:
        """Raises: StoreError, SchemaError."""
        prepare(address)
        reads = Reads(
            reading_engine(address),
            errors=psycopg.Error,
            remedy="look at the PostgreSQL server and the network between, then try again",
        )
        source = None if clock is None else Clock(clock)
        self._clock, self._last_ms = source, 0
        super().__init__(PostgresDriver(address, source), reads, sealer)

    @classmethod
    async def open(
        cls,
        address: PostgresAddress,
        *,
        keys: Sequence[bytes],
        clock: Callable[[], int] | None = None,
    ) -> PostgresStore:
        """Opens the database, and makes its tables where it is empty.

        `keys`: the datastore keys, the first seals; all servers have the same. `clock`:
        milliseconds of UTC, by default the database's. Raises: StoreError; SchemaError for a schema
        that this program does not know; ArgumentError for keys that are none; KeyFileError for a
        password that cannot be read.
        """
        store = await asyncio.to_thread(cls, address, Sealer(keys), clock)
        await store.identify()
        return store

    async def now_ms(self) -> int:
        if self._clock is not None:
            return self._clock()
        now = await self._read(lambda c: int(c.scalar(text(f"SELECT {NOW_MS}")) or 0))
        self._last_ms = max(self._last_ms, now)
        return self._last_ms

    async def size(self) -> StoreSize:
        """Of the database; the write-ahead log is PostgreSQL's own, and counts as nothing."""
        size = text("SELECT pg_database_size(current_database())")
        return StoreSize(await self._read(lambda c: int(c.scalar(size) or 0)), 0)

    async def integrity(self) -> tuple[str, ...]:
        return await self._read(problems)

    async def checkpoint(self) -> None:
        """PostgreSQL moves its log by itself."""

    async def _overwrite(self) -> None:
        """Takes what was erased out of the tables.

        Its bytes are free then, and overwritten in time. What the write-ahead log, its archive and
        a replica hold of them lasts as long as these keep it: it is sealed under the datastore
        keys, which no part of the database has.
        """
        await self._writer.run(_vacuumed, alone=True)


if TYPE_CHECKING:

    def _keeps_the_contract(store: PostgresStore) -> Store:
        return store


def _vacuumed(connection: Connection) -> None:
    connection.execute("VACUUM (TRUNCATE false) attempt_key, session_record")
