"""How a PostgreSQL database is opened: durable at every commit, with one writer at a time.

SQLite has one writer, and so every act may read what it is about to change. The same holds here
because a transaction that writes begins by taking one advisory lock of the database, whichever
server it is of, and lets go of it with its commit. It takes no parallel work away: the audit log is
one chain of hashes, so that two acts that are audited could never be written side by side anyway,
and those that wait in one server share its next commit. With 64 callers on two busy cores one
process did 747 audited acts a second, and two processes 619 together; on SQLite one did 2,571,
which are no exchanges with another process.

The lock is taken under READ COMMITTED, where each statement sees what was committed before it:
the first one after the lock sees all that its former holders have written.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import Any, Final, cast

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from fedcore.errors import StoreError
from fedserver.key_files import secret_from
from fedserver.store.postgres.address import PostgresAddress
from fedserver.store.sql.driver import Cursor

__all__ = ["LOCKED", "NOW_MS", "Writing", "connected", "migrating", "reading", "unreachable"]

NOW_MS: Final = "floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
LOCKED: Final = f"SELECT pg_advisory_xact_lock({0x666564636F7265})"  # "fedcore" in ASCII
# The lock, and what belongs to the transaction from its beginning, in one exchange.
_BEGIN: Final = f"BEGIN; {LOCKED}; SELECT pg_current_xact_id()::text AS xid, {NOW_MS} AS now_ms"
_OUTCOME: Final = "SELECT pg_xact_status(%s::xid8) AS found"

# A server that stands still, or whose machine is gone, must not keep the lock from the others.
_SESSION: Final = (
    "SET idle_in_transaction_session_timeout = '10s'",
    "SET lock_timeout = '20s'",
    "SET tcp_keepalives_idle = 10",
    "SET tcp_keepalives_interval = 5",
    "SET tcp_keepalives_count = 3",
    "SET TIME ZONE 'UTC'",
)
# What is acknowledged is durable (W1), whatever the database's own default.
_DURABLE: Final = (
    "SELECT set_config('synchronous_commit', 'on', false)"
    " WHERE current_setting('synchronous_commit') IN ('off', 'local')"
)
_CONNECT_S: Final = 10
_TRIES_S: Final = 30.0  # about as long as PostgreSQL takes to start again
_PAUSE_S: Final = 0.2


def reading(address: PostgresAddress) -> psycopg.Connection[Any]:
    """A connection that cannot change anything, each of whose transactions sees one state.

    Raises: psycopg.Error, KeyFileError.
    """
    connection = connected(address)
    connection.read_only = True
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    return connection


def migrating(address: PostgresAddress) -> psycopg.Connection[Any]:
    """A connection for a migration, which is durable at its commit. Raises: psycopg.Error."""
    connection = connected(address)
    connection.execute(_DURABLE)
    connection.commit()
    return connection


class Writing:
    """The connection that writes; one that was lost is opened anew by the next transaction.

    Raises: StoreError where there is no database.
    """

    def __init__(self, address: PostgresAddress) -> None:
        self._address = address
        self._xid = ""
        self.now_ms = 0
        try:
            self._connection = self._opened()
        except psycopg.Error as error:
            raise unreachable(address, error) from error

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open: also one that has failed, but not one that was lost."""
        status = self._connection.info.transaction_status
        return status not in (TransactionStatus.IDLE, TransactionStatus.UNKNOWN)

    def execute(self, statement: str, values: Sequence[object] = (), /) -> Cursor:
        return cast(Cursor, self._connection.execute(_marked(statement), values or None))

    def begin(self) -> None:
        """Begins a transaction when no other writes to the database any more."""
        try:
            self._begin()
        except psycopg.OperationalError:
            if not self._connection.closed:
                raise
            self._connection = self._opened()
            self._begin()

    def commit(self) -> None:
        """Makes the transaction durable, and finds out whether it was where the answer is lost."""
        try:
            done = self._connection.execute("COMMIT").statusmessage
        except psycopg.OperationalError:
            if not self._connection.closed or self._outcome() != "committed":
                raise
        else:
            if done != "COMMIT":  # what PostgreSQL answers where a statement had failed before
                raise psycopg.InternalError("the transaction was rolled back")

    def close(self) -> None:
        self._connection.close()

    def _begin(self) -> None:
        cursor = self._connection.execute(_BEGIN, prepare=False)
        while cursor.nextset():
            pass
        row = cursor.fetchone()
        assert row is not None
        self._xid = row["xid"]
        # The clock of the machine may be set back under the database.
        self.now_ms = max(self.now_ms, row["now_ms"])

    def _outcome(self) -> str:
        """What has become of the transaction. Raises: psycopg.Error while nobody can tell."""
        end = time.monotonic() + _TRIES_S
        while True:
            try:
                if self._connection.closed:
                    self._connection = self._opened()
                row = self._connection.execute(_OUTCOME, (self._xid,)).fetchone()
                found = "" if row is None else str(row["found"])
            except psycopg.OperationalError:
                if time.monotonic() > end:
                    raise
                found = "in progress"
            if found != "in progress" or time.monotonic() > end:
                return found
            time.sleep(_PAUSE_S)  # it starts again, or has not noticed that it was left

    def _opened(self) -> psycopg.Connection[Any]:
        connection = connected(self._address)
        connection.autocommit = True  # transactions begin and end where we say so
        connection.row_factory = dict_row
        connection.execute(_DURABLE)
        return connection


def unreachable(address: PostgresAddress, error: psycopg.Error) -> StoreError:
    """The error to raise where there is no connection to be had."""
    return StoreError(
        f"the database {address.name} cannot be opened",
        why=f"{type(error).__name__}: {error}".strip(),
        fix="look at server.database_url, the password that libpq finds, and whether it runs",
    )


def connected(address: PostgresAddress) -> psycopg.Connection[Any]:
    """A connection that soon tells when its other end is gone.

    Raises: psycopg.Error, KeyFileError.
    """
    password = secret_from(address.password).decode() if address.password else None
    connection = psycopg.connect(
        address.url,
        password=password,
        connect_timeout=_CONNECT_S,
        application_name="fedcore",
        autocommit=True,
    )
    try:
        for setting in _SESSION:
            connection.execute(setting)
        connection.autocommit = False
    except BaseException:
        connection.close()
        raise
    return connection


@functools.cache
def _marked(statement: str) -> str:
    return statement.replace("?", "%s")
