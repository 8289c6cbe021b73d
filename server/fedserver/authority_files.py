"""What lies in an authority's directory, read with errors that say which file is amiss."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedcore.errors import KeyFileError
from fedserver.key_files import read_secret

__all__ = [
    "ISSUING",
    "KEY_OF",
    "PREVIOUS",
    "ROOT",
    "SERVER",
    "certificate_at",
    "forget_previous",
    "pem_of",
    "previous_in",
    "private_key_at",
]

ROOT: Final = "root.pem"
ISSUING: Final = "issuing.pem"
PREVIOUS: Final = "issuing-previous.pem"
SERVER: Final = "server.pem"
KEY_OF: Final = {ROOT: "root.key.pem", ISSUING: "issuing.key.pem", SERVER: "server.key.pem"}


def pem_of(certificate: x509.Certificate) -> bytes:
    """A certificate as files hold it."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def certificate_at(path: Path) -> x509.Certificate:
    """The certificate in a file. Raises: KeyFileError."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None


def previous_in(directory: Path) -> tuple[x509.Certificate, ...]:
    """The issuing certificates of earlier keys, whose signatures still count. Raises: KeyFileError.

    There is no such file until a key was exchanged, nor after the old ones were forgotten.
    """
    path = directory / PREVIOUS
    try:
        return tuple(x509.load_pem_x509_certificates(path.read_bytes()))
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None


def forget_previous(directory: Path) -> int:
    """From the next start on nothing counts that earlier issuing keys signed; gives how many."""
    known = len(previous_in(directory))
    (directory / PREVIOUS).unlink(missing_ok=True)
    return known


def private_key_at(path: Path, passphrase: bytes | None) -> ec.EllipticCurvePrivateKey:
    """The key in a file that only its owner can read. Raises: KeyFileError."""
    pem = read_secret(path)
    try:
        key = serialization.load_pem_private_key(pem, passphrase or None)
    except (ValueError, TypeError):
        key = None  # which of the two it was would tell about the passphrase
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise KeyFileError(
            f"{path.name} cannot be opened",
            why="it is no key of a curve, or the passphrase is wrong or missing",
            fix="give the passphrase that `fed ca init` was given, or none if there was none",
            where=str(path),
        )
    return key


def _unreadable(path: Path, error: OSError | ValueError) -> KeyFileError:
    reason = error.strerror if isinstance(error, OSError) else None
    return KeyFileError(
        f"{path.name} cannot be read",
        why=reason.lower() if reason else "it is no certificate in PEM",
        fix="name the directory that `fed ca init` made, or restore it from its backup",
        where=str(path),
    )
