"""Uploads: one for each assignment, acknowledged once and for good."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping

from sqlalchemy import Connection

from fedcore.errors import ConflictError, PhaseError
from fedcore.rounds import Phase
from fedserver.store import schema
from fedserver.store.records import (
    AssignmentState,
    AuditEntry,
    RoundRef,
    UploadRecord,
    UploadState,
)
from fedserver.store.sql.reads import all_rows, one_row, rows_by, rows_of_round
from fedserver.store.sql.rows import Row, ref_of, upload_of
from fedserver.store.sql.sessions import SqlSessions, change_session, require_open
from fedserver.store.sql.transaction import Transaction, missing, of_round
from fedserver.store.sql.writer import AuditedRefusal

__all__ = ["SqlUploads"]


class SqlUploads(SqlSessions):
    """The part of `ParticipationStore` that is about updates, and the session of the round."""

    async def begin_upload(
        self, assignment_id: bytes, upload_id: bytes, *, size: int, header: bytes = b""
    ) -> UploadRecord:
        def act(db: Transaction) -> UploadRecord:
            if (row := db.find("upload", assignment_id=assignment_id)) is not None:
                require_open(db, ref_of(row))  # one that is scrubbed has forgotten its headers
                if row["size"] != size or row["header"] != header:
                    raise ConflictError(
                        "the upload of this assignment was begun otherwise",
                        why=f"it has {row['size']} bytes, and now {size}, or another header",
                        fix="send the same update again: an assignment has one",
                    )
                return upload_of(row)
            assignment = db.find("assignment", assignment_id=assignment_id)
            if assignment is None:
                raise missing("assignment with this id")
            ref = ref_of(assignment)
            require_open(db, ref)
            if assignment["state"] != AssignmentState.ACTIVE:
                raise PhaseError(
                    f"the assignment in round {ref} is {assignment['state']}",
                    why=assignment["reason"] or "the round goes on without this client",
                    fix="check in again for another round",
                )
            db.insert(
                "upload",
                upload_id=upload_id,
                assignment_id=assignment_id,
                **of_round(ref),
                client_id=assignment["client_id"],
                size=size,
                header=header,
                committed=0,
                sha256=b"",
                state=UploadState.OPEN,
                begun_ms=db.now_ms,
            )
            return upload_of(_upload(db, upload_id))

        return await self._write("begin_upload", act)

    async def committed(self, upload_id: bytes, offset: int) -> None:
        def act(db: Transaction) -> None:
            if offset > _upload(db, upload_id)["committed"]:
                db.update("upload", {"upload_id": upload_id}, committed=offset)

        await self._write("committed", act)

    async def seal_upload(
        self,
        upload_id: bytes,
        sha256: bytes,
        *,
        session: Mapping[str, bytes] | None = None,
        erase: Iterable[str] = (),
        lease_token: int | None = None,
        audit: AuditEntry | None = None,
    ) -> UploadRecord:
        erased = tuple(erase)

        def act(db: Transaction) -> UploadRecord:
            row = _upload(db, upload_id)
            ref = ref_of(row)
            if lease_token is not None:
                db.check_lease(ref.task_id, lease_token)
            if row["sha256"]:
                if hmac.compare_digest(row["sha256"], sha256):
                    return upload_of(row)
                db.audit(_second(row, ref))
                raise AuditedRefusal(
                    ConflictError(
                        f"the update for round {ref} was acknowledged with another digest",
                        why="an assignment has one update, and it is settled",
                        fix="leave it: the first one counts",
                    )
                )
            if (phase := require_open(db, ref)) != Phase.COLLECTING.value:
                raise PhaseError(
                    f"round {ref} takes no update while it is {phase}",
                    why="which updates count was settled before this one was whole",
                    fix="check in again for another round",
                )
            sealed = {"sha256": sha256, "committed": row["size"], "state": UploadState.SEALED}
            db.update("upload", {"upload_id": upload_id}, **sealed)
            change_session(db, ref, session or {}, erased)
            db.audit(audit)
            return upload_of(_upload(db, upload_id))

        return await self._write("seal_upload", act)

    async def upload(self, upload_id: bytes) -> UploadRecord | None:
        def query(connection: Connection) -> UploadRecord | None:
            row = one_row(connection, rows_by(schema.upload, "upload_id"), upload_id=upload_id)
            return upload_of(row) if row else None

        return await self._read(query)

    async def uploads(
        self, ref: RoundRef, *, sealed_only: bool = False
    ) -> tuple[UploadRecord, ...]:
        table = schema.upload
        wanted = rows_of_round(table).order_by(table.c.client_id)
        if sealed_only:
            wanted = wanted.where(table.c.state == UploadState.SEALED)
        return await self._read(
            lambda c: tuple(map(upload_of, all_rows(c, wanted, **of_round(ref))))
        )


def _upload(db: Transaction, upload_id: bytes) -> Row:
    row = db.find("upload", upload_id=upload_id)
    if row is None:
        raise missing("upload with this id")
    return row


def _second(row: Row, ref: RoundRef) -> AuditEntry:
    return AuditEntry(
        f"client:{row['client_id'].hex()}", "upload.seal", f"round:{ref}", "refused: other digest"
    )
