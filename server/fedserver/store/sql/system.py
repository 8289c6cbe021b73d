"""The server's own affairs: identity, audit log, outbox, counts, housekeeping."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, func, select, union

from fedserver.store import schema
from fedserver.store.audit import EMPTY
from fedserver.store.migrating import version_of
from fedserver.store.records import (
    OPEN,
    AuditEntry,
    AuditHead,
    AuditRecord,
    ClientState,
    Idempotency,
    NodeRecord,
    OutboxEntry,
    ServerIdentity,
    Statistics,
    Stored,
    TaskState,
)
from fedserver.store.sql.base import SqlBase
from fedserver.store.sql.epochs import begin_epoch
from fedserver.store.sql.reads import all_rows, one_row
from fedserver.store.sql.rows import audit_of
from fedserver.store.sql.transaction import Transaction, missing

__all__ = ["SqlSystem"]

# The newest one tells until when a client is certified, also of one that was off for long.
_SUPERSEDED = """
DELETE FROM certificate WHERE not_after_ms < ? AND revoked_ms = 0 AND EXISTS (
    SELECT 1 FROM certificate AS newer
    WHERE newer.client_id = certificate.client_id AND newer.revoked_ms = 0
    AND (newer.not_after_ms, newer.serial) > (certificate.not_after_ms, certificate.serial)
)"""


class SqlSystem(SqlBase):
    """`SystemStore` in SQL, without what only the database itself can say."""

    async def server_identity(self) -> ServerIdentity:
        def query(connection: Connection) -> ServerIdentity:
            row = one_row(connection, select(schema.server_identity))
            assert row is not None, "opening the store makes the identity"
            return ServerIdentity(row["server_id"], row["epoch"], row["created_ms"])

        return await self._read(query)

    async def bump_epoch(self, reason: str, *, audit: AuditEntry | None = None) -> int:
        def act(db: Transaction) -> int:
            epoch = begin_epoch(db, reason)
            db.audit(audit)
            return epoch

        return await self._write("bump_epoch", act)

    async def recall(self, idempotency: Idempotency) -> Stored | None:
        return await self._write("recall", lambda db: db.recall(idempotency))

    async def append_audit(self, entry: AuditEntry) -> AuditHead:
        def act(db: Transaction) -> AuditHead:
            head = db.audit(entry)
            assert head is not None
            return head

        return await self._write("append_audit", act)

    async def audit_entries(self, after: int = 0, limit: int = 1000) -> tuple[AuditRecord, ...]:
        log = schema.audit_log
        page = select(log).where(log.c.sequence > after).order_by(log.c.sequence).limit(limit)
        return await self._read(lambda c: tuple(map(audit_of, all_rows(c, page))))

    async def audit_head(self) -> AuditHead:
        def query(connection: Connection) -> AuditHead:
            log = schema.audit_log
            last = select(log.c.sequence, log.c.hash).order_by(log.c.sequence.desc()).limit(1)
            row = one_row(connection, last)
            return AuditHead(row["sequence"], row["hash"]) if row else EMPTY

        return await self._read(query)

    async def outbox_pending(self, limit: int = 100) -> tuple[OutboxEntry, ...]:
        box = schema.outbox
        page = select(box).where(box.c.done_ms == 0).order_by(box.c.entry_id).limit(limit)

        def query(connection: Connection) -> tuple[OutboxEntry, ...]:
            return tuple(
                OutboxEntry(row["entry_id"], row["topic"], row["payload"])
                for row in all_rows(connection, page)
            )

        return await self._read(query)

    async def outbox_done(self, entry_id: int) -> None:
        def act(db: Transaction) -> None:
            if db.find("outbox", entry_id=entry_id) is None:
                raise missing(f"outbox entry {entry_id}")
            db.update("outbox", {"entry_id": entry_id, "done_ms": 0}, done_ms=db.now_ms)

        await self._write("outbox_done", act)

    async def node_heartbeat(self, node_id: str, *, version: str, draining: bool) -> None:
        def act(db: Transaction) -> None:
            now = {"version": version, "draining": int(draining), "heartbeat_ms": db.now_ms}
            if not db.update("server_node", {"node_id": node_id}, **now):
                db.insert("server_node", node_id=node_id, **now)

        await self._write("node_heartbeat", act)

    async def nodes(self) -> tuple[NodeRecord, ...]:
        def query(connection: Connection) -> tuple[NodeRecord, ...]:
            node = schema.server_node
            return tuple(
                NodeRecord(
                    row["node_id"], row["version"], bool(row["draining"]), row["heartbeat_ms"]
                )
                for row in all_rows(connection, select(node).order_by(node.c.node_id))
            )

        return await self._read(query)

    async def statistics(self) -> Statistics:
        def query(connection: Connection) -> Statistics:
            def count(table: str, *conditions: object) -> int:
                counted = select(func.count()).select_from(schema.metadata.tables[table])
                return int(connection.scalar(counted.where(*conditions)) or 0)  # type: ignore[arg-type]

            tenants = union(
                *(
                    select(table.c.tenant)
                    for table in (schema.enrolment_token, schema.client, schema.task)
                )
            ).subquery()
            return Statistics(
                tenants=int(connection.scalar(select(func.count()).select_from(tenants)) or 0),
                clients_active=count("client", schema.client.c.state == ClientState.ACTIVE),
                tasks_running=count("task", schema.task.c.state == TaskState.RUNNING),
                rounds_open=count("round", schema.round_table.c.phase.in_(OPEN)),
                schema=version_of(connection) or "",
            )

        return await self._read(query)

    async def prune(self, before_ms: int, *, disowned: Collection[bytes] = ()) -> int:
        def act(db: Transaction) -> int:
            for fingerprint in disowned:
                unrevoked = {"fingerprint": fingerprint, "revoked_ms": 0}
                db.update("certificate", unrevoked, revoked_ms=db.now_ms, reason="disowned")
            return sum(
                db.execute(statement, before_ms)
                for statement in (
                    "DELETE FROM check_in WHERE at_ms < ?",
                    "DELETE FROM idempotency WHERE at_ms < ?",
                    "DELETE FROM outbox WHERE done_ms > 0 AND done_ms < ?",
                    _SUPERSEDED,
                )
            )

        return await self._write("prune", act)
