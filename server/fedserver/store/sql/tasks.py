"""Tasks, with the models in their lines and the leases of their drivers."""

from __future__ import annotations

import functools

from sqlalchemy import Connection, bindparam, select

from fedcore.errors import ConflictError
from fedserver.store import schema
from fedserver.store.records import (
    AuditEntry,
    HeadRecord,
    Idempotency,
    Lease,
    ModelRecord,
    Stored,
    TaskRecord,
    TaskState,
)
from fedserver.store.sql.base import SqlBase
from fedserver.store.sql.reads import Query, all_rows, one_row, rows_by
from fedserver.store.sql.rows import head_of, lease_of, model_of, task_of
from fedserver.store.sql.transaction import Transaction, missing

__all__ = ["SqlTasks", "add_model"]

_ENDED = frozenset({TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELLED})


class SqlTasks(SqlBase):
    """`TaskStore` in SQL."""

    async def add_task(
        self,
        task: TaskRecord,
        model: ModelRecord,
        *,
        state_digest: bytes = b"",
        audit: AuditEntry | None = None,
        idempotency: Idempotency | None = None,
    ) -> Stored:
        def act(db: Transaction) -> None:
            if db.find("task", task_id=task.task_id) is not None:
                raise ConflictError(
                    f"there is a task {task.task_id}",
                    why="a task's id is its own for good",
                    fix="submit it under a new id",
                )
            same = {"tenant": task.tenant, "digest": task.digest, "state": TaskState.RUNNING}
            if (twin := db.find("task", **same)) is not None:
                raise ConflictError(
                    f"this very task runs as {twin['task_id']}",
                    why="devices know a task by its content, and work for it once",
                    fix="change its seed, or its name, to run it once more",
                )
            db.insert(
                "task",
                task_id=task.task_id,
                tenant=task.tenant,
                name=task.name,
                spec=task.spec,
                digest=task.digest,
                author_key=task.author_key,
                signature=task.signature,
                rounds=task.rounds,
                submitted_by=task.submitted_by,
                state=task.state,
                reason="",
                submitted_ms=db.now_ms,
                rounds_completed=0,
            )
            add_model(db, task.task_id, model)
            db.insert(
                "model_head",
                task_id=task.task_id,
                digest=model.digest,
                state_digest=state_digest,
                ledger_head=b"",
            )

        return await self._once("add_task", act, audit=audit, idempotency=idempotency)

    async def task(self, task_id: str) -> TaskRecord | None:
        def query(connection: Connection) -> TaskRecord | None:
            row = one_row(connection, rows_by(schema.task, "task_id"), task_id=task_id)
            return task_of(row) if row else None

        return await self._read(query)

    async def tasks(
        self,
        *,
        tenant: str | None = None,
        state: TaskState | None = None,
        digest: bytes | None = None,
    ) -> tuple[TaskRecord, ...]:
        table = schema.task
        wanted = select(table).order_by(table.c.submitted_ms, table.c.task_id)
        if tenant is not None:
            wanted = wanted.where(table.c.tenant == tenant)
        if state is not None:
            wanted = wanted.where(table.c.state == state)
        if digest is not None:
            wanted = wanted.where(table.c.digest == digest)
        return await self._read(lambda c: tuple(map(task_of, all_rows(c, wanted))))

    async def set_task_state(
        self,
        task_id: str,
        state: TaskState,
        *,
        reason: str = "",
        lease_token: int | None = None,
        audit: AuditEntry | None = None,
        idempotency: Idempotency | None = None,
    ) -> Stored:
        def act(db: Transaction) -> None:
            row = db.find("task", task_id=task_id)
            if row is None:
                raise missing(f"task {task_id}")
            if lease_token is not None:
                db.check_lease(task_id, lease_token)
            if row["state"] == state:
                return
            if row["state"] in _ENDED:
                raise ConflictError(
                    f"task {task_id} is {row['state']} for good",
                    why=row["reason"] or "a task that has ended is not taken up again",
                    fix="submit it as a new task",
                )
            db.update("task", {"task_id": task_id}, state=state, reason=reason)

        return await self._once("set_task_state", act, audit=audit, idempotency=idempotency)

    async def bar_client(
        self,
        task_id: str,
        client_id: bytes,
        *,
        reason: str,
        lease_token: int,
        audit: AuditEntry | None = None,
    ) -> bool:
        def act(db: Transaction) -> bool:
            db.check_lease(task_id, lease_token)
            if db.find("client", client_id=client_id) is None:
                raise missing(f"client {client_id.hex()}")
            row = {"task_id": task_id, "client_id": client_id}
            if db.find("barred_client", **row) is not None:
                return False
            db.insert("barred_client", **row, reason=reason, at_ms=db.now_ms)
            db.audit(audit)
            return True

        return await self._write("bar_client", act)

    async def barred_clients(self, task_id: str) -> frozenset[bytes]:
        table = schema.barred_client
        wanted = select(table.c.client_id).where(table.c.task_id == task_id)

        def query(connection: Connection) -> frozenset[bytes]:
            return frozenset(row["client_id"] for row in all_rows(connection, wanted))

        return await self._read(query)

    async def head(self, task_id: str) -> HeadRecord | None:
        def query(connection: Connection) -> HeadRecord | None:
            row = one_row(connection, _head(), task_id=task_id)
            return head_of(row) if row else None

        return await self._read(query)

    async def model(self, digest: bytes, *, task_id: str | None = None) -> ModelRecord | None:
        table = schema.model
        wanted = select(table).where(table.c.digest == digest)
        if task_id is not None:
            wanted = wanted.where(table.c.task_id == task_id)
        first = wanted.order_by(table.c.created_ms, table.c.task_id).limit(1)

        def query(connection: Connection) -> ModelRecord | None:
            row = one_row(connection, first)
            return model_of(row) if row else None

        return await self._read(query)

    async def models(self, task_id: str) -> tuple[ModelRecord, ...]:
        table = schema.model
        wanted = select(table).where(table.c.task_id == task_id).order_by(table.c.round)
        return await self._read(lambda c: tuple(map(model_of, all_rows(c, wanted))))

    async def acquire_lease(self, task_id: str, owner: str, ttl_ms: int) -> Lease | None:
        def act(db: Transaction) -> Lease | None:
            if db.find("task", task_id=task_id) is None:
                raise missing(f"task {task_id}")
            row, expires_ms = db.find("task_lease", task_id=task_id), db.now_ms + ttl_ms
            if row is None:
                db.insert(
                    "task_lease",
                    task_id=task_id,
                    owner=owner,
                    token=1,
                    expires_ms=expires_ms,
                    attempts=1,
                )
                return Lease(task_id, owner, 1, expires_ms, 1)
            if row["owner"] not in ("", owner) and row["expires_ms"] > db.now_ms:
                return None
            token, attempts = row["token"] + 1, row["attempts"] + 1
            db.update(
                "task_lease",
                {"task_id": task_id},
                owner=owner,
                token=token,
                expires_ms=expires_ms,
                attempts=attempts,
            )
            return Lease(task_id, owner, token, expires_ms, attempts)

        return await self._write("acquire_lease", act)

    async def lease(self, task_id: str) -> Lease | None:
        table = schema.task_lease
        wanted = select(table).where(table.c.task_id == task_id, table.c.owner != "")

        def query(connection: Connection) -> Lease | None:
            row = one_row(connection, wanted)
            return lease_of(row) if row else None

        found = await self._read(query)
        # The clock afterwards: a lease that is shown has not run out before it was looked at.
        return found if found is not None and found.expires_ms > await self.now_ms() else None

    async def renew_lease(self, lease: Lease, ttl_ms: int) -> Lease:
        def act(db: Transaction) -> Lease:
            db.check_lease(lease.task_id, lease.token)
            where = {"task_id": lease.task_id, "token": lease.token}
            db.update("task_lease", where, expires_ms=db.now_ms + ttl_ms)
            row = db.find("task_lease", task_id=lease.task_id)
            assert row is not None
            return lease_of(row)

        return await self._write("renew_lease", act)

    async def release_lease(self, lease: Lease, *, attempts: int = 0) -> None:
        def act(db: Transaction) -> None:
            where = {"task_id": lease.task_id, "token": lease.token}
            if (row := db.find("task_lease", **where)) is not None:
                left = min(attempts, row["attempts"])
                db.update("task_lease", where, owner="", expires_ms=0, attempts=left)

        await self._write("release_lease", act)


@functools.cache
def _head() -> Query:
    """The newest model of the task `task_id`, and the round that made it."""
    head, model = schema.model_head, schema.model
    same = (model.c.task_id == head.c.task_id) & (model.c.digest == head.c.digest)
    newest = select(head, model.c.round).join(model, same)
    return newest.where(head.c.task_id == bindparam("task_id"))


def add_model(db: Transaction, task_id: str, model: ModelRecord) -> None:
    """Adds a model to the line of its task. Raises: ConflictError where the line would fork."""
    if db.find("model", task_id=task_id, parent=model.parent) is not None:
        raise ConflictError(
            f"the model of task {task_id} that comes after this one is there already",
            why="a line of models never forks",
            fix="go on from the newest model",
        )
    if db.find("model", task_id=task_id, digest=model.digest) is not None:
        raise ConflictError(
            f"task {task_id} has a model {model.digest.hex()}",
            why="a model stands once in its line",
            fix="write the round and the parent into the file, so that no two are equal",
        )
    db.insert(
        "model",
        task_id=task_id,
        digest=model.digest,
        parent=model.parent,
        round=model.round,
        size=model.size,
        created_ms=db.now_ms,
    )
