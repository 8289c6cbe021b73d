"""What goes with a mutation, and what the audit log keeps of it."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = [
    "AuditEntry",
    "AuditHead",
    "AuditRecord",
    "Idempotency",
    "Stored",
]


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """An act to be written into the audit log, in the transaction that does it.

    `actor`: who, like "user:ada" or "client:<hex>"; `action`: like "task.submit"; `object`: on
    what. None of them may hold a payload or a secret.
    """

    actor: str
    action: str
    object: str
    decision: str = "allowed"
    request_id: bytes = b""


@dataclass(frozen=True, slots=True)
class Idempotency:
    """What makes a mutation happen once: asked again, it gives the stored answer.

    `request_sha256`: of the whole request; another one under the same key is a ConflictError.
    `response`: what this call will answer, if it is the first; it is stored sealed.
    """

    principal: str
    method: str
    request_id: bytes
    request_sha256: bytes
    response: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Stored:
    """The answer to a mutation; `repeated`: it was done before, and now nothing was changed."""

    response: bytes = field(repr=False)
    repeated: bool


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """An entry of the audit log, chained to the one before: see fedserver/store/audit.py."""

    sequence: int
    at_ms: int
    entry: AuditEntry
    prev_hash: bytes
    hash: bytes


@dataclass(frozen=True, slots=True)
class AuditHead:
    """The newest entry's place and hash; sequence 0 and 32 zero bytes for an empty log."""

    sequence: int
    hash: bytes
