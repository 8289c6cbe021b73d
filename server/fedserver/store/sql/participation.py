"""Clients' parts in rounds: their requests for work, and the assignments that answer them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sqlalchemy import Connection, select

from fedcore.errors import ConflictError
from fedserver.store import schema
from fedserver.store.records import (
    AssignmentRecord,
    AssignmentReport,
    AssignmentState,
    CheckInRecord,
    RoundRef,
)
from fedserver.store.sql.base import SqlBase
from fedserver.store.sql.reads import all_rows, one_row, rows_by, rows_of_round
from fedserver.store.sql.rows import Row, as_json, assignment_of, check_in_of, report_text
from fedserver.store.sql.transaction import Transaction, missing, of_round

__all__ = ["SqlParticipation", "add_assignment", "end_assignments"]

# Of a client: it asks one question at a time, and who asks without end must not fill the disk.
_FORGET: Final = (
    "DELETE FROM check_in WHERE client_id = ? AND request_id <> ? AND request_id NOT IN"
    " (SELECT request_id FROM check_in WHERE client_id = ? AND request_id <> ?"
    " ORDER BY at_ms DESC, request_id LIMIT 7)"
)


class SqlParticipation(SqlBase):
    """The part of `ParticipationStore` that is about check-ins and assignments."""

    async def check_in(
        self,
        client_id: bytes,
        request_id: bytes,
        *,
        wanted: str,
        task_id: str,
        offer: Mapping[str, object],
        sdk_version: str = "",
        retry: tuple[int, int] | None = None,
    ) -> CheckInRecord:
        offered = as_json(offer)
        least_ms, most_ms = retry or (None, None)

        def act(db: Transaction) -> CheckInRecord:
            seen: dict[str, object] = {"last_seen_ms": db.now_ms}
            if sdk_version:
                seen["sdk_version"] = sdk_version
            if not db.update("client", {"client_id": client_id}, **seen):
                raise missing(f"client {client_id.hex()}")
            key = {"client_id": client_id, "request_id": request_id}
            if (row := db.find("check_in", **key)) is None:
                db.insert(
                    "check_in",
                    **key,
                    wanted=wanted,
                    task_id=task_id,
                    offer=offered,
                    at_ms=db.now_ms,
                    assignment_id=b"",
                    retry_min_ms=least_ms,
                    retry_max_ms=most_ms,
                    waiting=int(retry is None),
                )
                db.execute(_FORGET, *(client_id, request_id) * 2)
                return CheckInRecord(
                    client_id, request_id, wanted, task_id, offer, db.now_ms, retry=retry
                )
            if row["wanted"] != wanted:
                raise ConflictError(
                    "this check-in asked for another task before",
                    why="a request id names one request for good",
                    fix="draw a new request id for a new request",
                )
            return check_in_of(row)

        return await self._write("check_in", act)

    async def refuse_check_in(
        self, client_id: bytes, request_id: bytes, retry: tuple[int, int]
    ) -> CheckInRecord:
        def act(db: Transaction) -> CheckInRecord:
            key = {"client_id": client_id, "request_id": request_id}
            window = {"retry_min_ms": retry[0], "retry_max_ms": retry[1]}
            db.update("check_in", key | {"waiting": 1}, waiting=0, **window)
            if (row := db.find("check_in", **key)) is None:
                raise missing("check-in with this request id")
            return check_in_of(row)

        return await self._write("refuse_check_in", act)

    async def waiting(self, task_id: str) -> tuple[CheckInRecord, ...]:
        table = schema.check_in
        wanted = select(table).where(table.c.waiting == 1, table.c.task_id == task_id)
        ordered = wanted.order_by(table.c.at_ms, table.c.client_id)
        return await self._read(lambda c: tuple(map(check_in_of, all_rows(c, ordered))))

    async def assignment(self, assignment_id: bytes) -> AssignmentRecord | None:
        wanted = rows_by(schema.assignment, "assignment_id")

        def query(connection: Connection) -> AssignmentRecord | None:
            row = one_row(connection, wanted, assignment_id=assignment_id)
            return assignment_of(row) if row else None

        return await self._read(query)

    async def assignments(self, ref: RoundRef) -> tuple[AssignmentRecord, ...]:
        table = schema.assignment
        wanted = rows_of_round(table).order_by(table.c.client_id)
        return await self._read(
            lambda c: tuple(map(assignment_of, all_rows(c, wanted, **of_round(ref))))
        )

    async def end_assignment(
        self, assignment_id: bytes, state: AssignmentState, *, failure: int = 0, reason: str = ""
    ) -> AssignmentRecord:
        def act(db: Transaction) -> AssignmentRecord:
            active = {"assignment_id": assignment_id, "state": AssignmentState.ACTIVE}
            end = {"ended_ms": db.now_ms, "failure": failure, "reason": reason}
            db.update("assignment", active, state=state, **end)
            return assignment_of(_assignment(db, assignment_id))

        return await self._write("end_assignment", act)

    async def report(self, assignment_id: bytes, report: AssignmentReport) -> AssignmentRecord:
        written = report_text(report)

        def act(db: Transaction) -> AssignmentRecord:
            row = _assignment(db, assignment_id)
            if row["report"] is None:
                db.update(
                    "assignment",
                    {"assignment_id": assignment_id},
                    report=written,
                    bytes_up=report.bytes_up,
                    bytes_down=report.bytes_down,
                    energy_j=report.energy_j,
                )
            elif row["report"] != written:
                raise ConflictError(
                    "this assignment was reported on before, with other figures",
                    why="a client reports once",
                    fix="repeat the report unchanged, or leave it",
                )
            return assignment_of(_assignment(db, assignment_id))

        return await self._write("report", act)


def add_assignment(db: Transaction, ref: RoundRef, assignment: AssignmentRecord) -> None:
    """Adds one to an attempt, as the answer to the check-in that it names, if that has none.

    One check-in that was answered, or is forgotten, must not cost all the others their round.
    Raises: ConflictError where the client has a part in the attempt.
    """
    client_id = assignment.client_id
    if db.find("assignment", **of_round(ref), client_id=client_id) is not None:
        raise ConflictError(
            f"client {client_id.hex()} has a part in round {ref}",
            why="a client takes part once in an attempt",
            fix="read the assignments of the round again",
        )
    db.insert(
        "assignment",
        assignment_id=assignment.assignment_id,
        **of_round(ref),
        client_id=client_id,
        nonce=assignment.nonce,
        request_id=assignment.request_id,
        expires_ms=assignment.expires_ms,
        state=AssignmentState.ACTIVE,
        issued_ms=db.now_ms,
        ended_ms=0,
        failure=0,
        reason="",
        report=None,
        bytes_up=0,
        bytes_down=0,
        energy_j=0.0,
    )
    waiting = {"client_id": client_id, "request_id": assignment.request_id, "waiting": 1}
    db.update("check_in", waiting, waiting=0, assignment_id=assignment.assignment_id)


def end_assignments(db: Transaction, ref: RoundRef, state: AssignmentState, *, reason: str) -> None:
    """Ends every part in an attempt that is ACTIVE."""
    active = of_round(ref) | {"state": AssignmentState.ACTIVE}
    db.update("assignment", active, state=state, ended_ms=db.now_ms, reason=reason)


def _assignment(db: Transaction, assignment_id: bytes) -> Row:
    row = db.find("assignment", assignment_id=assignment_id)
    if row is None:
        raise missing("assignment with this id")
    return row
