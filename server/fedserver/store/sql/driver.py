"""All in which databases differ to the one who writes: how a transaction begins, ends and fails.

Statements mark their values by `?`, which are of the types that columns have: int, float, str,
bytes and None.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fedcore.errors import StoreError
from fedserver.store.sql.rows import Row

__all__ = ["Connection", "Cursor", "Driver"]


class Cursor(Protocol):
    """What a statement gives."""

    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Row | None: ...

    def fetchall(self) -> Sequence[Row]: ...


class Connection(Protocol):
    """A connection that begins no transaction by itself; its rows are named by their columns."""

    @property
    def in_transaction(self) -> bool: ...

    def execute(self, statement: str, values: Sequence[object] = (), /) -> Cursor: ...

    def close(self) -> object: ...


class Driver(Protocol):
    """How the writer uses one kind of database. `errors`: what its connections raise."""

    @property
    def errors(self) -> type[Exception]: ...

    def connect(self) -> Connection:
        """The connection that writes. Raises: StoreError."""

    def begin(self, connection: Connection) -> None:
        """Begins a transaction beside which nobody writes, in this process or another."""

    def now_ms(self, connection: Connection) -> int:
        """The moment of the present transaction, never before an earlier one's."""

    def commit(self, connection: Connection) -> None:
        """Makes it durable. Raises: what it raises, only where nothing of it was kept."""

    def is_fatal(self, error: Exception) -> bool:
        """Whether after this error nothing may be acknowledged any more until a restart."""

    def failed(self, error: Exception) -> StoreError:
        """The error to raise for one of `errors`; it shows no value of a row."""
