"""The tables of the first release."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import TypeEngine

__all__ = ["down_revision", "downgrade", "revision", "upgrade"]

revision = "0001"
down_revision: str | None = None

_TABLES = (
    "audit_log",
    "certificate",
    "client",
    "enrolment_token",
    "idempotency",
    "outbox",
    "principal",
    "server_identity",
    "server_node",
    "task",
    "tenant",
    "check_in",
    "enrolment",
    "model",
    "round",
    "task_lease",
    "assignment",
    "metric",
    "model_head",
    "round_event",
    "session_record",
    "upload",
)


def _number() -> TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _real() -> TypeEngine[float]:
    return sa.REAL().with_variant(sa.Double(), "postgresql")


def upgrade() -> None:
    """Makes them, those first to which others point."""
    op.create_table(
        "audit_log",
        sa.Column("sequence", _number(), nullable=False),
        sa.Column("at_ms", _number(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("decision", sa.Text(), nullable=False),
        sa.Column("request_id", sa.LargeBinary(), nullable=False),
        sa.Column("prev_hash", sa.LargeBinary(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_audit_log"),
        sqlite_strict=True,
    )
    op.create_table(
        "certificate",
        sa.Column("serial", sa.LargeBinary(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("client_id", sa.LargeBinary(), nullable=False),
        sa.Column("not_after_ms", _number(), nullable=False),
        sa.Column("revoked_ms", _number(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("row_version", _number(), nullable=False),
        sa.Column("updated_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("serial", name="pk_certificate"),
        sa.UniqueConstraint("fingerprint", name="uq_certificate_fingerprint"),
        sqlite_strict=True,
    )
    op.create_table(
        "client",
        sa.Column("client_id", sa.LargeBinary(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("identity_key", sa.LargeBinary(), nullable=False),
        sa.Column("spiffe_id", sa.Text(), nullable=False),
        sa.Column("sdk_version", sa.Text(), nullable=False),
        sa.Column("attributes", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created_ms", _number(), nullable=False),
        sa.Column("last_seen_ms", _number(), nullable=False),
        sa.Column("row_version", _number(), nullable=False),
        sa.Column("updated_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("client_id", name="pk_client"),
        sa.UniqueConstraint("identity_key", name="uq_client_identity_key"),
        sqlite_strict=True,
    )
    op.create_table(
        "enrolment_token",
        sa.Column("token_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("max_uses", _number(), nullable=False),
        sa.Column("uses", _number(), nullable=False),
        sa.Column("expires_ms", _number(), nullable=False),
        sa.Column("attributes", sa.Text(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_ms", _number(), nullable=False),
        sa.Column("row_version", _number(), nullable=False),
        sa.Column("updated_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("token_sha256", name="pk_enrolment_token"),
        sqlite_strict=True,
    )
    op.create_table(
        "idempotency",
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("request_id", sa.LargeBinary(), nullable=False),
        sa.Column("request_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("response", sa.LargeBinary(), nullable=False),
        sa.Column("at_ms", _number(), nullable=False),
        sa.PrimaryKeyConstraint("principal", "method", "request_id", name="pk_idempotency"),
        sqlite_strict=True,
    )
    op.create_table(
        "outbox",
        sa.Column("entry_id", _number(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("at_ms", _number(), nullable=False),
        sa.Column("done_ms", _number(), nullable=False),
        sa.Column("row_version", _number(), nullable=False),
        sa.Column("updated_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("entry_id", name="pk_outbox"),
        sqlite_strict=True,
    )
    op.create_table(
        "principal",
        sa.Column("principal_id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("identity_key", sa.LargeBinary(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("row_version", _number(), nullable=False),
        sa.Column("updated_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("principal_id", name="pk_principal"),
        sa.UniqueConstraint("fingerprint", name="uq_principal_fingerprint"),
        sqlite_strict=True,
    )
    op.create_table(
        "server_identity",
        sa.Column("server_id", sa.LargeBinary(), nullable=False),
        sa.Column("epoch", _number(), nullable=False),
        sa.Column("created_ms", _number(), nullable=False),
        sa.Column("row_version", _number(), nullable=False),
        sa.Column("updated_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("server_id", name="pk_server_identity"),
        sqlite_strict=True,
    )
    op.create_table(
        "server_node",
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("draining", _number(), nullable=False),
        sa.Column("heartbeat_ms", _number(), nullable=False),
        sa.Column("row_version", _number(), nullable=False),
        sa.Column("updated_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("node_id", name="pk_server_node"),
        sqlite_strict=True,
    )
    op.create_table(
        "task",
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("spec", sa.LargeBinary(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("author_key", sa.LargeBinary(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.Column("rounds", _number(), nullable=False),
        sa.Column("submitted_by", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("submitted_ms", _number(), nullable=False),
        sa.Column("rounds_completed", _number(), nullable=False),
        sa.Column("row_version", _number(), nullable=False),
        sa.Column("updated_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("task_id", name="pk_task"),
        sqlite_strict=True,
    )
    op.create_table(
        "tenant",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("quotas", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("row_version", _number(), nullable=False),
        sa.Column("updated_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", name="pk_tenant"),
        sqlite_strict=True,
    )
    op.create_table(
        "check_in",
        sa.Column("client_id", sa.LargeBinary(), nullable=False),
        sa.Column("request_id", sa.LargeBinary(), nullable=False),
        sa.Column("wanted", sa.Text(), nullable=False),
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("offer", sa.Text(), nullable=False),
        sa.Column("at_ms", _number(), nullable=False),
        sa.Column("assignment_id", sa.LargeBinary(), nullable=False),
        sa.Column("retry_min_ms", _number(), nullable=True),
        sa.Column("retry_max_ms", _number(), nullable=True),
        sa.Column("waiting", _number(), nullable=False),
        sa.Column("row_version", _number(), nullable=False),
        sa.Column("updated_by", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["client_id"], ["client.client_id"], name="fk_check_in_client"),
        sa.PrimaryKeyConstraint("client_id", "request_id", name="pk_check_in"),
        sqlite_strict=True,
    )
    op.create_table(
        "enrolment",
        sa.Column("key_hash", sa.LargeBinary(), nullable=False),
        sa.Column("token_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("client_id", sa.LargeBinary(), nullable=False),
        sa.Column("reply", sa.LargeBinary(), nullable=False),
        sa.Column("at_ms", _number(), nullable=False),
        sa.ForeignKeyConstraint(["client_id"], ["client.client_id"], name="fk_enrolment_client"),
        sa.ForeignKeyConstraint(
            ["token_sha256"], ["enrolment_token.token_sha256"], name="fk_enrolment_enrolment_token"
        ),
        sa.PrimaryKeyConstraint("key_hash", name="pk_enrolment"),
        sqlite_strict=True,
    )
    op.create_table(
        "model",
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("parent", sa.LargeBinary(), nullable=False),
        sa.Column("round", _number(), nullable=False),
        sa.Column("size", _number(), nullable=False),
        sa.Column("created_ms", _number(), nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["task.task_id"], name="fk_model_task"),
        sa.PrimaryKeyConstraint("task_id", "digest", name="pk_model"),
        sa.UniqueConstraint("task_id", "parent", name="uq_model_task_id_parent"),
        sqlite_strict=True,
    )
    op.create_table(
        "round",
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("round", _number(), nullable=False),
        sa.Column("attempt", _number(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("sequence", _number(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("base_model", sa.LargeBinary(), nullable=False),
        sa.Column("deadline_ms", _number(), nullable=True),
        sa.Column("since_ms", _number(), nullable=False),
        sa.Column("started_ms", _number(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("result_digest", sa.LargeBinary(), nullable=False),
        sa.Column("epsilon", _real(), nullable=False),
        sa.Column("last_event", _number(), nullable=False),
        sa.Column("row_version", _number(), nullable=False),
        sa.Column("updated_by", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["task.task_id"], name="fk_round_task"),
        sa.PrimaryKeyConstraint("task_id", "round", "attempt", name="pk_round"),
        sqlite_strict=True,
    )
    op.create_table(
        "task_lease",
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("token", _number(), nullable=False),
        sa.Column("expires_ms", _number(), nullable=False),
        sa.Column("attempts", _number(), nullable=False),
        sa.Column("row_version", _number(), nullable=False),
        sa.Column("updated_by", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["task.task_id"], name="fk_task_lease_task"),
        sa.PrimaryKeyConstraint("task_id", name="pk_task_lease"),
        sqlite_strict=True,
    )
    op.create_table(
        "assignment",
        sa.Column("assignment_id", sa.LargeBinary(), nullable=False),
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("round", _number(), nullable=False),
        sa.Column("attempt", _number(), nullable=False),
        sa.Column("client_id", sa.LargeBinary(), nullable=False),
        sa.Column("nonce", sa.LargeBinary(), nullable=False),
        sa.Column("request_id", sa.LargeBinary(), nullable=False),
        sa.Column("expires_ms", _number(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("issued_ms", _number(), nullable=False),
        sa.Column("ended_ms", _number(), nullable=False),
        sa.Column("failure", _number(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("report", sa.Text(), nullable=True),
        sa.Column("bytes_up", _number(), nullable=False),
        sa.Column("bytes_down", _number(), nullable=False),
        sa.Column("energy_j", _real(), nullable=False),
        sa.Column("row_version", _number(), nullable=False),
        sa.Column("updated_by", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["client_id"], ["client.client_id"], name="fk_assignment_client"),
        sa.ForeignKeyConstraint(
            ["task_id", "round", "attempt"],
            ["round.task_id", "round.round", "round.attempt"],
            name="fk_assignment_round",
        ),
        sa.PrimaryKeyConstraint("assignment_id", name="pk_assignment"),
        sa.UniqueConstraint(
            "task_id",
            "round",
            "attempt",
            "client_id",
            name="uq_assignment_task_id_round_attempt_client_id",
        ),
        sqlite_strict=True,
    )
    op.create_table(
        "metric",
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("round", _number(), nullable=False),
        sa.Column("attempt", _number(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", _real(), nullable=True),
        sa.Column("count", _real(), nullable=False),
        sa.Column("released_via", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["task_id", "round", "attempt"],
            ["round.task_id", "round.round", "round.attempt"],
            name="fk_metric_round",
        ),
        sa.PrimaryKeyConstraint("task_id", "round", "attempt", "name", name="pk_metric"),
        sqlite_strict=True,
    )
    op.create_table(
        "model_head",
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("state_digest", sa.LargeBinary(), nullable=False),
        sa.Column("ledger_head", sa.LargeBinary(), nullable=False),
        sa.Column("row_version", _number(), nullable=False),
        sa.Column("updated_by", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["task_id", "digest"], ["model.task_id", "model.digest"], name="fk_model_head_model"
        ),
        sa.PrimaryKeyConstraint("task_id", name="pk_model_head"),
        sqlite_strict=True,
    )
    op.create_table(
        "round_event",
        sa.Column("event", _number(), nullable=False),
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("round", _number(), nullable=False),
        sa.Column("attempt", _number(), nullable=False),
        sa.Column("sequence", _number(), nullable=False),
        sa.Column("from_phase", sa.Text(), nullable=False),
        sa.Column("to_phase", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at_ms", _number(), nullable=False),
        sa.ForeignKeyConstraint(
            ["task_id", "round", "attempt"],
            ["round.task_id", "round.round", "round.attempt"],
            name="fk_round_event_round",
        ),
        sa.PrimaryKeyConstraint("event", name="pk_round_event"),
        sa.UniqueConstraint(
            "task_id",
            "round",
            "attempt",
            "sequence",
            name="uq_round_event_task_id_round_attempt_sequence",
        ),
        sqlite_strict=True,
    )
    op.create_table(
        "session_record",
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("round", _number(), nullable=False),
        sa.Column("attempt", _number(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.Column("row_version", _number(), nullable=False),
        sa.Column("updated_by", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["task_id", "round", "attempt"],
            ["round.task_id", "round.round", "round.attempt"],
            name="fk_session_record_round",
        ),
        sa.PrimaryKeyConstraint("task_id", "round", "attempt", "name", name="pk_session_record"),
        sqlite_strict=True,
    )
    op.create_table(
        "upload",
        sa.Column("upload_id", sa.LargeBinary(), nullable=False),
        sa.Column("assignment_id", sa.LargeBinary(), nullable=False),
        sa.Column("task_id", sa.Text(), nullable=False),
        sa.Column("round", _number(), nullable=False),
        sa.Column("attempt", _number(), nullable=False),
        sa.Column("client_id", sa.LargeBinary(), nullable=False),
        sa.Column("size", _number(), nullable=False),
        sa.Column("header", sa.LargeBinary(), nullable=False),
        sa.Column("committed", _number(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("begun_ms", _number(), nullable=False),
        sa.Column("row_version", _number(), nullable=False),
        sa.Column("updated_by", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["assignment_id"], ["assignment.assignment_id"], name="fk_upload_assignment"
        ),
        sa.PrimaryKeyConstraint("upload_id", name="pk_upload"),
        sa.UniqueConstraint("assignment_id", name="uq_upload_assignment_id"),
        sa.UniqueConstraint(
            "task_id",
            "round",
            "attempt",
            "client_id",
            name="uq_upload_task_id_round_attempt_client_id",
        ),
        sqlite_strict=True,
    )


def downgrade() -> None:
    """Drops them and all that they hold."""
    for table in reversed(_TABLES):
        op.drop_table(table)
