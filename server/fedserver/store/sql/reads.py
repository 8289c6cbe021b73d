"""Reads beside the writer: a few connections that cannot write, each with a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    RowMapping,
    Select,
    Table,
)
from sqlalchemy.exc import SQLAlchemyError

from fedcore.errors import StoreError
from fedserver.store.records import RoundRef

__all__ = ["Reads", "all_rows", "is_round", "one_row"]

T = TypeVar("T")

READERS = 4


def all_rows(connection: Connection, query: Select[*tuple[object, ...]]) -> Sequence[RowMapping]:
    """The rows of a query."""
    return connection.execute(query).mappings().all()


def one_row(connection: Connection, query: Select[*tuple[object, ...]]) -> RowMapping | None:
    """The only row of a query, or None."""
    return connection.execute(query).mappings().one_or_none()


def is_round(table: Table, ref: RoundRef) -> tuple[ColumnElement[bool], ...]:
    """The conditions for rows of that attempt."""
    c = table.c
    return (c.task_id == ref.task_id, c.round == ref.round, c.attempt == ref.attempt)


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
