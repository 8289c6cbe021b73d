"""The authority's issuing key, which only the root key can certify, and another in its place."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from fedcore.entropy import SystemEntropy
from fedcore.errors import AuthorityError
from fedserver.authority_files import (
    ISSUING,
    KEY_OF,
    PREVIOUS,
    ROOT,
    certificate_at,
    pem_of,
    previous_in,
    private_key_at,
)
from fedserver.certificates import issue_authority, new_key, pem_of_key
from fedserver.key_files import write_public, write_secret
from fedserver.peers import trust_domain_of

__all__ = ["ISSUING_DAYS", "certified_by_root", "rotate_issuing"]

ISSUING_DAYS: Final = 1825


def rotate_issuing(
    directory: Path, *, root_passphrase: bytes | None, passphrase: bytes | None, now: int
) -> int:
    """Puts another issuing key in the place of one, which may be lost; gives until when it is good.

    What the old one signed counts until `forget_previous`. `passphrase`: of the new key.
    Raises: as `certified_by_root`.
    """
    key = new_key()
    issuing = certified_by_root(directory, key, root_passphrase=root_passphrase, now=now)
    before = (certificate_at(directory / ISSUING), *previous_in(directory))
    write_public(directory / PREVIOUS, b"".join(map(pem_of, before)), replace=True)
    write_secret(directory / KEY_OF[ISSUING], pem_of_key(key, passphrase), replace=True)
    write_public(directory / ISSUING, pem_of(issuing), replace=True)
    return int(issuing.not_valid_after_utc.timestamp())


def certified_by_root(
    directory: Path, key: ec.EllipticCurvePrivateKey, *, root_passphrase: bytes | None, now: int
) -> x509.Certificate:
    """A certificate by which `key` may issue others.

    Raises: KeyFileError for a root key that is not here, or its passphrase; AuthorityError for
    another root's, and for a root that ends before the certificate would.
    """
    root = certificate_at(directory / ROOT)
    root_key = private_key_at(directory / KEY_OF[ROOT], root_passphrase)
    if root_key.public_key() != root.public_key():
        raise AuthorityError(
            f"{KEY_OF[ROOT]} is not the key of this authority",
            why=f"{ROOT} is of another key",
            fix="put back the root key that was made with it",
            where=str(directory),
        )
    if now + ISSUING_DAYS * 86_400 > int(root.not_valid_after_utc.timestamp()):
        raise AuthorityError(
            "the authority's root expires too soon",
            why=f"it ends at {root.not_valid_after_utc:%Y-%m-%d}, before the certificate would",
            fix="make a new authority with `fed ca init`, and let clients join it",
        )
    domain = trust_domain_of(root)
    return issue_authority(
        key,
        name=f"{domain} issuing"[-64:],
        trust_domain=domain,
        now=now,
        days=ISSUING_DAYS,
        entropy=SystemEntropy(),
        signer=(root, root_key),
    )
