"""What a deployment keeps as evidence of itself, read as a stranger would read it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedcore.v1 import admin_service_pb2
from fedserver.key_files import AUDIT_SIGNER, load_key
from fedserver.store.audit import canonical, check_head, read_head, verify
from fedserver.store.records import AuditEntry, AuditRecord
from tests.chaos.deployment import Deployment

__all__ = ["audited", "transitions_of"]


def audited(deployment: Deployment) -> Counter[str]:
    """How often each action stands in the audit log, whose chain and signed head hold."""
    entries = deployment.admin.audit()
    records = [_record(entry) for entry in entries]
    head = verify(records)
    assert head.sequence == len(records)
    page = deployment.admin.ask("ExportAudit", admin_service_pb2.ExportAuditRequest(limit=1))
    assert page.entries[0] == canonical(records[0])
    status = deployment.admin.ask("GetStatus", admin_service_pb2.GetStatusRequest())
    signer = Ed25519PrivateKey.from_private_bytes(load_key(deployment.authority / AUDIT_SIGNER))
    signed = read_head(page.head, status.server_id, signer.public_key())
    at_signed = records[signed.sequence - 1] if signed.sequence else None
    check_head(signed, head, at_signed)
    return Counter(entry["action"] for entry in entries)


def transitions_of(deployment: Deployment, task_id: str) -> Counter[str]:
    """How often the rounds of a task entered each phase, by the name of the audit log's action."""
    return Counter(
        f"round.{transition.to_phase.lower()}"
        for entry in deployment.admin.rounds(task_id)
        for transition in deployment.admin.round(entry.round).transitions
    )


def _record(entry: dict[str, Any]) -> AuditRecord:
    return AuditRecord(
        entry["sequence"],
        entry["at_ms"],
        AuditEntry(
            entry["actor"],
            entry["action"],
            entry["object"],
            decision=entry["decision"],
            request_id=bytes.fromhex(entry["request_id"]),
        ),
        bytes.fromhex(entry["prev_hash"]),
        bytes.fromhex(entry["hash"]),
    )
