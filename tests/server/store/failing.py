"""A store each of whose methods fails first, at every statement of it and in every way, then works.

The wrapper is made of the protocol, whatever methods that has: the contract suite runs over it as
over any other store, and so every call that the suite makes is made in vain before.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import inspect
import sqlite3
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fedcore.errors import FedcoreError, StoreError
from fedserver.store.protocol import Store
from fedserver.store.records import AuditEntry

__all__ = ["FAULTS", "METHODS", "FailingStore", "Fault", "Faults", "digest_of"]

METHODS = frozenset(
    name for name, _ in inspect.getmembers(Store, inspect.isfunction) if name[0] != "_"
)


@dataclass(frozen=True)
class Fault:
    """How a statement fails. `gives_up`: SQLite ends the whole transaction with it.

    `fatal`: what the disk holds is not known any more, so that only a restart helps.
    """

    name: str
    code: int
    gives_up: bool = False
    fatal: bool = False


FAULTS = (
    Fault("database is locked", sqlite3.SQLITE_BUSY),
    Fault("database or disk is full", sqlite3.SQLITE_FULL),
    Fault("database or disk is full, and all is undone", sqlite3.SQLITE_FULL, gives_up=True),
    Fault("disk I/O error", sqlite3.SQLITE_IOERR_WRITE, fatal=True),
    Fault("disk I/O error, and all is undone", sqlite3.SQLITE_IOERR_WRITE, True, fatal=True),
    Fault("database disk image is malformed", sqlite3.SQLITE_CORRUPT, fatal=True),
)


def digest_of(database: Path) -> str:
    """SHA-256 of all that is committed in all tables."""
    found = hashlib.sha256()
    with contextlib.closing(sqlite3.connect(database, factory=sqlite3.Connection)) as reader:
        names = reader.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")
        for (name,) in names.fetchall():
            rows = reader.execute(f"SELECT * FROM {name}").fetchall()
            found.update(repr((name, sorted(rows, key=repr))).encode())
    return found.hexdigest()


@dataclass
class Faults:
    """What every statement asks for leave, on all connections that are opened from now on.

    `tried`: (method, statement, its how manieth time in a call, fault), each of which happens once.
    """

    tried: set[tuple[str, str, int, str]]
    method: str = ""  # that is to fail; "": none
    faults: Sequence[Fault] = FAULTS
    happened: Fault | None = None
    committed: bool = False
    writing: bool = False
    _reached: Counter[str] = field(default_factory=Counter)

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        """Lets `sqlite3.connect` give connections that ask."""
        faults = self

        class Cursor(sqlite3.Cursor):
            def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
                faults.reach(self.connection, statement)
                super().execute(statement, *values)
                faults.committed |= statement == "COMMIT"
                return self

        class Connection(sqlite3.Connection):
            def cursor(self, *_: object) -> sqlite3.Cursor:  # type: ignore[override]
                return super().cursor(Cursor)

            def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
                return self.cursor().execute(statement, *values)

        patch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Connection))

    def arm(self, method: str) -> None:
        """The first statement that has not failed in every way in this method fails in one."""
        self.method, self.happened, self.committed = method, None, False
        self._reached.clear()

    def reach(self, connection: sqlite3.Connection, statement: str) -> None:
        """Raises: sqlite3.OperationalError."""
        if not self.method or self.happened is not None:
            return
        self._reached[statement] += 1
        for fault in self.faults:
            key = (self.method, statement, min(self._reached[statement], 3), fault.name)
            if key not in self.tried:
                self.tried.add(key)
                self._fail(connection, fault)

    def _fail(self, connection: sqlite3.Connection, fault: Fault) -> None:
        self.happened = fault
        self.writing = threading.current_thread().name == "store-writer"
        if fault.gives_up and connection.in_transaction:
            sqlite3.Connection.rollback(connection)
        error = sqlite3.OperationalError(fault.name)
        error.sqlite_errorcode = fault.code
        raise error


class FailingStore:
    """A store of which every call has failed in all ways before it is made.

    `open_again`: the same store in a new process.
    """

    def __init__(
        self,
        store: Store,
        database: Path,
        faults: Faults,
        open_again: Callable[[], Awaitable[Store]],
    ) -> None:
        self._store, self._database, self._faults = store, database, faults
        self._open_again, self._turn = open_again, asyncio.Lock()

    def __getattr__(self, name: str) -> Any:
        if name in METHODS - {"close"}:
            return functools.partial(self._call, name)
        return getattr(self._store, name)

    async def _call(self, name: str, *given: Any, **named: Any) -> Any:
        async with self._turn:
            before = digest_of(self._database)
            while True:
                self._faults.arm(name)
                try:
                    answer = await getattr(self._store, name)(*given, **named)
                except FedcoreError as error:
                    if (fault := self._faults.happened) is None:
                        raise
                    before = await self._checked(name, error, fault, before)
                else:
                    assert self._faults.happened is None, f"{name} has not noticed its failure"
                    return answer
                finally:
                    self._faults.method = ""

    async def _checked(self, name: str, error: FedcoreError, fault: Fault, before: str) -> str:
        """The digest of what is committed now: what it was before."""
        assert isinstance(error, StoreError), f"{name}: {fault.name} gives {error!r}"
        assert error.code.startswith("FED-2") and error.why
        found = digest_of(self._database)
        if not self._faults.committed:  # else only the log was left to be emptied
            assert found == before, f"{name} is half done after {fault.name}"
        if not (fault.fatal and self._faults.writing):
            return found  # the same call, made once more, shows that the store goes on
        self._faults.method = ""
        with pytest.raises(StoreError):
            await self._store.append_audit(AuditEntry("nobody", "goes.on", name))
        with contextlib.suppress(StoreError):
            await self._store.close()
        self._store = await self._open_again()
        return found
