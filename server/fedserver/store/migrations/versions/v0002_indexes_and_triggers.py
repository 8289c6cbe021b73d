"""Indexes for what is looked up often, and triggers on what only ever grows."""

from __future__ import annotations

from alembic import op

__all__ = ["down_revision", "downgrade", "revision", "upgrade"]

revision = "0002"
down_revision: str | None = "0001"

_INDEXES = {
    "ix_certificate_client_id": ("certificate", ["client_id"]),
    "ix_outbox_done_ms_entry_id": ("outbox", ["done_ms", "entry_id"]),
    "ix_check_in_waiting_task_id_at_ms": ("check_in", ["waiting", "task_id", "at_ms"]),
    "ix_model_digest": ("model", ["digest"]),
    "ix_round_phase": ("round", ["phase"]),
    "ix_round_task_id_last_event": ("round", ["task_id", "last_event"]),
}
_APPEND_ONLY = ("audit_log", "round_event")
_REFUSE = """
    CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END$$
"""


def upgrade() -> None:
    """Adds them."""
    for name, (table, columns) in _INDEXES.items():
        op.create_index(name, table, columns)
    if _is_postgresql():
        op.execute(_REFUSE)
        for table in _APPEND_ONLY:
            # Before the statement, so that also one which finds no row is refused.
            op.execute(
                f"CREATE TRIGGER {table}_only_grows BEFORE UPDATE OR DELETE OR TRUNCATE"
                f" ON {table} FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
            )
        return
    for table in _APPEND_ONLY:
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )


def downgrade() -> None:
    """Takes them away; no row changes."""
    if _is_postgresql():
        for table in _APPEND_ONLY:
            op.execute(f"DROP TRIGGER {table}_only_grows ON {table}")
        op.execute("DROP FUNCTION refuse_change")
    else:
        for table in _APPEND_ONLY:
            for verb in ("update", "delete"):
                op.execute(f"DROP TRIGGER {table}_no_{verb}")
    for name, (table, _) in _INDEXES.items():
        op.drop_index(name, table)


def _is_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"
