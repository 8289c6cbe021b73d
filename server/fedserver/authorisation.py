"""Who may call what: one row for every RPC, and nothing that has no row.

A row says which roles may call, and whether the request carries the caller's signature. Whether an
object belongs to the caller is decided where the object is known: every method of the federation
and of the store takes the caller, or its tenant, and answers `NotFoundError` for what is another's.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from fedcore.errors import ForbiddenError, ServerError

__all__ = [
    "ANYONE",
    "CLIENT",
    "OPERATORS",
    "PERMISSIONS",
    "READERS",
    "ROLES",
    "Caller",
    "Permission",
    "authorise",
    "permission_of",
    "same_key",
]

ROLES: frozenset[str] = frozenset(
    {"client", "viewer", "researcher", "operator", "auditor", "admin"}
)

CLIENT: frozenset[str] = frozenset({"client"})
OPERATORS: frozenset[str] = frozenset({"operator", "admin"})
READERS: frozenset[str] = ROLES - CLIENT
ANYONE: frozenset[str] = frozenset({"anonymous"})


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request, as its certificate says it and the store confirms it.

    `kind`: "client", "user" or "anonymous" (only `EnrolmentService`). `id`: of a client 16 bytes,
    else empty. `name`: of a user, or the hexadecimal id of a client. `role`: one of `ROLES`.
    `identity_key`: the Ed25519 key, 32 bytes, that signs the caller's envelopes. `fingerprint`:
    SHA-256 of the certificate, which is in PEM. `address`: whence it calls, without the port.
    `passed`: the tasks for which other servers have passed the call on, and those of the servers
    that have a task for it whose turn it is not.

    >>> Caller("client", id=bytes(16), name="00" * 16, tenant="default", role="client").principal
    'client:default/00000000000000000000000000000000'
    """

    kind: Literal["client", "user", "anonymous"]
    id: bytes = b""
    name: str = ""
    tenant: str = ""
    role: str = "anonymous"
    identity_key: bytes = field(default=b"", repr=False)
    fingerprint: bytes = field(default=b"", repr=False)
    address: str = ""
    certificate: bytes = field(default=b"", repr=False)
    passed: frozenset[str] = frozenset()

    @property
    def principal(self) -> str:
        """One name for the caller, for the audit log and for repeated requests."""
        return f"{self.kind}:{self.tenant}/{self.name}" if self.name else self.kind


@dataclass(frozen=True, slots=True)
class Permission:
    """What an RPC takes to be called.

    `roles`: who may. `envelope`: the field of the request that holds its signed payload, "" where
    the request is not signed. `bulk`: it moves the bytes of a model, so that it is bounded by bytes
    and not by its rate. `waits`: it may be held until something happens. `begun`: it goes on with
    work that was begun, so it is refused last. `fills`: it takes room on the server's disk.
    """

    roles: frozenset[str]
    envelope: str = ""
    bulk: bool = False
    waits: bool = False
    begun: bool = False
    fills: bool = False


_RESEARCH = frozenset({"researcher", "admin"})
_EVERYBODY = CLIENT | READERS

PERMISSIONS: Mapping[str, Permission] = MappingProxyType(
    {
        f"/fedcore.v1.{service}/{method}": permission
        for service, methods in {
            "EnrolmentService": {
                "Anchors": Permission(ANYONE),
                "Enrol": Permission(ANYONE),
                "Reissue": Permission(ANYONE),
            },
            "ClientService": {
                "CheckIn": Permission(CLIENT, waits=True, fills=True),
                "Heartbeat": Permission(CLIENT, begun=True),
                "GetTask": Permission(CLIENT, begun=True),
                "Renew": Permission(CLIENT),
            },
            "RoundService": {
                "Next": Permission(CLIENT, waits=True, begun=True),
                "Report": Permission(CLIENT, envelope="report", begun=True),
            },
            "SecAggService": {
                "Advertise": Permission(CLIENT, envelope="message", begun=True),
                "Share": Permission(CLIENT, envelope="message", begun=True),
                "Complain": Permission(CLIENT, envelope="message", begun=True),
                "Confirm": Permission(CLIENT, envelope="message", begun=True),
                "Answer": Permission(CLIENT, envelope="message", begun=True),
            },
            "UploadService": {
                "Begin": Permission(CLIENT, begun=True, fills=True),
                "PutChunk": Permission(CLIENT, bulk=True, begun=True, fills=True),
                "Commit": Permission(CLIENT, envelope="seal", begun=True),
            },
            "ModelUploadService": {
                "BeginModel": Permission(_RESEARCH, fills=True),
                "PutModelChunk": Permission(_RESEARCH, bulk=True, fills=True),
                "CommitModel": Permission(_RESEARCH),
            },
            "ModelService": {
                "Describe": Permission(_EVERYBODY, begun=True),
                "GetChunk": Permission(_EVERYBODY, bulk=True, begun=True),
            },
            "AdminService": {
                "GetStatus": Permission(READERS),
                "Drain": Permission(OPERATORS, envelope="drain"),
                "CreateToken": Permission(OPERATORS, envelope="grant"),
                "ListClients": Permission(OPERATORS | {"auditor"}),
                "RevokeClient": Permission(OPERATORS, envelope="revocation"),
                "SubmitTask": Permission(_RESEARCH, envelope="submission", fills=True),
                "CancelTask": Permission(_RESEARCH | {"operator"}, envelope="cancellation"),
                "ListTasks": Permission(READERS),
                "ShowTask": Permission(READERS),
                "ListRounds": Permission(READERS, waits=True),
                "ShowRound": Permission(READERS),
                "ListModels": Permission(READERS),
                "ShowPrivacy": Permission(READERS),
                "ExportAudit": Permission(frozenset({"auditor", "admin"})),
            },
        }.items()
        for method, permission in methods.items()
    }
)


def permission_of(method: str) -> Permission:
    """The row of a method, named like "/fedcore.v1.ClientService/CheckIn".

    Raises: ServerError for one that has none, so that it is never served.
    """
    if method not in PERMISSIONS:
        raise ServerError(
            f"{method} has no permission",
            why="what nobody is allowed to call is not served",
            fix="add its row to PERMISSIONS in fedserver/authorisation.py",
        )
    return PERMISSIONS[method]


def authorise(caller: Caller, method: str) -> None:
    """Returns if the caller's role may call the method. Raises: ForbiddenError otherwise."""
    roles = permission_of(method).roles
    if caller.role not in roles:
        raise ForbiddenError(
            f"the role {caller.role!r} may not call {method.rpartition('/')[2]}",
            why=f"it is for {_listed(roles)}",
            fix="ask an administrator of the federation for another profile",
        )


def same_key(key: bytes, other: bytes) -> bool:
    """Whether two keys, digests or fingerprints are equal, in a time that tells nothing of them."""
    return hmac.compare_digest(key, other)


def _listed(roles: Iterable[str]) -> str:
    return ", ".join(sorted(roles))
