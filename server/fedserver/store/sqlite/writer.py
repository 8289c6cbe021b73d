"""The one thread that writes to SQLite, committing what many callers ask for together.

SQLite syncs once a commit, whatever is in it. So the writer takes what has come in during the last
commit, up to 64 operations, into one transaction: under load many share a sync, and a single one
waits for nobody. Each stands in a savepoint, so that one which is refused takes nothing with it,
and none is answered before the commit returned (W1).
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from fedcore.errors import FedcoreError, StoreError
from fedcore.failpoints import failpoint

__all__ = ["AuditedRefusal", "Writer"]

T = TypeVar("T")

BATCH = 64

# The disk could not sync: what the system's cache holds is not what the disk holds, and a later
# sync may succeed without ever having written it. Only a restart reads the truth back.
_FATAL = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class AuditedRefusal(Exception):
    """Raised inside an operation that refuses, and yet keeps what it wrote: the audit of that."""

    def __init__(self, error: FedcoreError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(slots=True)
class _Asked:
    operation: Callable[[sqlite3.Connection], Any]
    alone: bool
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None


class Writer:
    """Runs operations one after another on one connection of its own.

    `connect` is called in the thread. Raises what `connect` raises.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._queue: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()
        self._failed: Exception | None = None
        self._closing = False
        self._lock = threading.Lock()  # no operation may be queued behind the end
        started: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=self._run, args=(connect, started), name="store-writer", daemon=True
        )
        self._thread.start()
        if (error := started.get()) is not None:
            self._thread.join()
            raise error

    async def run(self, operation: Callable[[sqlite3.Connection], T], *, alone: bool = False) -> T:
        """What the operation returns, once it is durable; `alone`: outside of any transaction.

        Raises: what it raises; StoreError where the database fails, and nothing was changed.
        """
        loop = asyncio.get_running_loop()
        asked = _Asked(operation, alone, loop, loop.create_future())
        with self._lock:
            if self._closing:
                raise StoreError("the database is closed", why="the server is shutting down")
            self._queue.put(asked)
        return cast(T, await asked.answer)

    async def close(self) -> None:
        """Finishes what was asked for, and closes the connection; again, it only waits."""
        with self._lock:
            if not self._closing:
                self._closing = True
                self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(
        self,
        connect: Callable[[], sqlite3.Connection],
        started: queue.SimpleQueue[BaseException | None],
    ) -> None:
        try:
            connection = connect()
        except BaseException as error:
            started.put(error)
            return
        started.put(None)
        try:
            while batch := self._gathered():
                together = [asked for asked in batch if not asked.alone]
                _settle(together, self._failure_of(connection, together))
                for asked in batch:
                    if asked.alone:
                        _settle([asked], self._failure_alone(connection, asked))
        finally:
            connection.close()

    def _failure_of(
        self, connection: sqlite3.Connection, together: list[_Asked]
    ) -> Exception | None:
        """Runs operations in one transaction; gives what took all of it with it, if anything."""
        if self._failed is not None or not together:
            return self._failed
        try:
            connection.execute("BEGIN IMMEDIATE")
            for asked in together:
                _perform(connection, asked)
            failpoint("store.before_commit")
            connection.execute("COMMIT")
            failpoint("store.after_commit")
        except Exception as error:
            self._note(error)
            if connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):  # closing does the same
                    connection.execute("ROLLBACK")
            return error
        return None

    def _failure_alone(self, connection: sqlite3.Connection, asked: _Asked) -> Exception | None:
        if self._failed is not None:
            return self._failed
        try:
            asked.result = asked.operation(connection)
        except Exception as error:
            self._note(error)
            return error
        return None

    def _note(self, error: Exception) -> None:
        """After a fatal error nothing is written any more."""
        if _is_fatal(error):
            self._failed = error

    def _gathered(self) -> list[_Asked]:
        """Waits for an operation, and takes what else is there; nothing is the end."""
        batch: list[_Asked] = []
        while not batch or (len(batch) < BATCH and not self._queue.empty()):
            asked = self._queue.get()
            if asked is None:
                self._queue.put(None)  # the end comes after this batch
                break
            batch.append(asked)
        return batch


def _perform(connection: sqlite3.Connection, asked: _Asked) -> None:
    """Raises: sqlite3.Error if the whole transaction is lost."""
    if asked.answer.cancelled():
        return
    connection.execute("SAVEPOINT operation")
    try:
        asked.result = asked.operation(connection)
    except AuditedRefusal as refusal:
        asked.error = refusal.error
    except Exception as error:
        # SQLite gave up all of it, as it may on a full disk; or what it reads is not to be trusted.
        if not connection.in_transaction or _is_fatal(error):
            raise
        asked.error = _database_failed(error) if isinstance(error, sqlite3.Error) else error
        connection.execute("ROLLBACK TO operation")
    connection.execute("RELEASE operation")


def _settle(batch: list[_Asked], failure: Exception | None) -> None:
    for loop in {asked.loop for asked in batch}:
        mine = [asked for asked in batch if asked.loop is loop]
        try:
            loop.call_soon_threadsafe(_answer, mine, failure)
        except RuntimeError:  # the loop has been closed, and nobody waits any more
            continue


def _answer(batch: list[_Asked], failure: Exception | None) -> None:
    for asked in batch:
        if asked.answer.done():
            continue
        if failure is not None:
            asked.answer.set_exception(_database_failed(failure))
        elif asked.error is not None:
            asked.answer.set_exception(asked.error)
        else:
            asked.answer.set_result(asked.result)


def _is_fatal(error: Exception) -> bool:
    # The low byte is the kind of a failure, the rest its details.
    code = getattr(error, "sqlite_errorcode", 0) if isinstance(error, sqlite3.Error) else 0
    return code & 0xFF in _FATAL


def _database_failed(error: Exception) -> StoreError:
    # SQLite's messages name columns and constraints, never values.
    return StoreError(
        "the database did not keep what it was given",
        why=f"{type(error).__name__}: {error}",
        fix="look at the disk: its free space, its health, and who may write to the folder",
    )
