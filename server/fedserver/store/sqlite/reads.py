"""Reads beside the writer: a few connections that cannot write, each with a thread of its own."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    RowMapping,
    Select,
    Table,
    create_engine,
    event,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from fedcore.errors import StoreError
from fedserver.store.connection import reading
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


def _begin(connection: Connection) -> None:
    # The driver begins nothing by itself, and without a transaction each statement of a query
    # would see another state.
    connection.exec_driver_sql("BEGIN")


class Reads:
    """Runs queries, each on one snapshot of what was committed before it began."""

    def __init__(self, path: Path) -> None:
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="store-reader")
        self._engine: Engine = create_engine(
            "sqlite://",
            creator=lambda: reading(path),
            poolclass=NullPool,  # each thread keeps its connection below
        )
        event.listen(self._engine, "begin", _begin)
        self._mine = threading.local()
        self._open: list[Connection] = []

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
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise StoreError(
                "the database cannot be read",
                why=f"{type(error).__name__}: {getattr(error, 'orig', error)}",
                fix="look at the disk, and run `fed db check`",
            ) from None

    def _connection(self) -> Connection:
        connection: Connection | None = getattr(self._mine, "connection", None)
        if connection is None:
            connection = self._mine.connection = self._engine.connect()
            self._open.append(connection)
        return connection
