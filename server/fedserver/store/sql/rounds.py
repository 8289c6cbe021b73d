"""Rounds: every transition by compare-and-swap, with all that belongs to it."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import ColumnElement, Connection, Table, bindparam, func, select, tuple_
from sqlalchemy.dialects import sqlite

from fedcore.errors import ConflictError, RefusedError
from fedserver.store import schema
from fedserver.store.records import (
    ENDED,
    NOT_NOTED,
    OPEN,
    AssignmentRecord,
    AssignmentState,
    AuditEntry,
    EventRecord,
    MetricRecord,
    ModelRecord,
    OutboxMessage,
    RoundRecord,
    RoundRef,
    RoundsPage,
    TaskState,
    Transition,
    UploadState,
)
from fedserver.store.sql.base import SqlBase
from fedserver.store.sql.participation import add_assignment, end_assignments
from fedserver.store.sql.reads import Query, all_rows, one_row, rows_of_round
from fedserver.store.sql.rows import Row, as_json, event_of, metric_of, round_of
from fedserver.store.sql.sessions import change_session, make_key
from fedserver.store.sql.tasks import add_model
from fedserver.store.sql.transaction import Transaction, missing, of_round

__all__ = ["SqlRounds", "note_event"]

_KEY = ("task_id", "round", "attempt")


class SqlRounds(SqlBase):
    """The part of `RoundStore` that is about rounds themselves."""

    async def open_round(
        self,
        ref: RoundRef,
        *,
        phase: str,
        state: Mapping[str, object],
        base_model: bytes,
        deadline_ms: int | None,
        lease_token: int,
        spent: float | None = None,
        audit: AuditEntry | None = None,
    ) -> RoundRecord:
        def act(db: Transaction) -> RoundRecord:
            owner = db.check_lease(ref.task_id, lease_token)
            _require_running(db, ref)
            if (row := db.find("round", **of_round(ref))) is not None:
                same = row["sequence"] == 0 and row["state"] == as_json(state)
                if same and row["base_model"] == base_model:
                    return _as_it_stands(db, ref)
                raise _conflict(f"round {ref} was opened before, otherwise")
            if (other := _open_round(db, ref.task_id)) is not None:
                raise _conflict(f"round {other} of this task is open")
            db.insert(
                "round",
                **of_round(ref),
                phase=phase,
                sequence=0,
                state=as_json(state),
                base_model=base_model,
                deadline_ms=deadline_ms,
                since_ms=db.now_ms,
                started_ms=db.now_ms,
                reason="",
                result_digest=b"",
                epsilon=0.0,
                last_event=0,
            )
            make_key(db, ref)
            if spent is not None:
                unsaid = {"task_id": ref.task_id, "epsilon": NOT_NOTED}
                db.update("round", unsaid, epsilon=spent)
            first = Transition("", phase, 0, deadline_ms=deadline_ms)
            note_event(db, ref, first, actor=owner)
            db.audit(audit or _entry(owner, ref, first))
            return _as_it_stands(db, ref)

        return await self._write("open_round", act)

    async def advance_round(
        self,
        ref: RoundRef,
        transition: Transition,
        *,
        state: Mapping[str, object],
        lease_token: int,
        assignments: Sequence[AssignmentRecord] = (),
        end_assignments: AssignmentState | None = None,
        session: Mapping[str, bytes] | None = None,
        erase: Iterable[str] = (),
        result_digest: bytes | None = None,
        epsilon: float | None = None,
        ledger_head: bytes = b"",
        outbox: Sequence[OutboxMessage] = (),
        audit: AuditEntry | None = None,
    ) -> RoundRecord:
        erased = tuple(erase)

        def act(db: Transaction) -> RoundRecord:
            _step(
                db,
                ref,
                transition,
                state=state,
                lease_token=lease_token,
                ending=end_assignments,
                result_digest=result_digest,
                epsilon=epsilon,
                outbox=outbox,
                audit=audit,
            )
            for assignment in assignments:
                add_assignment(db, ref, assignment)
            change_session(db, ref, session or {}, erased)
            if ledger_head:
                db.update("model_head", {"task_id": ref.task_id}, ledger_head=ledger_head)
            return _as_it_stands(db, ref)

        return await self._write("advance_round", act)

    async def complete_round(
        self,
        ref: RoundRef,
        transition: Transition,
        *,
        state: Mapping[str, object],
        lease_token: int,
        model: ModelRecord,
        expected_parent: bytes,
        metrics: Mapping[str, MetricRecord],
        state_digest: bytes = b"",
        ledger_head: bytes = b"",
        outbox: Sequence[OutboxMessage] = (),
        audit: AuditEntry | None = None,
    ) -> RoundRecord:
        def act(db: Transaction) -> RoundRecord:
            _step(
                db,
                ref,
                transition,
                state=state,
                lease_token=lease_token,
                ending=AssignmentState.COMPLETED,
                result_digest=model.digest,
                epsilon=None,
                outbox=outbox,
                audit=audit,
            )
            _move_head(db, ref, model, expected_parent, state_digest, ledger_head)
            for name, figure in metrics.items():
                db.insert(
                    "metric",
                    **of_round(ref),
                    name=name,
                    value=figure.value,
                    count=figure.count,
                    released_via=figure.released_via,
                )
            return _as_it_stands(db, ref)

        return await self._write("complete_round", act)

    async def round(self, ref: RoundRef) -> RoundRecord | None:
        return await self._read(lambda c: _first(c, _one_round(), **of_round(ref)))

    async def latest_attempt(self, task_id: str, round: int) -> RoundRecord | None:
        table = schema.round_table
        wanted = _rounds().where(table.c.task_id == task_id, table.c.round == round)
        newest = wanted.order_by(table.c.attempt.desc()).limit(1)
        return await self._read(lambda c: _first(c, newest))

    async def earlier_states(self, ref: RoundRef, limit: int) -> tuple[Mapping[str, object], ...]:
        table = schema.round_table
        place = tuple_(table.c.round, table.c.attempt)
        wanted = select(table.c.state).where(table.c.task_id == ref.task_id)
        before = wanted.where(place < tuple_(ref.round, ref.attempt))
        newest = before.order_by(table.c.round.desc(), table.c.attempt.desc()).limit(limit)

        def query(connection: Connection) -> tuple[Mapping[str, object], ...]:
            rows = all_rows(connection, newest)
            return tuple(json.loads(row["state"]) for row in reversed(rows))

        return await self._read(query)

    async def open_rounds(self, task_id: str | None = None) -> tuple[RoundRecord, ...]:
        table = schema.round_table
        wanted = _rounds().where(table.c.phase.in_(OPEN))
        if task_id is not None:
            wanted = wanted.where(table.c.task_id == task_id)
        ordered = wanted.order_by(table.c.task_id, table.c.round, table.c.attempt)
        return await self._read(lambda c: tuple(map(round_of, all_rows(c, ordered))))

    async def rounds(self, task_id: str, *, after_event: int = 0, limit: int = 100) -> RoundsPage:
        table = schema.round_table
        changed = _rounds().where(table.c.task_id == task_id, table.c.last_event > after_event)
        page = changed.order_by(table.c.last_event).limit(limit)

        def query(connection: Connection) -> RoundsPage:
            found = tuple(map(round_of, all_rows(connection, page)))
            return RoundsPage(found, found[-1].last_event if found else after_event)

        return await self._read(query)

    async def round_events(self, ref: RoundRef) -> tuple[EventRecord, ...]:
        table = schema.round_event
        ordered = rows_of_round(table).order_by(table.c.sequence)
        return await self._read(
            lambda c: tuple(map(event_of, all_rows(c, ordered, **of_round(ref))))
        )

    async def metrics(self, ref: RoundRef) -> dict[str, MetricRecord]:
        def query(connection: Connection) -> dict[str, MetricRecord]:
            rows = all_rows(connection, rows_of_round(schema.metric), **of_round(ref))
            return {row["name"]: metric_of(row) for row in rows}

        return await self._read(query)


def _step(
    db: Transaction,
    ref: RoundRef,
    transition: Transition,
    *,
    state: Mapping[str, object],
    lease_token: int,
    ending: AssignmentState | None,
    result_digest: bytes | None,
    epsilon: float | None,
    outbox: Sequence[OutboxMessage],
    audit: AuditEntry | None,
) -> None:
    """The compare-and-swap, and what every transition brings with it (W3)."""
    owner = db.check_lease(ref.task_id, lease_token)
    if transition.to_phase in OPEN:
        _require_running(db, ref)
    results: dict[str, object] = {}
    if result_digest is not None:
        results["result_digest"] = result_digest
    if epsilon is not None:
        results["epsilon"] = epsilon
    here = {"phase": transition.from_phase, "sequence": transition.sequence - 1}
    changed = db.update(
        "round",
        of_round(ref) | here,
        phase=transition.to_phase,
        sequence=transition.sequence,
        state=as_json(state),
        deadline_ms=transition.deadline_ms,
        since_ms=db.now_ms,
        reason=transition.reason,
        **results,
    )
    if changed != 1:
        raise _stale(db.find("round", **of_round(ref)), ref, transition)
    note_event(db, ref, transition, actor=owner)
    db.update("task_lease", {"task_id": ref.task_id}, attempts=0)  # it goes on: no crash loop
    if ending is not None:
        end_assignments(db, ref, ending, reason=transition.reason)
    for message in outbox:
        content = {"topic": message.topic, "payload": message.payload}
        db.insert_next("outbox", "entry_id", **content, at_ms=db.now_ms, done_ms=0)
    db.audit(audit or _entry(owner, ref, transition))


def _require_running(db: Transaction, ref: RoundRef) -> None:
    """Clients do nothing more for a task that was ended, and nothing more of it is released."""
    task = db.find("task", task_id=ref.task_id)
    if task is not None and task["state"] != TaskState.RUNNING:
        raise ConflictError(
            f"task {ref.task_id} is {task['state']}, and its round {ref.round} goes no further",
            why=task["reason"] or "it has ended",
            fix="end the round",
        )


def _move_head(
    db: Transaction,
    ref: RoundRef,
    model: ModelRecord,
    expected_parent: bytes,
    state_digest: bytes,
    ledger_head: bytes,
) -> None:
    """The head of the task's models, by compare-and-swap (W6)."""
    if not model.parent or model.parent != expected_parent:
        raise _conflict(f"the new model of {ref} does not continue the expected one")
    add_model(db, ref.task_id, model)
    moved = db.update(
        "model_head",
        {"task_id": ref.task_id, "digest": expected_parent},
        digest=model.digest,
        state_digest=state_digest,
        ledger_head=ledger_head,
    )
    if moved != 1:
        raise _conflict(f"the head of task {ref.task_id} is not the model {ref} began with")
    db.execute(
        "UPDATE task SET rounds_completed = rounds_completed + 1, row_version = row_version + 1,"
        " updated_by = ? WHERE task_id = ?",
        db.name,
        ref.task_id,
    )


def note_event(db: Transaction, ref: RoundRef, transition: Transition, *, actor: str) -> None:
    """Writes down what happened, for those who watch."""
    event = db.insert_next(
        "round_event",
        "event",
        **of_round(ref),
        sequence=transition.sequence,
        from_phase=transition.from_phase,
        to_phase=transition.to_phase,
        actor=actor,
        reason=transition.reason,
        at_ms=db.now_ms,
    )
    db.update("round", of_round(ref), last_event=event)


def _entry(owner: str, ref: RoundRef, transition: Transition) -> AuditEntry:
    return AuditEntry(f"driver:{owner}", f"round.{transition.to_phase.lower()}", f"round:{ref}")


def _open_round(db: Transaction, task_id: str) -> RoundRef | None:
    for row in db.rows("SELECT round, attempt, phase FROM round WHERE task_id = ?", task_id):
        if row["phase"] not in ENDED:
            return RoundRef(task_id, row["round"], row["attempt"])
    return None


def _rounds() -> Query:
    """Rounds, each with the sums over what clients did for it."""
    table, part, upload = schema.round_table, schema.assignment, schema.upload
    assigned = select(func.count()).select_from(part).where(*_joined(part))
    whole = (*_joined(upload), upload.c.state.in_((UploadState.SEALED, UploadState.CONSUMED)))
    uploaded = select(func.count()).select_from(upload).where(*whole)
    bytes_up = select(func.coalesce(func.sum(upload.c.size), 0)).where(*whole)
    return select(
        table,
        assigned.scalar_subquery().label("assigned"),
        uploaded.scalar_subquery().label("uploaded"),
        bytes_up.scalar_subquery().label("bytes_up"),
    )


@functools.cache
def _one_round() -> Query:
    """The same of one attempt, whose parameters are those of `of_round`."""
    return _rounds().where(*(schema.round_table.c[name] == bindparam(name) for name in _KEY))


@functools.cache
def _one_round_text() -> str:
    """The same as text for the writer."""
    text = _rounds().compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True})
    return f"{text} WHERE {' AND '.join(f'round.{name} = ?' for name in _KEY)}"


def _as_it_stands(db: Transaction, ref: RoundRef) -> RoundRecord:
    """What a transaction has made of an attempt: read in it, so that no act can half fail."""
    row = db.one(_one_round_text(), *of_round(ref).values())
    assert row is not None, "rounds are never deleted"
    return round_of(row)


def _joined(other: Table) -> list[ColumnElement[bool]]:
    return [other.c[name] == schema.round_table.c[name] for name in _KEY]


def _first(connection: Connection, query: Query, **values: object) -> RoundRecord | None:
    row = one_row(connection, query, **values)
    return round_of(row) if row else None


def _stale(row: Row | None, ref: RoundRef, transition: Transition) -> RefusedError:
    if row is None:
        return missing(f"round {ref}")
    return _conflict(
        f"round {ref} is {row['phase']} at {row['sequence']}, not {transition.from_phase} at"
        f" {transition.sequence - 1}"
    )


def _conflict(what: str) -> ConflictError:
    return ConflictError(
        what,
        why="somebody else changed it in between, or the same step is done twice",
        fix="read the round again, and go on from what is there",
    )
