"""Two lists beside the authority's keys: the users it has named, and the certificates it disowned.

gRPC for Python offers no revocation lists, so a disowned certificate is refused after the
handshake, by whoever reads the list. Both are files of JSON lines that only ever grow, so that an
operator can read them, and `fed ca revoke` takes effect in a server that runs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedcore.errors import AuthorityError

__all__ = ["CertificateLists", "Listed"]

_ISSUED: Final = "issued.jsonl"
_REVOKED: Final = "revoked.jsonl"
_FINGERPRINT_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Listed:
    """A line: a user's certificate (`role`), or one that counts no more (`reason`).

    `fingerprint`: SHA-256 of the certificate's DER. Times are Unix seconds.
    """

    fingerprint: bytes
    name: str
    at: int
    not_after: int = 0
    role: str = ""
    reason: str = ""


class CertificateLists:
    """The lists in the authority's directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._revoked_path = os.fspath(directory / _REVOKED)  # asked for with every call
        self._revoked: frozenset[bytes] = frozenset()
        self._stamp: tuple[int, int, int] | None = None

    def note(self, issued: Listed) -> None:
        """Writes down a user's certificate, durably."""
        self._append(_ISSUED, issued)

    def revoke(self, fingerprint: bytes, *, reason: str, now: int, name: str = "") -> bool:
        """Disowns a certificate by its fingerprint; False if it was disowned before.

        Raises: AuthorityError for another length.
        """
        if len(fingerprint) != _FINGERPRINT_BYTES:
            raise AuthorityError(
                "this is no fingerprint of a certificate",
                why=f"a SHA-256 has {_FINGERPRINT_BYTES} bytes, and {len(fingerprint)} were given",
                fix="`fed ca list` shows the fingerprints of users",
            )
        if fingerprint in self.revoked():
            return False
        self._append(_REVOKED, Listed(fingerprint, name, now, reason=reason))
        return True

    def revoked(self) -> frozenset[bytes]:
        """Fingerprints that count no more; read again when the file has changed.

        2 µs otherwise. Raises: AuthorityError for a damaged list: nobody is let in by mistake.
        """
        try:
            found = os.stat(self._revoked_path)
        except FileNotFoundError:
            return frozenset()
        stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
        if stamp != self._stamp:
            self._revoked = frozenset(line.fingerprint for line in self.revocations())
            self._stamp = stamp
        return self._revoked

    def users(self) -> list[Listed]:
        """Certificates of users, the oldest first. Raises: AuthorityError for a damaged list."""
        return self._read(_ISSUED)

    def revocations(self) -> list[Listed]:
        """What was disowned, the oldest first. Raises: AuthorityError for a damaged list."""
        return self._read(_REVOKED)

    def _append(self, name: str, listed: Listed) -> None:
        line = {
            "fingerprint": listed.fingerprint.hex(),
            "name": listed.name,
            "at": listed.at,
            "not_after": listed.not_after,
            "role": listed.role,
            "reason": listed.reason,
        }
        with (self._directory / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")  # one write: two commands never mix their lines
            file.flush()
            os.fsync(file.fileno())

    def _read(self, name: str) -> list[Listed]:
        try:
            lines = (self._directory / name).read_text("utf-8").splitlines()
        except FileNotFoundError:
            return []
        try:
            return [_listed(json.loads(line)) for line in lines]
        except (ValueError, KeyError, TypeError) as error:
            raise AuthorityError(
                f"the list {name} is damaged",
                why=f"a line cannot be read ({type(error).__name__})",
                fix="restore it from its backup, or remove the line that was cut off",
                where=str(self._directory / name),
            ) from None


def _listed(line: Mapping[str, object]) -> Listed:
    return Listed(
        bytes.fromhex(str(line["fingerprint"])),
        name=str(line["name"]),
        at=int(str(line["at"])),
        not_after=int(str(line["not_after"])),
        role=str(line["role"]),
        reason=str(line["reason"]),
    )
