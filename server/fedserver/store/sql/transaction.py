"""One transaction of the writer: statements that name their columns once, and what every act needs.

Statements are built from the names of our own tables and columns, never from a value; drivers keep
them prepared by their text.
"""

from __future__ import annotations

import functools
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedcore.errors import ConflictError, LeaseLostError, NotFoundError
from fedserver.store.audit import EMPTY, chained
from fedserver.store.records import AuditEntry, AuditHead, Idempotency, RoundRef, Stored
from fedserver.store.schema import versioned
from fedserver.store.sealing import Sealer
from fedserver.store.sql.driver import Connection
from fedserver.store.sql.rows import Row

__all__ = ["Transaction", "missing", "of_round"]

_DONE = Stored(b"", repeated=False)


def of_round(ref: RoundRef) -> dict[str, object]:
    """The columns that name an attempt."""
    return {"task_id": ref.task_id, "round": ref.round, "attempt": ref.attempt}


def missing(what: str) -> NotFoundError:
    """The error for something that is not in the database."""
    return NotFoundError(
        f"there is no {what}",
        why="it was never written here",
        fix="look up what there is, and mind the tenant",
    )


@dataclass(frozen=True, slots=True)
class Transaction:
    """`name`: whose transaction it is, for the column `updated_by`; `now_ms`: its one moment."""

    connection: Connection
    name: str
    now_ms: int
    sealer: Sealer

    def one(self, query: str, *values: object) -> Row | None:
        """The first row of a query, or None."""
        return self.connection.execute(query, values).fetchone()

    def rows(self, query: str, *values: object) -> Sequence[Row]:
        """All rows of a query."""
        return self.connection.execute(query, values).fetchall()

    def execute(self, statement: str, *values: object) -> int:
        """Changes rows, and tells how many there are."""
        return self.connection.execute(statement, values).rowcount

    def find(self, table: str, **where: object) -> Row | None:
        """The row with these values, or None."""
        return self.one(_select(table, tuple(where)), *where.values())

    def insert(self, table: str, **columns: object) -> None:
        """Adds a row."""
        if versioned(table):
            columns |= {"row_version": 1, "updated_by": self.name}
        statement = _insert(table, tuple(columns))
        self.connection.execute(statement, tuple(columns.values()))

    def insert_next(self, table: str, number: str, **columns: object) -> int:
        """Adds a row with the next number in that column, and gives it."""
        # Whoever writes is alone, so that numbers follow the order of commits, without a gap.
        found = self.one(_next(table, number))
        assert found is not None
        self.insert(table, **{number: found["next"]}, **columns)
        return int(found["next"])

    def update(self, table: str, where: Mapping[str, object], **columns: object) -> int:
        """Changes the rows with the values of `where`, and tells how many there are."""
        statement = _update(table, tuple(columns), tuple(where))
        values = (*columns.values(), self.name, *where.values())
        return self.execute(statement, *values)

    def delete(self, table: str, **where: object) -> int:
        """Deletes the rows with these values, and tells how many there were."""
        return self.execute(_delete(table, tuple(where)), *where.values())

    def audit(self, entry: AuditEntry | None) -> AuditHead | None:
        """Writes an entry behind the last one, if there is one to write."""
        if entry is None:
            return None
        last = self.one("SELECT sequence, hash FROM audit_log ORDER BY sequence DESC LIMIT 1")
        head = AuditHead(last["sequence"], last["hash"]) if last else EMPTY
        record = chained(head, entry, at_ms=self.now_ms)
        self.insert(
            "audit_log",
            sequence=record.sequence,
            at_ms=record.at_ms,
            actor=entry.actor,
            action=entry.action,
            object=entry.object,
            decision=entry.decision,
            request_id=entry.request_id,
            prev_hash=record.prev_hash,
            hash=record.hash,
        )
        return AuditHead(record.sequence, record.hash)

    def recall(self, key: Idempotency) -> Stored | None:
        """What that mutation answered before, or None. Raises: ConflictError."""
        row = self.find(
            "idempotency",
            principal=key.principal,
            method=key.method,
            request_id=key.request_id,
        )
        if row is None:
            return None
        if not hmac.compare_digest(row["request_sha256"], key.request_sha256):
            raise ConflictError(
                f"{key.method} was asked for before under this request id, with other content",
                why="a request id names one request for good",
                fix="draw a new request id for a new request",
            )
        response = self.sealer.open(row["response"], "idempotency", _place(key), "response")
        return Stored(response, repeated=True)

    def remember(self, key: Idempotency | None) -> Stored:
        """Keeps the answer to a mutation that is being done now."""
        if key is None:
            return _DONE
        self.insert(
            "idempotency",
            principal=key.principal,
            method=key.method,
            request_id=key.request_id,
            request_sha256=key.request_sha256,
            response=self.sealer.seal(key.response, "idempotency", _place(key), "response"),
            at_ms=self.now_ms,
        )
        return Stored(key.response, repeated=False)

    def check_lease(self, task_id: str, token: int) -> str:
        """The owner of the lease with this token. Raises: LeaseLostError."""
        row = self.find("task_lease", task_id=task_id)
        if row is None or row["token"] != token or not row["owner"]:
            raise LeaseLostError(
                f"the lease of task {task_id} is not held with token {token}",
                why="another driver took it, or it was given back",
                fix="stop driving the task; whoever holds the lease goes on with it",
            )
        return str(row["owner"])


def _place(key: Idempotency) -> str:
    return "/".join((key.principal, key.method, key.request_id.hex()))


@functools.cache
def _select(table: str, where: tuple[str, ...]) -> str:
    return f"SELECT * FROM {table} WHERE {_equal(where)}"  # noqa: S608 - our own names


@functools.cache
def _next(table: str, number: str) -> str:
    return f"SELECT coalesce(max({number}), 0) + 1 AS next FROM {table}"  # noqa: S608


@functools.cache
def _insert(table: str, columns: tuple[str, ...]) -> str:
    marks = ", ".join("?" * len(columns))
    names = ", ".join(f'"{name}"' for name in columns)
    return f"INSERT INTO {table} ({names}) VALUES ({marks})"  # noqa: S608


@functools.cache
def _update(table: str, columns: tuple[str, ...], where: tuple[str, ...]) -> str:
    changes = ", ".join(f'"{name}" = ?' for name in columns)
    counted = "row_version = row_version + 1, updated_by = ?"
    return f"UPDATE {table} SET {changes}, {counted} WHERE {_equal(where)}"  # noqa: S608


@functools.cache
def _delete(table: str, where: tuple[str, ...]) -> str:
    return f"DELETE FROM {table} WHERE {_equal(where)}"  # noqa: S608


def _equal(columns: tuple[str, ...]) -> str:
    return " AND ".join(f'"{name}" = ?' for name in columns)
