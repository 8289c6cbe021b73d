"""Who may speak to the server, and the server itself."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = [
    "CertificateRecord",
    "ClientRecord",
    "ClientState",
    "Enrolled",
    "NodeRecord",
    "ServerIdentity",
    "Statistics",
    "StoreSize",
    "TokenRecord",
]


class ClientState(enum.StrEnum):
    """Whether a client may take part."""

    PENDING = "PENDING"
    ACTIVE = "ACTIVE"
    SUSPENDED = "SUSPENDED"
    REVOKED = "REVOKED"  # for good


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """`server_id`: 16 bytes, made once with the database; `epoch`: grows with every restore."""

    server_id: bytes
    epoch: int
    created_ms: int


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A server process."""

    node_id: str
    version: str
    draining: bool
    heartbeat_ms: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts for a status page. `tenants`: that have a token, a client or a task."""

    tenants: int
    clients_active: int
    tasks_running: int
    rounds_open: int
    schema: str


@dataclass(frozen=True, slots=True)
class StoreSize:
    """Bytes on disk."""

    database_bytes: int
    wal_bytes: int


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """An enrolment token, as its hash; `attributes`: what its clients will have."""

    token_sha256: bytes = field(repr=False)
    tenant: str
    max_uses: int
    expires_ms: int
    attributes: Mapping[str, str] = field(default_factory=dict)
    created_by: str = ""
    # filled in
    uses: int = 0
    created_ms: int = 0


@dataclass(frozen=True, slots=True)
class ClientRecord:
    """A client; `identity_key`: its Ed25519 key, 32 bytes."""

    client_id: bytes
    tenant: str
    identity_key: bytes
    spiffe_id: str
    sdk_version: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    state: ClientState = ClientState.ACTIVE
    # filled in
    created_ms: int = 0
    last_seen_ms: int = 0
    certificate_expires_ms: int = 0  # of the newest that is not revoked; 0: there is none


@dataclass(frozen=True, slots=True)
class CertificateRecord:
    """A certificate that was issued; `client_id` is empty for one of a user or a server.

    `fingerprint`: SHA-256 of its DER.
    """

    serial: bytes
    fingerprint: bytes
    client_id: bytes
    not_after_ms: int
    # filled in
    revoked_ms: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Enrolled:
    """An enrolment: `reply` is what the first one answered; `repeated`: it was done before."""

    client_id: bytes
    reply: bytes = field(repr=False)
    repeated: bool
