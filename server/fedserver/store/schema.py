"""The tables of the server's database, as SQLAlchemy Core reads them and Alembic migrates them.

A row that may change counts its changes in `row_version` and names the last of them in
`updated_by`. Times are milliseconds of UTC, ids and digests bytes, JSON canonical text.
`round_event` and `audit_log` only ever grow; triggers refuse anything else.
"""

from __future__ import annotations

from sqlalchemy import (
    REAL,
    BigInteger,
    Column,
    Double,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.schema import SchemaItem

__all__ = [
    "assignment",
    "attempt_key",
    "audit_log",
    "barred_client",
    "certificate",
    "check_in",
    "client",
    "enrolment",
    "enrolment_token",
    "idempotency",
    "metadata",
    "metric",
    "model",
    "model_head",
    "outbox",
    "round_event",
    "round_table",
    "server_identity",
    "server_node",
    "session_record",
    "task",
    "task_lease",
    "upload",
    "versioned",
]

# Every table names its constraints, so that a migration can name them too.
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_ROUND = ("task_id", "round", "attempt")


def _number(name: str, *, key: bool = False, null: bool = False) -> Column[int]:
    # SQLite's INTEGER has 64 bits, and only a key of exactly that type is the row's own number.
    kind = BigInteger().with_variant(Integer(), "sqlite")
    return Column(name, kind, primary_key=key, nullable=null)


def _real(name: str, *, null: bool = False) -> Column[float]:
    # PostgreSQL's REAL has 32 bits, SQLite's 64.
    return Column(name, REAL().with_variant(Double(), "postgresql"), nullable=null)


def _text(name: str, *, key: bool = False) -> Column[str]:
    return Column(name, Text, primary_key=key, nullable=False)


def _bytes(name: str, *, key: bool = False, null: bool = False) -> Column[bytes]:
    return Column(name, LargeBinary, primary_key=key, nullable=null)


def _round_key(*, key: bool = False) -> list[SchemaItem]:
    return [_text("task_id", key=key), _number("round", key=key), _number("attempt", key=key)]


def _of_round() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(_ROUND, [f"round.{name}" for name in _ROUND])


def _of(column: str, target: str) -> ForeignKeyConstraint:
    return ForeignKeyConstraint([column], [target])


def _table(name: str, *parts: SchemaItem, changes: bool = True) -> Table:
    version: list[SchemaItem] = [_number("row_version"), _text("updated_by")] if changes else []
    return Table(name, metadata, *parts, *version, sqlite_strict=True)


server_identity = _table(
    "server_identity", _bytes("server_id", key=True), _number("epoch"), _number("created_ms")
)
server_node = _table(
    "server_node",
    _text("node_id", key=True),
    _text("version"),
    _number("draining"),
    _number("heartbeat_ms"),
)
enrolment_token = _table(
    "enrolment_token",
    _bytes("token_sha256", key=True),
    _text("tenant"),
    _number("max_uses"),
    _number("uses"),
    _number("expires_ms"),
    _text("attributes"),
    _text("created_by"),
    _number("created_ms"),
)
client = _table(
    "client",
    _bytes("client_id", key=True),
    _text("tenant"),
    _bytes("identity_key"),
    _text("spiffe_id"),
    _text("sdk_version"),
    _text("attributes"),
    _text("state"),
    _number("created_ms"),
    _number("last_seen_ms"),
    UniqueConstraint("identity_key"),
)
enrolment = _table(
    "enrolment",
    _bytes("key_hash", key=True),
    _bytes("token_sha256"),
    _bytes("client_id"),
    _bytes("reply"),
    _number("at_ms"),
    _of("token_sha256", "enrolment_token.token_sha256"),
    _of("client_id", "client.client_id"),
    changes=False,
)
certificate = _table(
    "certificate",
    _bytes("serial", key=True),
    _bytes("fingerprint"),
    _bytes("client_id"),  # empty for a user's or a server's, so no foreign key
    _number("not_after_ms"),
    _number("revoked_ms"),
    _text("reason"),
    UniqueConstraint("fingerprint"),
    Index(None, "client_id"),
)
task = _table(
    "task",
    _text("task_id", key=True),
    _text("tenant"),
    _text("name"),
    _bytes("spec"),
    _bytes("digest"),
    _bytes("author_key"),
    _bytes("signature"),
    _number("rounds"),
    _text("submitted_by"),
    _text("state"),
    _text("reason"),
    _number("submitted_ms"),
    _number("rounds_completed"),
)
task_lease = _table(
    "task_lease",
    _text("task_id", key=True),
    _text("owner"),
    _number("token"),
    _number("expires_ms"),  # 0 when it was given back
    _number("attempts"),
    _of("task_id", "task.task_id"),
)
barred_client = _table(
    "barred_client",
    _text("task_id", key=True),
    _bytes("client_id", key=True),
    _text("reason"),
    _number("at_ms"),
    _of("task_id", "task.task_id"),
    _of("client_id", "client.client_id"),
    changes=False,
)
round_table = _table(
    "round",
    *_round_key(key=True),
    _text("phase"),
    _number("sequence"),
    _text("state"),
    _bytes("base_model"),
    _number("deadline_ms", null=True),
    _number("since_ms"),
    _number("started_ms"),
    _text("reason"),
    _bytes("result_digest"),
    _real("epsilon"),
    _number("last_event"),
    _of("task_id", "task.task_id"),
    Index(None, "task_id", "last_event"),
    Index(None, "phase"),
)
round_event = _table(
    "round_event",
    _number("event", key=True),
    *_round_key(),
    _number("sequence"),
    _text("from_phase"),
    _text("to_phase"),
    _text("actor"),
    _text("reason"),
    _number("at_ms"),
    _of_round(),
    UniqueConstraint(*_ROUND, "sequence"),
    changes=False,
)
check_in = _table(
    "check_in",
    _bytes("client_id", key=True),
    _bytes("request_id", key=True),
    _text("wanted"),
    _text("task_id"),
    _text("offer"),
    _number("at_ms"),
    _bytes("assignment_id"),
    _number("retry_min_ms", null=True),
    _number("retry_max_ms", null=True),
    _number("waiting"),
    _of("client_id", "client.client_id"),
    Index(None, "waiting", "task_id", "at_ms"),
)
assignment = _table(
    "assignment",
    _bytes("assignment_id", key=True),
    *_round_key(),
    _bytes("client_id"),
    _bytes("nonce"),
    _bytes("request_id"),
    _number("expires_ms"),
    _text("state"),
    _number("issued_ms"),
    _number("ended_ms"),
    _number("failure"),
    _text("reason"),
    Column("report", Text),
    _number("bytes_up"),
    _number("bytes_down"),
    _real("energy_j"),
    _of_round(),
    _of("client_id", "client.client_id"),
    UniqueConstraint(*_ROUND, "client_id"),
)
upload = _table(
    "upload",
    _bytes("upload_id", key=True),
    _bytes("assignment_id"),
    *_round_key(),
    _bytes("client_id"),
    _number("size"),
    _bytes("header"),
    _number("committed"),
    _bytes("sha256"),
    _text("state"),
    _number("begun_ms"),
    _of("assignment_id", "assignment.assignment_id"),
    UniqueConstraint("assignment_id"),
    UniqueConstraint(*_ROUND, "client_id"),
)
attempt_key = _table(
    "attempt_key",
    *_round_key(key=True),
    _bytes("value"),  # sealed
    _of_round(),
    changes=False,
)
session_record = _table(
    "session_record",
    *_round_key(key=True),
    _text("name", key=True),
    _bytes("value"),  # sealed under the attempt's key
    _of_round(),
)
model = _table(
    "model",
    _text("task_id", key=True),
    _bytes("digest", key=True),
    _bytes("parent"),  # empty for the first
    _number("round"),
    _number("size"),
    _number("created_ms"),
    _of("task_id", "task.task_id"),
    UniqueConstraint("task_id", "parent"),
    Index(None, "digest"),
    changes=False,
)
model_head = _table(
    "model_head",
    _text("task_id", key=True),
    _bytes("digest"),
    _bytes("state_digest"),
    _bytes("ledger_head"),
    ForeignKeyConstraint(["task_id", "digest"], ["model.task_id", "model.digest"]),
)
metric = _table(
    "metric",
    *_round_key(key=True),
    _text("name", key=True),
    _real("value", null=True),  # SQLite has no NaN: it is NULL
    _real("count"),
    _text("released_via"),
    _of_round(),
    changes=False,
)
idempotency = _table(
    "idempotency",
    _text("principal", key=True),
    _text("method", key=True),
    _bytes("request_id", key=True),
    _bytes("request_sha256"),
    _bytes("response"),  # sealed
    _number("at_ms"),
    changes=False,
)
outbox = _table(
    "outbox",
    _number("entry_id", key=True),
    _text("topic"),
    _bytes("payload"),
    _number("at_ms"),
    _number("done_ms"),
    Index(None, "done_ms", "entry_id"),
)
audit_log = _table(
    "audit_log",
    _number("sequence", key=True),
    _number("at_ms"),
    _text("actor"),
    _text("action"),
    _text("object"),
    _text("decision"),
    _bytes("request_id"),
    _bytes("prev_hash"),
    _bytes("hash"),
    Index(None, "action"),
    changes=False,
)


def versioned(table: str) -> bool:
    """Whether rows of that table count their changes."""
    return "row_version" in metadata.tables[table].c
