"""Who this device is: its keys, which never leave it, and what the server certified of them.

| file in `identity/` | holds | mode |
|---|---|---|
| `device.key` | 32 bytes, under which the state is sealed | 0400 |
| `signing.key` | the Ed25519 key that signs its messages, 32 bytes | 0400 |
| `tls.pem` | the ECDSA P-256 key and the certificates that identify its connections | 0400 |
| `membership.json` | what it is called where, and whom it trusts; public | 0600 |

A device that waits reads no certificate and signs nothing: the libraries for that are loaded later.
"""

from __future__ import annotations

import json
import ssl
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from fedclient.files import make_folder, read_secret, write_file
from fedcore.entropy import SystemEntropy
from fedcore.errors import ClientCertificateError, ClientStateError, FedcoreError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    from fedcore.secagg import Identity

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
    registrar's, of this client's own signing key. `begins`, `ends`: when its certificate for
    connections is valid, in Unix seconds.
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
    begins: int = 0
    ends: int = 0

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
            values |= {name: int(values[name]) for name in ("begins", "ends")}
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
    """What identifies a connection: the private key and the certificates, as PEM.

    `begins`, `ends`: when the first of them is valid, in Unix seconds.
    """

    key: bytes
    chain: bytes
    begins: int
    ends: int

    def __repr__(self) -> str:
        return "Tls()"

    @property
    def certificate(self) -> x509.Certificate:
        """The device's own certificate. Raises: ClientStateError if there is none."""
        from cryptography import x509

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
        return now.timestamp() >= self.begins + (self.ends - self.begins) * _RENEWED_AT

    def expired(self, now: datetime) -> bool:
        """Whether no server takes the certificate any more."""
        return now.timestamp() >= self.ends

    @classmethod
    def certified(cls, key: ec.EllipticCurvePrivateKey, chain: list[bytes]) -> Tls:
        """The key with its certificates, DER, its own first.

        Raises: ClientCertificateError if they are of another key.
        """
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import Encoding

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
        own = certificates[0]
        return cls(
            _key_pem(key),
            b"".join(found.public_bytes(Encoding.PEM) for found in certificates),
            begins=int(own.not_valid_before_utc.timestamp()),
            ends=int(own.not_valid_after_utc.timestamp()),
        )


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
        self.tls = _tls_of(read_secret(folder / "tls.pem"), self.membership)

    @cached_property
    def signing(self) -> Identity:
        """The key that signs, with the registrar's certificate. Raises: ClientCertificateError."""
        return self._signing(self.membership)

    @classmethod
    def enrolled(cls, folder: Path, membership: Membership, tls: Tls) -> DeviceIdentity:
        """Keeps what enrolment gave. The membership is written last: with it the device is one.

        Raises: ClientCertificateError if the registrar certified another key or client.
        """
        secret_file(folder, "device.key")
        write_file(folder / "tls.pem", tls.key + tls.chain, mode=_SECRET)
        membership = replace(membership, begins=tls.begins, ends=tls.ends)
        write_file(folder / "membership.json", membership.encode(), mode=0o600)
        identity = cls(folder)
        identity.signing  # noqa: B018 - what was certified is looked at once, now
        return identity

    @property
    def tls_file(self) -> Path:
        """Where the key and the certificates of connections are, for what reads files."""
        return self._folder / "tls.pem"

    def renewed(self, tls: Tls, certificate: bytes) -> None:
        """Takes new certificates in the place of the old ones.

        Raises: ClientCertificateError if they are of another client.
        """
        membership = replace(
            self.membership, certificate=certificate, begins=tls.begins, ends=tls.ends
        )
        signing = self._signing(membership)
        write_file(self._folder / "tls.pem", tls.key + tls.chain, mode=_SECRET)
        write_file(self._folder / "membership.json", membership.encode(), mode=0o600)
        self.membership, self.tls, self.signing = membership, tls, signing

    def _signing(self, membership: Membership) -> Identity:
        from fedcore.secagg import Certificate, Identity

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
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    make_folder(folder)
    path = folder / "tls.key.pending"
    if not path.exists():
        write_file(path, _key_pem(ec.generate_private_key(ec.SECP256R1())), mode=_SECRET)
    key = load_pem_private_key(read_secret(path), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def signing_request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """DER of a PKCS #10 request; the server names the subject itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding

    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, SHA256()).public_bytes(Encoding.DER)


def authority_pem(der: bytes) -> bytes:
    """A root certificate as PEM."""
    return ssl.DER_cert_to_PEM_cert(der).encode()


def now_utc() -> datetime:
    """The present, by which certificates are judged."""
    return datetime.now(UTC)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _tls_of(pem: bytes, membership: Membership) -> Tls:
    end = b"-----END PRIVATE KEY-----\n"
    key, found, chain = pem.partition(end)
    if not found:
        raise ClientStateError(
            "tls.pem holds no key",
            why="the file is damaged",
            fix="restore the folder as it was, or join again in an empty one",
        )
    return Tls(key + end, chain, membership.begins, membership.ends)
