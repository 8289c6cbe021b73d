"""Records of secure aggregations in SQLite: sealed, replaced whole, and gone once scrubbed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sqlalchemy import Connection, select

from fedcore.errors import PhaseError
from fedcore.rounds import ENDS, Phase
from fedserver.store import schema
from fedserver.store.records import AuditEntry, RoundRef, UploadState
from fedserver.store.sqlite.base import SqliteBase
from fedserver.store.sqlite.reads import all_rows, is_round
from fedserver.store.sqlite.transaction import Transaction, missing, of_round

__all__ = ["ENDED", "SqliteSessions", "change_session", "require_open"]

ENDED = frozenset(phase.value for phase in ENDS | {Phase.COMPLETED})

_TABLE = "session_record"


class SqliteSessions(SqliteBase):
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
        table = schema.session_record
        wanted = select(table.c.name, table.c.value).where(*is_round(table, ref))

        def query(connection: Connection) -> dict[str, bytes]:
            return {
                row["name"]: self._sealer.open(
                    row["value"], _TABLE, _place(ref, row["name"]), "value"
                )
                for row in all_rows(connection, wanted)
            }

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
            db.delete(_TABLE, **of_round(ref))
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

        return await self._write("scrub_round", act)


def change_session(
    db: Transaction, ref: RoundRef, records: Mapping[str, bytes], erase: Iterable[str]
) -> None:
    """Replaces some records, then erases some."""
    for name, value in records.items():
        row = of_round(ref) | {"name": name}
        sealed = db.sealer.seal(value, _TABLE, _place(ref, name), "value")
        if not db.update(_TABLE, row, value=sealed):
            db.insert(_TABLE, **row, value=sealed)
    for name in erase:
        db.delete(_TABLE, **of_round(ref), name=name)


def require_open(db: Transaction, ref: RoundRef) -> str:
    """The phase of an attempt that has not ended. Raises: PhaseError, NotFoundError."""
    row = db.find("round", **of_round(ref))
    if row is None:
        raise missing(f"round {ref}")
    if row["phase"] in ENDED:
        raise PhaseError(
            f"round {ref} is {row['phase']}",
            why=row["reason"] or "it is over, and takes nothing any more",
            fix="check in again for another round",
        )
    return str(row["phase"])


def _place(ref: RoundRef, name: str) -> str:
    return f"{ref}/{name}"
