"""Who may serve: of the servers of one address one, and with a server that has none nobody else.

A round that is under way is in the memory of one process, and callers have to reach that one. So a
server that others can reach has an address of its own, and servers with different addresses serve
at once; one that has none serves alone. Where a server may not serve yet, it stands by. The rights
are advisory locks of a connection that does nothing else: a shared one for every server that has an
address, in the place of which a server without one, or a command that changes the database from
outside, has to have it alone; and one of the address. When the process ends, stands still for long,
or loses its network, PostgreSQL ends the connection, and the turn is the next server's. What the
former one may still do does no harm: the next takes the leases of all tasks anew, and then nothing
that a lease guards is written under the old ones (W3).
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, Self

import psycopg

from fedserver.store.postgres.address import PostgresAddress
from fedserver.store.postgres.connection import connected, unreachable

__all__ = ["Turn"]

_ALL: Final = 0x666564636F7266  # beside that of who writes
_ALONE: Final = f"SELECT pg_try_advisory_lock({_ALL})"
_AMONG: Final = f"SELECT pg_try_advisory_lock_shared({_ALL})"
_ADDRESS: Final = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))"
_STILL: Final = "SET idle_session_timeout = '30s'"
_PAUSE_S: Final = 0.5
_LOOK_S: Final = 2.0


class Turn:
    """A connection that has the turn, or will; close it in the end. Raises: StoreError.

    `peer`: the address at which other servers reach this one; empty: it serves alone.
    """

    def __init__(self, address: PostgresAddress, *, peer: str = "") -> None:
        try:
            self._connection: psycopg.Connection[Any] = connected(address)
        except psycopg.Error as error:
            raise unreachable(address, error) from error
        self._connection.autocommit = True
        self._connection.execute(_STILL)
        self._address, self._peer, self._among = address, peer, False

    @classmethod
    async def open(cls, address: PostgresAddress, *, peer: str = "") -> Self:
        """A connection that has not tried yet. Raises: StoreError."""
        return await asyncio.to_thread(lambda: cls(address, peer=peer))

    def take(self) -> bool:
        """Takes the turn if it is nobody's; whether it is ours. Raises: StoreError."""
        if not self._peer:
            return self._locked(_ALONE)
        self._among = self._among or self._locked(_AMONG)
        return self._among and self._locked(_ADDRESS, self._peer)

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

    def _locked(self, statement: str, *values: str) -> bool:
        try:
            row = self._connection.execute(statement, values or None).fetchone()
        except psycopg.Error as error:
            raise unreachable(self._address, error) from error
        return bool(row and row[0])
