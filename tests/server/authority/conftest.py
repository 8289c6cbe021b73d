"""What the tests of certificates share: one authority, and requests as clients make them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedserver.authority import Authority
from fedserver.certificates import new_key

NOW = 1_800_000_000


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
