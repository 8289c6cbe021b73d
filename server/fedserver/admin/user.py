"""Who gives a command: the profile is found once, and what is wrong with it is said before a call.

A server that refuses a certificate at the handshake can only hang up; that it has expired, and what
to do about it, is known here.
"""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from fedcore.errors import (
    ClientCertificateError,
    FedcoreError,
    JoinStringError,
    KeyFileError,
    TaskError,
)
from fedcore.toml import parse, text_of
from fedcore.wire.joining import split_address
from fedserver.profiles import PROFILE, Profile

__all__ = ["VARIABLE", "User", "profile_folder"]

VARIABLE = "FEDCORE_PROFILE"


@dataclass(frozen=True, slots=True)
class User:
    """A profile that may be used now. `server_id`: the only server it is for, or empty."""

    profile: Profile
    folder: Path
    server_id: bytes = field(default=b"")

    @classmethod
    def open(cls, folder: Path | None = None, *, now: datetime | None = None) -> User:
        """The user of a folder, by default of `profile_folder()`.

        Raises: KeyFileError for a profile that is missing, damaged or open to others;
        ClientCertificateError for one that is not valid at this time.
        """
        path = folder or profile_folder()
        if not (path / PROFILE).is_file():
            raise KeyFileError(
                "there is no profile",
                why=f"the folder has no {PROFILE}",
                fix=f"name the folder that `fed ca issue` wrote with --profile, or in {VARIABLE}",
                where=str(path),
            )
        try:
            profile = Profile.open(path)
            split_address(profile.address)
            named = parse(text_of(path / PROFILE), PROFILE).get("server_id", "")
            server_id = bytes.fromhex(str(named))
            certificate = x509.load_pem_x509_certificates(profile.certificate)[0]
            key = serialization.load_pem_private_key(profile.key, None)
        except (TaskError, JoinStringError, ValueError, TypeError) as error:
            raise _damaged(path, error) from None
        _check_times(certificate, path, now or datetime.now(UTC))
        if not hmac.compare_digest(_public(certificate), _public(key)):
            raise _damaged(path, ValueError("its key does not belong to its certificate"))
        return cls(profile, path, server_id)


def profile_folder() -> Path:
    """Where a profile is looked for when none is named: FEDCORE_PROFILE, else the user's folder."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    configuration = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(configuration) / "fed"


def _check_times(certificate: x509.Certificate, folder: Path, now: datetime) -> None:
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if first <= now <= last:
        return
    expired = now > last
    raise ClientCertificateError(
        "the profile has expired" if expired else "the profile is not valid yet",
        why=f"its certificate is valid from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC, "
        f"and it is {now:%Y-%m-%d %H:%M}",
        fix="ask the operator for a new one: `fed ca issue`"
        if expired
        else "set the clock of this machine right",
        where=str(folder),
    )


def _public(holder: object) -> bytes:
    assert hasattr(holder, "public_key")
    public: bytes = holder.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return public


def _damaged(folder: Path, error: Exception) -> KeyFileError:
    known = isinstance(error, FedcoreError)
    why = f"{error.what}: {error.why}" if known and isinstance(error, FedcoreError) else str(error)
    return KeyFileError(
        "the profile is damaged",
        why=why.splitlines()[0] if why else "it cannot be read",
        fix="make a new one with `fed ca issue`",
        where=str(folder),
    )
