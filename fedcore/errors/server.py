"""Errors of the server: what it refuses to whom, and what keeps it from serving."""

from __future__ import annotations

from fedcore.errors.base import FedcoreError

__all__ = [
    "AuditError",
    "AuthorityError",
    "BlobError",
    "ConflictError",
    "DamagedUpdateError",
    "DrainingError",
    "ForbiddenError",
    "InvalidRequestError",
    "KeyFileError",
    "LeaseLostError",
    "NotFoundError",
    "OverloadedError",
    "PhaseError",
    "RefusedError",
    "SchemaError",
    "ServerError",
    "StoreError",
    "TokenError",
    "UnauthenticatedError",
    "UploadError",
    "VersionError",
]


class RefusedError(FedcoreError, RuntimeError):
    """The server refuses a request; `retry` says when the same request may succeed.

    `retry`: the least and the most milliseconds to wait, or None: it never will.
    """

    code = "FED-2100"

    def __init__(
        self,
        what: str,
        *,
        why: str = "",
        fix: str = "",
        where: str = "",
        retry: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(what, why=why, fix=fix, where=where)
        self.retry = retry


class UnauthenticatedError(RefusedError, PermissionError):
    """The server cannot tell who sends a request."""

    code = "FED-2101"


class ForbiddenError(RefusedError, PermissionError):
    """The sender may not do that, or does not own what it asks for."""

    code = "FED-2102"


class InvalidRequestError(RefusedError, ValueError):
    """A request is malformed, or out of its bounds."""

    code = "FED-2103"


class UploadError(RefusedError, ValueError):
    """An upload is too large, damaged, or another than was begun."""

    code = "FED-2104"


class ConflictError(RefusedError, ValueError):
    """What was settled before is asked for again with other content."""

    code = "FED-2105"


class NotFoundError(RefusedError, LookupError):
    """There is nothing of that name, or nothing that the sender may see."""

    code = "FED-2106"


class PhaseError(RefusedError, RuntimeError):
    """A message comes too early or too late for its round."""

    code = "FED-2107"


class OverloadedError(RefusedError, RuntimeError):
    """The server, or a quota, has no room for a request now."""

    code = "FED-2108"


class DrainingError(RefusedError, RuntimeError):
    """The server is shutting down, or not up yet."""

    code = "FED-2109"


class VersionError(RefusedError, RuntimeError):
    """Client and server speak different versions."""

    code = "FED-2110"


class TokenError(RefusedError, PermissionError):
    """An enrolment token is unknown, used up or expired."""

    code = "FED-2111"


class ServerError(FedcoreError, RuntimeError):
    """The server cannot serve."""

    code = "FED-2200"


class StoreError(ServerError, OSError):
    """The database did not keep what it was given."""

    code = "FED-2201"


class SchemaError(ServerError):
    """The database has another schema than the program."""

    code = "FED-2202"


class BlobError(ServerError, OSError):
    """Bytes could not be stored, or are not what was stored."""

    code = "FED-2203"


class LeaseLostError(ServerError):
    """Another driver holds the lease of a task."""

    code = "FED-2204"


class AuditError(ServerError, ValueError):
    """The audit log is broken, or older than a signed head."""

    code = "FED-2205"


class KeyFileError(ServerError, PermissionError):
    """A file with a secret is missing, unreadable, or open to others."""

    code = "FED-2206"


class DamagedUpdateError(BlobError):
    """An update that was acknowledged is not what its file holds."""

    code = "FED-2208"


class AuthorityError(ServerError, ValueError):
    """The certificate authority cannot do that."""

    code = "FED-2207"
