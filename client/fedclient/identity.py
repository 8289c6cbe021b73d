"""Who this device is: its keys, which never leave it, and what the server certified of them.

| file in `identity/` | holds | mode |
|---|---|---|
| `device.key` | 32 bytes, under which the state is sealed | 0400 |
| `signing.key` | the Ed25519 key that signs its messages, 32 bytes | 0400 |
| `tls.pem` | the ECDSA P-256 key and the certificates that identify its connections | 0400 |
| `membership.json` | what it is called where, and whom it trusts; public | 0600 |
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedclient.files import make_folder, read_secret, write_file
from fedcore.entropy import SystemEntropy
from fedcore.errors import ClientCertificateError, ClientStateError, FedcoreError
from fedcore.secagg import Certificate, Identity

__all__ = [
    "DeviceIdentity",
    "Membership",
    "Tls",
    "authority_pem",
    "now_utc",
    "secret_file",
    "signing_request",
    "tls_key",
]

_SECRET: Final = 0o400
_RENEWED_AT = 2 / 3  # of a certificate's life


@dataclass(frozen=True, slots=True)
class Membership:
    """What enrolment gave, all of it public.

    `address`: of the services; `enrolment`: of the port that takes tokens. `authority`: the root
    certificate, DER. `registrars`: Ed25519 keys that vouch for other clients; `certificate`: the
    registrar's, of this client's own signing key.
    """

    name: str
    client_id: bytes
    tenant: str
    server_id: bytes
    address: str
    enrolment: str
    authority: bytes
    registrars: tuple[bytes, ...]
    certificate: bytes

    def encode(self) -> bytes:
        """JSON, with bytes as hexadecimal digits."""
        return (json.dumps(asdict(self), indent=2, default=bytes.hex) + "\n").encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """What `encode` gave. Raises: ClientStateError."""
        try:
            found = json.loads(data)
            values = {field.name: found[field.name] for field in fields(cls)}
            for name in ("client_id", "server_id", "authority", "certificate"):
                values[name] = bytes.fromhex(values[name])
            values["registrars"] = tuple(bytes.fromhex(key) for key in values["registrars"])
            return cls(**values)
        except (ValueError, KeyError, TypeError) as error:
            raise ClientStateError(
                "membership.json cannot be read",
                why=f"it is damaged, or of another release: {error}",
                fix="restore the folder as it was, or join again in an empty one",
            ) from error


@dataclass(frozen=True, slots=True)
class Tls:
    """What identifies a connection: the private key and the certificates, as PEM."""

    key: bytes
    chain: bytes

    def __repr__(self) -> str:
        return "Tls()"

    @property
    def certificate(self) -> x509.Certificate:
        """The device's own certificate. Raises: ClientStateError if there is none."""
        try:
            return x509.load_pem_x509_certificates(self.chain)[0]
        except ValueError as error:
            raise ClientStateError(
                "tls.pem holds no certificate",
                why="the file is damaged",
                fix="restore the folder as it was, or join again in an empty one",
            ) from error

    def renewal_due(self, now: datetime) -> bool:
        """Whether two thirds of the certificate's life are over."""
        found = self.certificate
        begin, end = found.not_valid_before_utc, found.not_valid_after_utc
        return now >= begin + (end - begin) * _RENEWED_AT

    def expired(self, now: datetime) -> bool:
        """Whether no server takes the certificate any more."""
        return now >= self.certificate.not_valid_after_utc

    @classmethod
    def certified(cls, key: ec.EllipticCurvePrivateKey, chain: list[bytes]) -> Tls:
        """The key with its certificates, DER, its own first.

        Raises: ClientCertificateError if they are of another key.
        """
        try:
            certificates = [x509.load_der_x509_certificate(der) for der in chain]
        except ValueError:
            certificates = []
        if not certificates or certificates[0].public_key() != key.public_key():
            raise ClientCertificateError(
                "the server certified another key",
                why="the first certificate it sent is not of the key that was asked for",
                fix="report it to the operator; nothing was changed here",
            )
        pem = serialization.Encoding.PEM
        return cls(_key_pem(key), b"".join(found.public_bytes(pem) for found in certificates))


class DeviceIdentity:
    """The identity in a folder, as it was enrolled. Raises: ClientStateError if there is none."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        if not (folder / "membership.json").exists():
            raise ClientStateError(
                "this folder belongs to no member of a federation",
                why="it holds no membership.json",
                fix="fed client join <join string> first, with the same folder",
            )
        self.membership = Membership.decode((folder / "membership.json").read_bytes())
        self.device_key: Final = read_secret(folder / "device.key")
        self.tls = _tls_of(read_secret(folder / "tls.pem"))
        self.signing = self._signing(self.membership)

    @classmethod
    def enrolled(cls, folder: Path, membership: Membership, tls: Tls) -> DeviceIdentity:
        """Keeps what enrolment gave. The membership is written last: with it the device is one."""
        secret_file(folder, "device.key")
        write_file(folder / "tls.pem", tls.key + tls.chain, mode=_SECRET)
        write_file(folder / "membership.json", membership.encode(), mode=0o600)
        return cls(folder)

    @property
    def tls_file(self) -> Path:
        """Where the key and the certificates of connections are, for what reads files."""
        return self._folder / "tls.pem"

    def renewed(self, tls: Tls, certificate: bytes) -> None:
        """Takes new certificates in the place of the old ones.

        Raises: ClientCertificateError if they are of another client.
        """
        membership = replace(self.membership, certificate=certificate)
        signing = self._signing(membership)
        write_file(self._folder / "tls.pem", tls.key + tls.chain, mode=_SECRET)
        write_file(self._folder / "membership.json", membership.encode(), mode=0o600)
        self.membership, self.tls, self.signing = membership, tls, signing

    def _signing(self, membership: Membership) -> Identity:
        private = read_secret(self._folder / "signing.key")
        try:
            certificate = Certificate.decode(membership.certificate)
            identity = Identity.restore(private, certificate)
        except FedcoreError as error:
            raise ClientCertificateError(
                "the registrar certified another key",
                why=error.what,
                fix="join again with a new join string",
            ) from error
        if identity.id != membership.client_id:
            raise ClientCertificateError(
                "the registrar certified another client",
                why="the certificate of the signing key bears another name",
                fix="report it to the operator, and join again",
            )
        return identity

    def __repr__(self) -> str:
        return f"DeviceIdentity({self.membership.client_id.hex()})"


def secret_file(folder: Path, name: str) -> bytes:
    """The 32 secret bytes of a file, drawn and written the first time. Raises: ClientStateError."""
    make_folder(folder)
    path = folder / name
    if not path.exists():
        write_file(path, SystemEntropy().token(32), mode=_SECRET)
    return read_secret(path)


def tls_key(folder: Path) -> ec.EllipticCurvePrivateKey:
    """The P-256 key of a first enrolment, kept before it is asked for: the same at a second try."""
    make_folder(folder)
    path = folder / "tls.key.pending"
    if not path.exists():
        write_file(path, _key_pem(ec.generate_private_key(ec.SECP256R1())), mode=_SECRET)
    key = serialization.load_pem_private_key(read_secret(path), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def signing_request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """DER of a PKCS #10 request; the server names the subject itself."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    request = builder.sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


def authority_pem(der: bytes) -> bytes:
    """A root certificate as PEM. Raises: ClientStateError if it is none."""
    try:
        certificate = x509.load_der_x509_certificate(der)
    except ValueError as error:
        raise ClientStateError(
            "the authority's certificate cannot be read",
            why="its bytes are no certificate",
            fix="ask the operator for a new join string",
        ) from error
    return certificate.public_bytes(serialization.Encoding.PEM)


def now_utc() -> datetime:
    """The present, by which certificates are judged."""
    return datetime.now(UTC)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _tls_of(pem: bytes) -> Tls:
    end = b"-----END PRIVATE KEY-----\n"
    key, found, chain = pem.partition(end)
    if not found:
        raise ClientStateError(
            "tls.pem holds no key",
            why="the file is damaged",
            fix="restore the folder as it was, or join again in an empty one",
        )
    return Tls(key + end, chain)
