"""Secrets of attempts: sealed under a key of the attempt, and lost with it once scrubbed.

The key is made with the attempt. An attempt without one is older than the keys, or over.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from sqlalchemy import Connection

from fedcore.errors import PhaseError
from fedcore.failpoints import failpoint
from fedserver.store import schema
from fedserver.store.records import ENDED, AuditEntry, RoundRef, UploadState
from fedserver.store.sealing import KEY_BYTES, Sealer, derived_key
from fedserver.store.sql.base import SqlBase
from fedserver.store.sql.reads import all_rows, one_row, rows_of_round
from fedserver.store.sql.rows import Row
from fedserver.store.sql.transaction import Transaction, missing, of_round

__all__ = [
    "SqlSessions",
    "change_session",
    "forget_secrets",
    "make_key",
    "opened_key",
    "require_open",
]

_TABLE, _KEYS = "session_record", "attempt_key"
# Without its state, which names the whole cohort: this is asked for every message of a client.
_PHASE = "SELECT phase, reason FROM round WHERE task_id = ? AND round = ? AND attempt = ?"


class SqlSessions(SqlBase):
    """The part of `RoundStore` that holds the secrets of an attempt, and forgets them."""

    async def put_session(
        self,
        ref: RoundRef,
        records: Mapping[str, bytes],
        *,
        erase: Iterable[str] = (),
        lease_token: int | None = None,
    ) -> None:
        erased = tuple(erase)

        def act(db: Transaction) -> None:
            if lease_token is not None:
                db.check_lease(ref.task_id, lease_token)
            require_open(db, ref)
            change_session(db, ref, records, erased)

        await self._write("put_session", act)

    async def session(self, ref: RoundRef) -> dict[str, bytes]:
        def query(connection: Connection) -> dict[str, bytes]:
            sealer = _sealer_of(_key_of(connection, ref), ref, self._sealer)
            records = rows_of_round(schema.session_record)
            return {
                row["name"]: sealer.open(row["value"], _TABLE, _place(ref, row["name"]), "value")
                for row in all_rows(connection, records, **of_round(ref))
            }

        return await self._read(query)

    async def upload_key(self, ref: RoundRef) -> bytes | None:
        def query(connection: Connection) -> bytes | None:
            row = _key_of(connection, ref)
            if row is None:
                return None
            return derived_key(opened_key(row, ref, self._sealer), b"spool")

        return await self._read(query)

    async def scrub_round(
        self, ref: RoundRef, *, lease_token: int | None = None, audit: AuditEntry | None = None
    ) -> tuple[bytes, ...]:
        def act(db: Transaction) -> tuple[bytes, ...]:
            if lease_token is not None:
                db.check_lease(ref.task_id, lease_token)
            row = db.find("round", **of_round(ref))
            if row is None:
                raise missing(f"round {ref}")
            if row["phase"] not in ENDED:
                raise PhaseError(
                    f"round {ref} is {row['phase']}",
                    why="what an open attempt holds is still needed",
                    fix="wait for its end, or cancel the task",
                )
            forget_secrets(db, ref)
            where = of_round(ref)
            db.update("upload", where | {"state": UploadState.SEALED}, state=UploadState.CONSUMED)
            db.update("upload", where | {"state": UploadState.OPEN}, state=UploadState.ABORTED)
            db.update("upload", where, header=b"")
            db.audit(audit)
            uploads = db.rows(
                "SELECT upload_id FROM upload WHERE task_id = ? AND round = ? AND attempt = ?"
                " ORDER BY client_id",
                *where.values(),
            )
            return tuple(upload["upload_id"] for upload in uploads)

        uploads = await self._write("scrub_round", act)
        failpoint("scrub.after_key")
        await self._overwrite()
        return uploads


def change_session(
    db: Transaction, ref: RoundRef, records: Mapping[str, bytes], erase: Iterable[str]
) -> None:
    """Replaces some records, then erases some."""
    sealer = _sealer_of(db.find(_KEYS, **of_round(ref)), ref, db.sealer) if records else db.sealer
    for name, value in records.items():
        row = of_round(ref) | {"name": name}
        sealed = sealer.seal(value, _TABLE, _place(ref, name), "value")
        if not db.update(_TABLE, row, value=sealed):
            db.insert(_TABLE, **row, value=sealed)
    for name in erase:
        db.delete(_TABLE, **of_round(ref), name=name)


def make_key(db: Transaction, ref: RoundRef) -> None:
    """The key of a new attempt, sealed."""
    sealed = db.sealer.seal(os.urandom(KEY_BYTES), _KEYS, str(ref), "value")
    db.insert(_KEYS, **of_round(ref), value=sealed)


def forget_secrets(db: Transaction, ref: RoundRef) -> None:
    """Erases the key of an attempt, and what only that key opens."""
    db.delete(_KEYS, **of_round(ref))
    db.delete(_TABLE, **of_round(ref))


def require_open(db: Transaction, ref: RoundRef) -> str:
    """The phase of an attempt that has not ended. Raises: PhaseError, NotFoundError."""
    row = db.one(_PHASE, *of_round(ref).values())
    if row is None:
        raise missing(f"round {ref}")
    if row["phase"] in ENDED:
        raise PhaseError(
            f"round {ref} is {row['phase']}",
            why=row["reason"] or "it is over, and takes nothing any more",
            fix="check in again for another round",
        )
    return str(row["phase"])


def _key_of(connection: Connection, ref: RoundRef) -> Row | None:
    return one_row(connection, rows_of_round(schema.attempt_key), **of_round(ref))


def _sealer_of(key: Row | None, ref: RoundRef, sealer: Sealer) -> Sealer:
    return sealer if key is None else Sealer([opened_key(key, ref, sealer)])


def opened_key(key: Row, ref: RoundRef, sealer: Sealer) -> bytes:
    """The key of an attempt, 32 bytes. Raises: StoreError."""
    return sealer.open(key["value"], _KEYS, str(ref), "value")


def _place(ref: RoundRef, name: str) -> str:
    return f"{ref}/{name}"
