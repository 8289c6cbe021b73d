"""Rows as records: the one place that knows how a record stands in its table."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Protocol

from fedserver.store.records import (
    NOT_NOTED,
    RESTORED_OR_BEGUN,
    AssignmentRecord,
    AssignmentReport,
    AssignmentState,
    AuditEntry,
    AuditRecord,
    CertificateRecord,
    CheckInRecord,
    ClientRecord,
    ClientState,
    EventRecord,
    HeadRecord,
    Lease,
    MetricRecord,
    ModelRecord,
    RoundRecord,
    RoundRef,
    TaskRecord,
    TaskState,
    TokenRecord,
    UploadRecord,
    UploadState,
)

__all__ = [
    "Row",
    "as_json",
    "assignment_of",
    "audit_of",
    "certificate_of",
    "check_in_of",
    "client_of",
    "event_of",
    "head_of",
    "lease_of",
    "metric_of",
    "model_of",
    "ref_of",
    "report_text",
    "round_of",
    "task_of",
    "token_of",
    "upload_of",
]


class Row(Protocol):
    """What drivers and SQLAlchemy give for a row."""

    def __getitem__(self, name: str, /) -> Any: ...


def as_json(value: Mapping[str, object]) -> str:
    """The one text of a JSON object, as it stands in a column.

    >>> as_json({"b": 1, "a": [True, None]})
    '{"a":[true,null],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def ref_of(row: Row) -> RoundRef:
    """The attempt that a row belongs to."""
    return RoundRef(row["task_id"], row["round"], row["attempt"])


def token_of(row: Row) -> TokenRecord:
    """A row of `enrolment_token`."""
    return TokenRecord(
        token_sha256=row["token_sha256"],
        tenant=row["tenant"],
        max_uses=row["max_uses"],
        expires_ms=row["expires_ms"],
        attributes=json.loads(row["attributes"]),
        created_by=row["created_by"],
        uses=row["uses"],
        created_ms=row["created_ms"],
    )


def client_of(row: Row) -> ClientRecord:
    """Of a row that has `certificate_expires_ms` beside its own columns."""
    return ClientRecord(
        client_id=row["client_id"],
        tenant=row["tenant"],
        identity_key=row["identity_key"],
        spiffe_id=row["spiffe_id"],
        sdk_version=row["sdk_version"],
        attributes=json.loads(row["attributes"]),
        state=ClientState(row["state"]),
        created_ms=row["created_ms"],
        last_seen_ms=row["last_seen_ms"],
        certificate_expires_ms=row["certificate_expires_ms"],
    )


def certificate_of(row: Row) -> CertificateRecord:
    """A row of `certificate`."""
    return CertificateRecord(
        serial=row["serial"],
        fingerprint=row["fingerprint"],
        client_id=row["client_id"],
        not_after_ms=row["not_after_ms"],
        revoked_ms=row["revoked_ms"],
        reason=row["reason"],
    )


def task_of(row: Row) -> TaskRecord:
    """A row of `task`."""
    return TaskRecord(
        task_id=row["task_id"],
        tenant=row["tenant"],
        name=row["name"],
        spec=row["spec"],
        digest=row["digest"],
        author_key=row["author_key"],
        signature=row["signature"],
        rounds=row["rounds"],
        submitted_by=row["submitted_by"],
        state=TaskState(row["state"]),
        reason=row["reason"],
        submitted_ms=row["submitted_ms"],
        rounds_completed=row["rounds_completed"],
    )


def lease_of(row: Row) -> Lease:
    """A row of `task_lease`."""
    return Lease(row["task_id"], row["owner"], row["token"], row["expires_ms"], row["attempts"])


def round_of(row: Row) -> RoundRecord:
    """Of a row that has the sums over assignments and uploads beside its own columns."""
    unsaid = row["reason"] == RESTORED_OR_BEGUN and not row["epsilon"]
    return RoundRecord(
        ref=ref_of(row),
        phase=row["phase"],
        sequence=row["sequence"],
        state=json.loads(row["state"]),
        base_model=row["base_model"],
        deadline_ms=row["deadline_ms"],
        since_ms=row["since_ms"],
        started_ms=row["started_ms"],
        reason=row["reason"],
        result_digest=row["result_digest"],
        epsilon=NOT_NOTED if unsaid else row["epsilon"],
        last_event=row["last_event"],
        assigned=row["assigned"],
        uploaded=row["uploaded"],
        bytes_up=int(row["bytes_up"]),  # PostgreSQL sums whole numbers as decimal ones
    )


def event_of(row: Row) -> EventRecord:
    """A row of `round_event`."""
    return EventRecord(
        event=row["event"],
        ref=ref_of(row),
        sequence=row["sequence"],
        from_phase=row["from_phase"],
        to_phase=row["to_phase"],
        actor=row["actor"],
        reason=row["reason"],
        at_ms=row["at_ms"],
    )


def check_in_of(row: Row) -> CheckInRecord:
    """A row of `check_in`."""
    least, most = row["retry_min_ms"], row["retry_max_ms"]
    return CheckInRecord(
        client_id=row["client_id"],
        request_id=row["request_id"],
        wanted=row["wanted"],
        task_id=row["task_id"],
        offer=json.loads(row["offer"]),
        at_ms=row["at_ms"],
        assignment_id=row["assignment_id"],
        retry=None if least is None else (least, most),
    )


def assignment_of(row: Row) -> AssignmentRecord:
    """A row of `assignment`."""
    return AssignmentRecord(
        assignment_id=row["assignment_id"],
        ref=ref_of(row),
        client_id=row["client_id"],
        nonce=row["nonce"],
        request_id=row["request_id"],
        expires_ms=row["expires_ms"],
        state=AssignmentState(row["state"]),
        issued_ms=row["issued_ms"],
        ended_ms=row["ended_ms"],
        failure=row["failure"],
        reason=row["reason"],
        report=AssignmentReport(**json.loads(row["report"])) if row["report"] else None,
    )


def report_text(report: AssignmentReport) -> str:
    """As `assignment_of` reads it."""
    return as_json(asdict(report))


def upload_of(row: Row) -> UploadRecord:
    """A row of `upload`."""
    return UploadRecord(
        upload_id=row["upload_id"],
        assignment_id=row["assignment_id"],
        ref=ref_of(row),
        client_id=row["client_id"],
        size=row["size"],
        header=row["header"],
        committed=row["committed"],
        sha256=row["sha256"],
        state=UploadState(row["state"]),
        begun_ms=row["begun_ms"],
    )


def model_of(row: Row) -> ModelRecord:
    """A row of `model`."""
    return ModelRecord(
        digest=row["digest"],
        task_id=row["task_id"],
        parent=row["parent"],
        round=row["round"],
        size=row["size"],
        created_ms=row["created_ms"],
    )


def head_of(row: Row) -> HeadRecord:
    """Of a row of `model_head` that has the model's `round` beside its own columns."""
    return HeadRecord(
        task_id=row["task_id"],
        digest=row["digest"],
        round=row["round"],
        state_digest=row["state_digest"],
        ledger_head=row["ledger_head"],
    )


def metric_of(row: Row) -> MetricRecord:
    """A row of `metric`."""
    value = row["value"]
    return MetricRecord(math.nan if value is None else value, row["count"], row["released_via"])


def audit_of(row: Row) -> AuditRecord:
    """A row of `audit_log`."""
    entry = AuditEntry(
        row["actor"], row["action"], row["object"], row["decision"], row["request_id"]
    )
    return AuditRecord(row["sequence"], row["at_ms"], entry, row["prev_hash"], row["hash"])
