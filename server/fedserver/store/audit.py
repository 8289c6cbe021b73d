"""The audit log as evidence: a chain of hashes over its rows, and heads that are signed.

An entry's hash covers its own canonical JSON and the hash before it, so that none can be changed,
taken out or put in without all later ones changing. What a chain cannot show, that its end was cut
off, a head shows that was signed and kept elsewhere.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from collections.abc import Iterable

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedcore.errors import AuditError
from fedserver.store.records import AuditEntry, AuditHead, AuditRecord

__all__ = [
    "EMPTY",
    "canonical",
    "chained",
    "check_head",
    "read_head",
    "sign_head",
    "verify",
]

EMPTY = AuditHead(0, bytes(32))

_ENTRY = b"fedcore/audit/entry/1"
_HEAD = b"fedcore/audit/head/1"
_SIGNED = struct.Struct(">16sQ32s")  # the server, the sequence, the hash
_SIGNATURE_BYTES = 64


def canonical(record: AuditRecord) -> bytes:
    """The entry as `fed audit export` writes it: JSON with sorted keys, its hashes with it."""
    fields = _fields(record.sequence, record.at_ms, record.entry)
    return _json({**fields, "hash": record.hash.hex(), "prev_hash": record.prev_hash.hex()})


def chained(head: AuditHead, entry: AuditEntry, *, at_ms: int) -> AuditRecord:
    """The entry as the next one after `head`.

    >>> first = chained(EMPTY, AuditEntry("user:ada", "task.submit", "task:1"), at_ms=1000)
    >>> first.sequence, verify([first]) == AuditHead(1, first.hash)
    (1, True)
    """
    sequence = head.sequence + 1
    row = _json(_fields(sequence, at_ms, entry))
    digest = hashlib.sha256(_ENTRY + head.hash + row).digest()
    return AuditRecord(sequence, at_ms, entry, head.hash, digest)


def verify(records: Iterable[AuditRecord], *, after: AuditHead = EMPTY) -> AuditHead:
    """The head of the chain that `records` continue from `after`. Raises: AuditError."""
    head = after
    for record in records:
        expected = chained(head, record.entry, at_ms=record.at_ms)
        if record.sequence != expected.sequence:
            raise AuditError(
                f"the audit log goes from entry {head.sequence} to {record.sequence}",
                why="entries were taken out, or put in",
                fix="compare with an export of the log, and restore a backup",
            )
        same = hmac.compare_digest(record.prev_hash, head.hash)
        if not (same and hmac.compare_digest(record.hash, expected.hash)):
            raise AuditError(
                f"entry {record.sequence} of the audit log is not what was written",
                why="its hash, or that of the entry before it, does not fit what it says",
                fix="compare with an export of the log, and restore a backup",
            )
        head = AuditHead(record.sequence, record.hash)
    return head


def sign_head(head: AuditHead, server_id: bytes, signer: Ed25519PrivateKey) -> bytes:
    """The head, signed for that server: 120 bytes, to be kept outside the database."""
    body = _SIGNED.pack(server_id, head.sequence, head.hash)
    return body + signer.sign(_HEAD + body)


def read_head(signed: bytes, server_id: bytes, *keys: Ed25519PublicKey) -> AuditHead:
    """The head that one of the keys signed.

    Raises: AuditError for another server's, and for one that was signed by another key.
    """
    if len(signed) != _SIGNED.size + _SIGNATURE_BYTES:
        raise _not_a_head(f"it has {len(signed)} bytes")
    body = signed[: _SIGNED.size]
    if not any(_has_signed(key, signed[_SIGNED.size :], _HEAD + body) for key in keys):
        raise _not_a_head("its signature is not by the audit signer")
    owner, sequence, digest = _SIGNED.unpack(body)
    if not hmac.compare_digest(owner, server_id):
        raise _not_a_head("it was signed for another server")
    return AuditHead(sequence, digest)


def _has_signed(key: Ed25519PublicKey, signature: bytes, data: bytes) -> bool:
    try:
        key.verify(signature, data)
    except InvalidSignature:
        return False
    return True


def check_head(signed: AuditHead, found: AuditHead, at_signed: AuditRecord | None) -> None:
    """Refuses a log that was rolled back behind a signed head (W11).

    `found`: the log's own head; `at_signed`: its entry of the signed head's sequence. Raises:
    AuditError.
    """
    if found.sequence < signed.sequence:
        raise AuditError(
            f"the audit log ends at entry {found.sequence}, and entry {signed.sequence} was signed",
            why="the database is older than what was done with it: it was restored or cut",
            fix="restore a newer backup, or accept the loss with --accept-rollback",
        )
    digest = at_signed.hash if at_signed is not None else EMPTY.hash
    if not hmac.compare_digest(digest, signed.hash):
        raise AuditError(
            f"entry {signed.sequence} of the audit log is another than was signed",
            why="the log was written anew, or belongs to another history of this server",
            fix="restore a backup of this history, or accept the loss with --accept-rollback",
        )


def _fields(sequence: int, at_ms: int, entry: AuditEntry) -> dict[str, object]:
    return {
        "action": entry.action,
        "actor": entry.actor,
        "at_ms": at_ms,
        "decision": entry.decision,
        "object": entry.object,
        "request_id": entry.request_id.hex(),
        "sequence": sequence,
    }


def _json(fields: dict[str, object]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _not_a_head(why: str) -> AuditError:
    return AuditError(
        "that is no signed head of the audit log",
        why=why,
        fix="give the newest head that this server wrote, unchanged",
    )
