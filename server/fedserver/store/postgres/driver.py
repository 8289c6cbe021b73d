"""PostgreSQL as the writer uses it."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import psycopg

from fedcore.errors import StoreError
from fedserver.store.postgres.address import PostgresAddress
from fedserver.store.postgres.connection import Writing
from fedserver.store.sql.driver import Connection

__all__ = ["PostgresDriver"]

_DAMAGED = "XX"  # the class of SQLSTATE of a server that cannot trust its own files


class PostgresDriver:
    """`Driver` on a database that other servers may share. `clock`: None is the database's own."""

    errors: type[Exception] = psycopg.Error

    def __init__(self, address: PostgresAddress, clock: Callable[[], int] | None) -> None:
        self._address, self._clock = address, clock

    def connect(self) -> Connection:
        return Writing(self._address)

    def begin(self, connection: Connection) -> None:
        cast(Writing, connection).begin()

    def now_ms(self, connection: Connection) -> int:
        return cast(Writing, connection).now_ms if self._clock is None else self._clock()

    def commit(self, connection: Connection) -> None:
        cast(Writing, connection).commit()

    def is_fatal(self, error: Exception) -> bool:
        return (getattr(error, "sqlstate", None) or "").startswith(_DAMAGED)

    def failed(self, error: Exception) -> StoreError:
        # Of its messages the first names columns and constraints; the others may show values.
        primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
        return StoreError(
            "the database did not keep what it was given",
            why=f"{type(error).__name__}: {primary or error}",
            fix="look at the PostgreSQL server, its log, and the network between; then try again",
        )
