"""What the tests of certificates share: one authority, and requests as clients make them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedcore.wire.envelope import proof_statement
from fedserver.authority import Authority
from fedserver.certificates import new_key
from tests.server.authority.parties import (
    NOW,
    TOKEN,
    Request,
    RequestOf,
)


@pytest.fixture(scope="session")
def now() -> int:
    """The second at which the tests' authority was made."""
    return NOW


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """A new authority of example.org."""
    return Authority.create(tmp_path / "ca", trust_domain="example.org", now=NOW)


@pytest.fixture(scope="session")
def client_key() -> ec.EllipticCurvePrivateKey:
    return new_key()


@pytest.fixture(scope="session")
def request_of() -> Callable[..., bytes]:
    """Makes a signing request (DER) of a key, with whatever extensions it is to ask for."""

    def make(key: ec.EllipticCurvePrivateKey, *extensions: x509.ExtensionType) -> bytes:
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "root of all")])
        builder = x509.CertificateSigningRequestBuilder().subject_name(name)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=True)
        request = builder.sign(key, hashes.SHA256())
        return request.public_bytes(serialization.Encoding.DER)

    return make


@pytest.fixture
def request_for(request_of: RequestOf, authority: Authority) -> Callable[..., Request]:
    """A client's request; `fields` replace what it says."""

    def make(identity: Ed25519PrivateKey | None = None, **fields: Any) -> Request:
        identity = identity or Ed25519PrivateKey.generate()
        request = Request(
            signing_request=request_of(new_key()),
            token=TOKEN,
            identity_key=identity.public_key().public_bytes_raw(),
            sdk_version="1.3.9",
            attributes={"ward": "3"},
        )
        request.identity_proof = identity.sign(
            proof_statement(request.signing_request, authority.root)
        )
        request.MergeFrom(Request(**fields))
        return request

    return make
