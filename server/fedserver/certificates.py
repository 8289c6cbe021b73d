"""X.509 as it is used here: one kind of key, few extensions, and requests that ask for nothing.

Keys are ECDSA P-256 with SHA-256, which every TLS library knows. Of a signing request nothing
counts but its key: names, roles and lifetimes are the authority's to give. Nothing here touches a
disk.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from fedcore.entropy import Entropy
from fedcore.errors import AuthorityError, InvalidRequestError

__all__ = [
    "CLIENT_USE",
    "EARLY_S",
    "LARGEST_REQUEST",
    "SERIAL_BYTES",
    "SERVER_USE",
    "Issued",
    "alternative_names",
    "der_of",
    "is_key_of",
    "issue_authority",
    "issue_leaf",
    "key_digest",
    "new_key",
    "pem_of_key",
    "request_key",
]

CLIENT_USE: Final = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER_USE: Final = ExtendedKeyUsageOID.SERVER_AUTH
SERIAL_BYTES: Final = 16
LARGEST_REQUEST: Final = 4096
# Devices' clocks run late: a certificate is valid a little before it was made.
EARLY_S: Final = 300


@dataclass(frozen=True, slots=True)
class Issued:
    """A new certificate. `chain`: DER, its own first and the root last; `serial`: 16 bytes.

    `fingerprint`: SHA-256 of its DER. `not_after`: Unix seconds.
    """

    chain: tuple[bytes, ...]
    serial: bytes
    fingerprint: bytes
    not_after: int


def new_key() -> ec.EllipticCurvePrivateKey:
    """A key of the operating system's entropy."""
    return ec.generate_private_key(ec.SECP256R1())


def is_key_of(key: bytes, certificate: x509.Certificate) -> bool:
    """Whether a private key in PEM is the one that a certificate is for."""
    try:
        found = serialization.load_pem_private_key(key, None)
    except ValueError:
        return False
    return found.public_key() == certificate.public_key()


def pem_of_key(key: ec.EllipticCurvePrivateKey, passphrase: bytes | None = None) -> bytes:
    """PKCS #8 in PEM, encrypted if there is a passphrase."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        encryption = serialization.BestAvailableEncryption(passphrase)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


def der_of(certificate: x509.Certificate) -> bytes:
    """The certificate's bytes."""
    return certificate.public_bytes(serialization.Encoding.DER)


def request_key(signing_request: bytes) -> ec.EllipticCurvePublicKey:
    """The key in a PKCS #10 request (DER), once it is known that who sends it owns the key.

    Raises: InvalidRequestError for what is no request, another key than ECDSA P-256, or a signature
    that does not hold.
    """
    if not 0 < len(signing_request) <= LARGEST_REQUEST:
        raise _bad_request(f"it has {len(signing_request)} bytes; 1 to {LARGEST_REQUEST} are read")
    try:
        request = x509.load_der_x509_csr(signing_request)
        key = request.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
        raise _bad_request("it is no PKCS #10 request in DER, or of an unknown key") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _bad_request("its key is not of the curve P-256")
    try:
        signed = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm):
        signed = False
    if not signed:
        raise _bad_request("its signature does not hold: it was not made with its own key")
    return key


def key_digest(key: ec.EllipticCurvePublicKey) -> bytes:
    """SHA-256 of the key's SubjectPublicKeyInfo: by which an enrolment is known again."""
    return hashlib.sha256(
        key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    ).digest()


def alternative_names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    """Names and addresses under which a server is reached. Raises: AuthorityError."""
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            if not host or not host.isascii() or any(letter in host for letter in " /:@%*"):
                raise AuthorityError(
                    f"{host!r} is no host that a certificate can name",
                    why="a name of the DNS in ASCII, or an IP address, stands in a certificate",
                    fix='pass hosts like "fl.example.org" or "192.0.2.7", without a port',
                ) from None
            names.append(x509.DNSName(host))
    if not names:
        raise AuthorityError(
            "a server certificate needs a host",
            why="clients compare the name that they connect to with the certificate",
            fix="pass the names and addresses under which clients reach the server",
        )
    return names


def issue_authority(
    key: ec.EllipticCurvePrivateKey,
    *,
    name: str,
    trust_domain: str,
    now: int,
    days: int,
    entropy: Entropy,
    signer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None = None,
) -> x509.Certificate:
    """The certificate of a root, or, with a `signer`, of an authority that may sign leaves only."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer, signing_key = (signer[0].subject, signer[1]) if signer else (subject, key)
    identifier = signer[0].public_key() if signer else key.public_key()
    assert isinstance(identifier, ec.EllipticCurvePublicKey)
    usage = _usage(signs_certificates=True)
    return (
        _builder(subject, issuer, key.public_key(), now, days * 86_400, entropy)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0 if signer else 1), True)
        .add_extension(usage, True)
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")]
            ),
            False,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(identifier), False)
        .sign(signing_key, hashes.SHA256())
    )


def issue_leaf(
    key: ec.EllipticCurvePublicKey,
    *,
    name: str,
    names: Sequence[x509.GeneralName],
    use: ObjectIdentifier,
    now: int,
    lifetime_s: int,
    entropy: Entropy,
    signer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey],
) -> x509.Certificate:
    """The certificate of a client, a user or a server, for one `use` in TLS."""
    issuer_key = signer[1].public_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return (
        _builder(subject, signer[0].subject, key, now, lifetime_s, entropy)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        .add_extension(_usage(signs_certificates=False), True)
        .add_extension(x509.ExtendedKeyUsage([use]), False)
        .add_extension(x509.SubjectAlternativeName(names), False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), False)
        .sign(signer[1], hashes.SHA256())
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: int,
    lifetime_s: int,
    entropy: Entropy,
) -> x509.CertificateBuilder:
    start = datetime.datetime.fromtimestamp(now, datetime.UTC)
    serial = int.from_bytes(entropy.token(SERIAL_BYTES), "big") or 1  # zero is not allowed
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(start - datetime.timedelta(seconds=EARLY_S))
        .not_valid_after(start + datetime.timedelta(seconds=lifetime_s))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _bad_request(why: str) -> InvalidRequestError:
    return InvalidRequestError(
        "a signing request cannot be used",
        why=why,
        fix="make a key of the curve P-256, and let it sign a PKCS #10 request",
    )
