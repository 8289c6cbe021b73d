"""What the store keeps, as values: the rows that callers give and get, without a database in sight.

Ids are bytes, except a task's, which is text; digests are SHA-256, 32 bytes; times are milliseconds
of UTC on the database's clock. A field with a default under "filled in" is set by the store, and
ignored where a caller gives the record.
"""

from __future__ import annotations

from fedserver.store.records.acts import (
    AuditEntry,
    AuditHead,
    AuditRecord,
    Idempotency,
    Stored,
)
from fedserver.store.records.parties import (
    CertificateRecord,
    ClientRecord,
    ClientState,
    Enrolled,
    NodeRecord,
    ServerIdentity,
    Statistics,
    StoreSize,
    TokenRecord,
)
from fedserver.store.records.results import (
    HeadRecord,
    MetricRecord,
    ModelRecord,
    OutboxEntry,
    OutboxMessage,
)
from fedserver.store.records.rounds import (
    EARLIER_EPOCHS,
    ENDED,
    EPOCH_BEGUN,
    NOT_NOTED,
    OPEN,
    RESTORED,
    RESTORED_OR_BEGUN,
    AssignmentRecord,
    AssignmentReport,
    AssignmentState,
    CheckInRecord,
    EventRecord,
    Lease,
    RoundRecord,
    RoundRef,
    RoundsPage,
    TaskRecord,
    TaskState,
    Transition,
    UploadRecord,
    UploadState,
)

__all__ = [
    "EARLIER_EPOCHS",
    "ENDED",
    "EPOCH_BEGUN",
    "NOT_NOTED",
    "OPEN",
    "RESTORED",
    "RESTORED_OR_BEGUN",
    "AssignmentRecord",
    "AssignmentReport",
    "AssignmentState",
    "AuditEntry",
    "AuditHead",
    "AuditRecord",
    "CertificateRecord",
    "CheckInRecord",
    "ClientRecord",
    "ClientState",
    "Enrolled",
    "EventRecord",
    "HeadRecord",
    "Idempotency",
    "Lease",
    "MetricRecord",
    "ModelRecord",
    "NodeRecord",
    "OutboxEntry",
    "OutboxMessage",
    "RoundRecord",
    "RoundRef",
    "RoundsPage",
    "ServerIdentity",
    "Statistics",
    "StoreSize",
    "Stored",
    "TaskRecord",
    "TaskState",
    "TokenRecord",
    "Transition",
    "UploadRecord",
    "UploadState",
]
