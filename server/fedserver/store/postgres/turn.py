"""Whose turn it is: of several servers on a database one serves, and the others stand by.

A round that is under way is in the memory of one process, so that only one may drive it, and
clients have to reach that one. The right to do so is an advisory lock of a connection that does
nothing else. When the process ends, stands still for long, or loses its network, PostgreSQL ends
the connection, and the turn is the next server's. What the former one may still do does no harm:
the next takes the leases of all tasks anew, and then nothing that a lease guards is written under
the old ones (W3).
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, Self

import psycopg

from fedserver.store.postgres.address import PostgresAddress
from fedserver.store.postgres.connection import connected, unreachable

__all__ = ["Turn"]

_TRY: Final = f"SELECT pg_try_advisory_lock({0x666564636F7266})"  # beside that of who writes
_STILL: Final = "SET idle_session_timeout = '30s'"
_PAUSE_S: Final = 0.5
_LOOK_S: Final = 2.0


class Turn:
    """A connection that has the turn, or will; close it in the end. Raises: StoreError."""

    def __init__(self, address: PostgresAddress) -> None:
        try:
            self._connection: psycopg.Connection[Any] = connected(address)
        except psycopg.Error as error:
            raise unreachable(address, error) from error
        self._connection.autocommit = True
        self._connection.execute(_STILL)
        self._address = address

    @classmethod
    async def open(cls, address: PostgresAddress) -> Self:
        """A connection that has not tried yet. Raises: StoreError."""
        return await asyncio.to_thread(cls, address)

    def take(self) -> bool:
        """Takes the turn if it is nobody's; whether it is ours. Raises: StoreError."""
        try:
            row = self._connection.execute(_TRY).fetchone()
        except psycopg.Error as error:
            raise unreachable(self._address, error) from error
        return bool(row and row[0])

    async def taken(self) -> bool:
        """As `take`, and nobody waits for the network meanwhile. Raises: StoreError."""
        return await asyncio.to_thread(self.take)

    async def wait(self) -> None:
        """Returns when it is our turn. Raises: StoreError."""
        while True:
            if await self.taken():
                return
            await asyncio.sleep(_PAUSE_S)

    async def lost(self) -> None:
        """Returns when it is not, or may not be, our turn any more."""
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                await asyncio.to_thread(self._connection.execute, "SELECT 1")
            except psycopg.Error:
                return

    def close(self) -> None:
        """Gives the turn up; a second time, nothing happens."""
        self._connection.close()
