"""The one thread of a process that writes, committing what many callers ask for together.

A database syncs once a commit, whatever is in it. So the writer takes what has come in during the
last commit, up to 64 operations, into one transaction: under load many share a sync, and a single
one waits for nobody. Each stands in a savepoint, so that one which is refused takes nothing with
it, and none is answered before the commit returned (W1).
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from fedcore.errors import FedcoreError, StoreError
from fedcore.failpoints import failpoint
from fedserver.store.sql.driver import Connection, Driver

__all__ = ["AuditedRefusal", "Writer"]

T = TypeVar("T")

BATCH = 64


class AuditedRefusal(Exception):
    """Raised inside an operation that refuses, and yet keeps what it wrote: the audit of that."""

    def __init__(self, error: FedcoreError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(slots=True)
class _Asked:
    operation: Callable[[Connection], Any]
    alone: bool
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None


class Writer:
    """Runs operations one after another on one connection of its own.

    It is opened in the thread. Raises what `driver.connect` raises.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._queue: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()
        self._failed: Exception | None = None
        self._closing = False
        self._lock = threading.Lock()  # no operation may be queued behind the end
        started: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=self._run, args=(started,), name="store-writer", daemon=True
        )
        self._thread.start()
        if (error := started.get()) is not None:
            self._thread.join()
            raise error

    async def run(self, operation: Callable[[Connection], T], *, alone: bool = False) -> T:
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

    def _run(self, started: queue.SimpleQueue[BaseException | None]) -> None:
        try:
            connection = self._driver.connect()
        except BaseException as error:
            started.put(error)
            return
        started.put(None)
        try:
            while batch := self._gathered():
                together = [asked for asked in batch if not asked.alone]
                self._settle(together, self._failure_of(connection, together))
                for asked in batch:
                    if asked.alone:
                        self._settle([asked], self._failure_alone(connection, asked))
        finally:
            connection.close()

    def _failure_of(self, connection: Connection, together: list[_Asked]) -> Exception | None:
        """Runs operations in one transaction; gives what took all of it with it, if anything."""
        if self._failed is not None or not together:
            return self._failed
        try:
            self._driver.begin(connection)
            for asked in together:
                self._perform(connection, asked)
            failpoint("store.before_commit")
            self._driver.commit(connection)
            failpoint("store.after_commit")
        except Exception as error:
            if self._is_fatal(error):
                self._failed = error
            if connection.in_transaction:
                with contextlib.suppress(self._driver.errors):  # closing does the same
                    connection.execute("ROLLBACK")
            return error
        return None

    def _failure_alone(self, connection: Connection, asked: _Asked) -> Exception | None:
        if self._failed is not None:
            return self._failed
        try:
            asked.result = asked.operation(connection)
        except Exception as error:
            if self._is_fatal(error):
                self._failed = error
            return error
        return None

    def _is_fatal(self, error: Exception) -> bool:
        """Whether nothing is to be written any more after it."""
        return isinstance(error, self._driver.errors) and self._driver.is_fatal(error)

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

    def _perform(self, connection: Connection, asked: _Asked) -> None:
        """Raises: one of the driver's errors if the whole transaction is lost."""
        if asked.answer.cancelled():
            return
        connection.execute("SAVEPOINT operation")
        try:
            asked.result = asked.operation(connection)
        except AuditedRefusal as refusal:
            asked.error = refusal.error
        except Exception as error:
            # Of a full disk, or a connection that was lost; or what it reads is not to be trusted.
            if not connection.in_transaction or self._is_fatal(error):
                raise
            mine = isinstance(error, self._driver.errors)
            asked.error = self._driver.failed(error) if mine else error
            connection.execute("ROLLBACK TO operation")
        connection.execute("RELEASE operation")

    def _settle(self, batch: list[_Asked], failure: Exception | None) -> None:
        for loop in {asked.loop for asked in batch}:
            mine = [asked for asked in batch if asked.loop is loop]
            try:
                loop.call_soon_threadsafe(self._answer, mine, failure)
            except RuntimeError:  # the loop has been closed, and nobody waits any more
                continue

    def _answer(self, batch: list[_Asked], failure: Exception | None) -> None:
        for asked in batch:
            if asked.answer.done():
                continue
            if failure is not None:
                asked.answer.set_exception(self._driver.failed(failure))
            elif asked.error is not None:
                asked.answer.set_exception(asked.error)
            else:
                asked.answer.set_result(asked.result)
