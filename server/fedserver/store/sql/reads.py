"""Reads beside the writer: a few connections that cannot write, each with a thread of its own."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias, TypeVar

from sqlalchemy import Connection, Engine, RowMapping, Select, Table, bindparam, select
from sqlalchemy.exc import SQLAlchemyError

from fedcore.errors import StoreError

__all__ = ["Query", "Reads", "all_rows", "one_row", "rows_by", "rows_of_round"]

T = TypeVar("T")
Query: TypeAlias = Select[*tuple[object, ...]]

READERS = 4


def all_rows(connection: Connection, query: Query, **values: object) -> Sequence[RowMapping]:
    """The rows of a query whose parameters are `values`."""
    return connection.execute(query, values).mappings().all()


def one_row(connection: Connection, query: Query, **values: object) -> RowMapping | None:
    """The only row of a query whose parameters are `values`, or None."""
    return connection.execute(query, values).mappings().one_or_none()


@functools.cache
def rows_by(table: Table, *names: str) -> Query:
    """The rows of a table by the columns `names`, whose values are the query's parameters.

    Made once: to put a query together takes SQLAlchemy 100 us, and to answer it the database 30.
    """
    return select(table).where(*(table.c[name] == bindparam(name) for name in names))


def rows_of_round(table: Table) -> Query:
    """The rows of one attempt, whose parameters are those of `of_round`."""
    return rows_by(table, "task_id", "round", "attempt")


class Reads:
    """Runs queries, each on one snapshot of what was committed before it began.

    `engine`: of connections that cannot write, whose transactions see one state; it pools none, for
    each thread keeps one. `errors`: what its driver raises; `remedy`: against those.
    """

    def __init__(self, engine: Engine, *, errors: type[Exception], remedy: str) -> None:
        self._engine, self._errors, self._remedy = engine, errors, remedy
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="store-reader")
        self._mine = threading.local()
        self._open: set[Connection] = set()

    async def run(self, query: Callable[[Connection], T]) -> T:
        """What the query returns. Raises: what it raises; StoreError where the database fails."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, self._run, query)
        except RuntimeError as error:
            if "shutdown" not in str(error):
                raise
            raise StoreError("the database is closed", why="the server is shutting down") from None

    async def close(self) -> None:
        """Waits for what runs, and closes all connections."""
        await asyncio.to_thread(self._threads.shutdown)
        for connection in self._open:
            connection.close()
        self._engine.dispose()

    def _run(self, query: Callable[[Connection], T]) -> T:
        try:
            connection = self._connection()
            with connection.begin():
                return query(connection)
        except (SQLAlchemyError, self._errors) as error:
            self._forget_lost()
            raise StoreError(
                "the database cannot be read",
                why=f"{type(error).__name__}: {getattr(error, 'orig', error)}",
                fix=self._remedy,
            ) from None

    def _connection(self) -> Connection:
        connection: Connection | None = getattr(self._mine, "connection", None)
        if connection is None:
            connection = self._mine.connection = self._engine.connect()
            self._open.add(connection)
        return connection

    def _forget_lost(self) -> None:
        """Lets the next query of this thread open another connection where this one was lost."""
        connection: Connection | None = getattr(self._mine, "connection", None)
        if connection is not None and connection.invalidated:
            self._mine.connection = None
            self._open.discard(connection)
            connection.close()
