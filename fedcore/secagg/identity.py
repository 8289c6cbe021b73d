"""A party trusts a signature only from a key that a registrar of its own choice has certified.

A server that could invent clients, or exchange their keys, would see through every mask. So each
client holds one Ed25519 key (RFC 8032) for a long time, a certificate authority binds that key to
the client's id, and every party names the roots it trusts itself (protocol §1, §2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedcore.entropy import Entropy, require_entropy
from fedcore.errors import ArgumentError, AuthenticationError, MessageError
from fedcore.secagg.transcript import statement, u64

__all__ = [
    "CERTIFICATE_BYTES",
    "ID_BYTES",
    "KEY_BYTES",
    "SIGNATURE_BYTES",
    "Certificate",
    "CertificateAuthority",
    "Identity",
    "TrustStore",
    "check_expiry",
    "verify_signature",
]

ID_BYTES: Final = 16
KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
CERTIFICATE_BYTES: Final = 120

_CACHED: Final = 65_536

# The y-coordinates of the eight points whose order divides 8: 0, ±1 and ±y₈. OpenSSL takes them as
# keys, and a signature made without any secret then passes for at least one statement in eight.
_PRIME: Final = 2**255 - 19
_Y8: Final = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_SMALL_ORDER: Final = frozenset({0, 1, _PRIME - 1, _Y8, _PRIME - _Y8})
# With either sign, and also as y + p where that fits into 255 bits: OpenSSL reads it all.
_SMALL_ORDER_KEYS: Final = frozenset(
    (y + carry + sign).to_bytes(32, "little")
    for y in _SMALL_ORDER
    for carry in ((0, _PRIME) if y + _PRIME < 2**255 else (0,))
    for sign in (0, 2**255)
)


def verify_signature(public_key: bytes, signature: bytes, statement: bytes) -> bool:
    """Whether `signature` (64 bytes) over `statement` was made with the key of `public_key` (32).

    RFC 8032 §5.1.7 without the cofactor; a key of small order, for which anyone can sign, verifies
    nothing. Takes 106 µs, all but 2 of them in OpenSSL, which has no verification in batches but
    lets go of the GIL: two threads verify up to 1.9 times as many (2-core server processor).
    """
    key = _verification_key(public_key)
    return key is not None and _is_signed(key, signature, statement)


def _verification_key(public_key: bytes) -> Ed25519PublicKey | None:
    if _has_small_order(public_key):
        return None
    try:
        return Ed25519PublicKey.from_public_bytes(public_key)
    except ValueError:
        return None


def _is_signed(key: Ed25519PublicKey, signature: bytes, statement: bytes) -> bool:
    try:
        key.verify(signature, statement)
    except (InvalidSignature, ValueError):
        return False
    return True


def check_expiry(expires: int) -> None:
    """Raises: ArgumentError unless `expires` is a plain int of Unix seconds, 0 … 2⁶⁴ − 1."""
    if type(expires) is not int:
        raise ArgumentError(
            f"expires = {expires!r} is not a plain int",
            why="it is signed and stored as whole Unix seconds",
            fix="pass expires=int(time.time()) + so many seconds",
        )
    u64(expires)


def _has_small_order(public_key: bytes) -> bool:
    return public_key in _SMALL_ORDER_KEYS


@dataclass(frozen=True, slots=True)
class Certificate:
    """A client's id (16 bytes) and Ed25519 key (32), valid before `expires` (Unix seconds).

    `signature`: 64 bytes of the authority. Whether it holds is for `TrustStore.verify` to say.
    """

    id: bytes
    key: bytes
    expires: int
    signature: bytes

    def encode(self) -> bytes:
        """120 bytes (protocol §2)."""
        return self.id + self.key + u64(self.expires) + self.signature

    @classmethod
    def decode(cls, data: bytes) -> Certificate:
        """The certificate of 120 bytes, not yet verified. Raises: MessageError."""
        if len(data) != CERTIFICATE_BYTES:
            raise MessageError(
                "a certificate has the wrong length",
                why=f"{len(data)} bytes came, {CERTIFICATE_BYTES} make a certificate",
                fix="send id, key, expiry and signature, and nothing else",
            )
        expires = int.from_bytes(data[48:56], "little")
        return cls(bytes(data[:16]), bytes(data[16:48]), expires, bytes(data[56:]))

    def statement(self) -> bytes:
        """What the authority signs."""
        return statement("cert", self.id, self.key, u64(self.expires))


class CertificateAuthority:
    """The registrar's key: it says which key belongs to which client.

    The server must not hold it where a malicious server is to be withstood. `private`: 32 bytes.
    Raises: ArgumentError for another length.

    >>> from fedcore.entropy import SystemEntropy
    >>> authority = CertificateAuthority.generate(SystemEntropy())
    >>> def certify(key):
    ...     return authority.issue(b"the id of alice.", key, expires=2_000_000_000)
    >>> alice = Identity.generate(SystemEntropy(), certify=certify)
    >>> trusted = TrustStore([authority.public_key])
    >>> trusted.verify(alice.certificate.encode(), now=1_900_000_000) == alice.certificate
    True
    """

    def __init__(self, private: bytes) -> None:
        self._key = _signing_key(private)
        self.public_key: Final = self._key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls, entropy: Entropy) -> CertificateAuthority:
        """A new authority. Raises: EntropyError."""
        return cls(require_entropy(entropy).token(KEY_BYTES))

    @classmethod
    def from_private_bytes(cls, private: bytes) -> CertificateAuthority:
        """The authority whose `private_bytes` were kept."""
        return cls(private)

    def private_bytes(self) -> bytes:
        """The secret itself, 32 bytes, to be sealed before it is stored."""
        return self._key.private_bytes_raw()

    def issue(self, client_id: bytes, public_key: bytes, *, expires: int) -> Certificate:
        """A certificate for `client_id` (16 bytes) and `public_key` (32), valid before `expires`.

        The caller has made sure that the client holds the key. Raises: ArgumentError unless they
        are bytes of these lengths, for a key of small order, or unless 0 ≤ expires < 2⁶⁴.
        """
        if not (_are_bytes(client_id, ID_BYTES) and _are_bytes(public_key, KEY_BYTES)):
            raise ArgumentError(
                "no certificate can be issued for this id and key",
                why="one of them is of another type or length",
                fix=f"pass an id of {ID_BYTES} bytes, like secrets.token_bytes({ID_BYTES}) or the "
                f"start of a name's digest, and the {KEY_BYTES} bytes of an Ed25519 key",
            )
        check_expiry(expires)
        if _has_small_order(public_key):
            raise ArgumentError(
                "no certificate can be issued for this key",
                why="it is a point of small order: anyone could sign for it",
                fix="let the client generate its key",
            )
        blank = Certificate(client_id, public_key, expires, b"")
        return Certificate(client_id, public_key, expires, self._key.sign(blank.statement()))


class Identity:
    """A client's long-lived signing key and its certificate; it signs, and does nothing else."""

    def __init__(self, private: bytes, certificate: Certificate) -> None:
        self._key = _signing_key(private)
        self.certificate: Final = certificate
        if self._key.public_key().public_bytes_raw() != certificate.key:
            raise AuthenticationError(
                "a private key does not belong to its certificate",
                why="the certificate names another public key",
                fix="restore key and certificate that were stored together",
                culprit=certificate.id,
            )

    @classmethod
    def generate(cls, entropy: Entropy, *, certify: Callable[[bytes], Certificate]) -> Identity:
        """A new key, which `certify` has certified: it is given the 32 public bytes.

        Raises: EntropyError; AuthenticationError if the certificate is for another key.
        """
        private = require_entropy(entropy).token(KEY_BYTES)
        return cls(private, certify(_signing_key(private).public_key().public_bytes_raw()))

    @classmethod
    def restore(cls, private: bytes, certificate: Certificate) -> Identity:
        """The identity whose `private_bytes` and certificate were kept.

        Raises: ArgumentError unless `private` has 32 bytes; AuthenticationError if the certificate
        is for another key.
        """
        return cls(private, certificate)

    @property
    def id(self) -> bytes:
        """The 16 bytes by which the client is known."""
        return self.certificate.id

    def sign(self, statement: bytes) -> bytes:
        """The Ed25519 signature, 64 bytes, of what `transcript.statement` made."""
        return self._key.sign(statement)

    def private_bytes(self) -> bytes:
        """The secret itself, 32 bytes, to be sealed before it is stored."""
        return self._key.private_bytes_raw()

    def __repr__(self) -> str:
        return f"Identity(id={self.id.hex()})"


def _are_bytes(value: object, size: int) -> bool:
    return isinstance(value, bytes) and len(value) == size


def _signing_key(private: bytes) -> Ed25519PrivateKey:
    if len(private) != KEY_BYTES:
        raise ArgumentError(
            "an Ed25519 private key has the wrong length",
            why=f"{len(private)} bytes were given",
            fix=f"pass the {KEY_BYTES} bytes that private_bytes() returned",
        )
    return Ed25519PrivateKey.from_private_bytes(private)


class TrustStore:
    """Whose certificates are accepted: those of `roots`, save the ids that are `revoked`.

    `roots`: public keys of authorities, 32 bytes each, the likeliest first: each is tried in turn.
    A client whose key was stolen is revoked by its id and needs another. What verified once is
    remembered by its exact bytes, 65,536 certificates at most, so that a later round looks it up;
    expiry and revocation are checked every time. A roster of 1,000 takes 115 ms when new and 0.5 ms
    when known. Threads may share a store, and warm it for a large roster.
    `remember_signatures`: for many clients in one process, which check the same signatures: each is
    verified once. Raises: ArgumentError without roots, or unless all are bytes of these lengths.
    """

    def __init__(
        self,
        roots: Iterable[bytes],
        revoked: Iterable[bytes] = (),
        *,
        remember_signatures: bool = False,
    ) -> None:
        self._roots, self._revoked = tuple(roots), frozenset(revoked)
        self._verified: dict[bytes, Certificate] = {}
        self._remember = remember_signatures
        self._genuine: set[tuple[bytes, bytes, bytes]] = set()
        roots_fit = self._roots and all(_are_bytes(root, KEY_BYTES) for root in self._roots)
        if not roots_fit or not all(_are_bytes(name, ID_BYTES) for name in self._revoked):
            raise ArgumentError(
                "a trust store needs lists of roots of 32 bytes and of revoked ids of 16",
                why="one is of another type or length" if self._roots else "there is no root",
                fix="pass [authority.public_key], with the key of each trusted authority, and "
                "revoked=[id] if any is",
            )
        # Parsed once: of a roster of 1,000 new certificates this saves 2 ms of 110.
        self._root_keys = tuple(map(_verification_key, self._roots))

    def keeps(self, roots: Iterable[bytes], revoked: Iterable[bytes]) -> bool:
        """Whether it accepts no certificate that a store of these roots and ids would refuse."""
        return set(self._roots) <= set(roots) and self._revoked >= set(revoked)

    def verify(self, certificate: bytes, *, now: int) -> Certificate:
        """The certificate in these 120 bytes, once it is known to hold at `now` (Unix seconds).

        Raises: MessageError for another length; AuthenticationError if no root signed it, if it is
        revoked, or from the second `expires` on.
        """
        found = self._verified.get(certificate) or self._verify_anew(certificate)
        if found.id in self._revoked:
            raise _refused(found, "its id is on the list of revoked clients")
        if now >= found.expires:
            raise _refused(found, f"it expired at {found.expires}, and now is {now}")
        return found

    def verify_signature(self, public_key: bytes, signature: bytes, statement: bytes) -> bool:
        """Whether `signature` over `statement` is that of the key, as `verify_signature` says."""
        signed = (public_key, signature, statement)
        if signed in self._genuine:
            return True
        genuine = verify_signature(*signed)
        if genuine and self._remember:
            if len(self._genuine) >= _CACHED:
                self._genuine.clear()
            self._genuine.add(signed)
        return genuine

    def _verify_anew(self, data: bytes) -> Certificate:
        found = Certificate.decode(data)
        signed = found.statement()
        if not any(key and _is_signed(key, found.signature, signed) for key in self._root_keys):
            raise _refused(found, "no trusted authority has signed it as it stands")
        if len(self._verified) >= _CACHED:
            self._verified.clear()  # one step, so that threads need no lock
        self._verified[bytes(data)] = found
        return found

    def verify_roster(self, certificates: bytes, *, now: int) -> list[Certificate]:
        """The certificates of a whole roster, n × 120 bytes in strictly ascending order of the id.

        Raises: MessageError for another length or order; AuthenticationError if two clients share a
        key, or one certificate does not hold.
        """
        size = CERTIFICATE_BYTES
        parts = [certificates[at : at + size] for at in range(0, len(certificates), size)]
        if not parts or len(parts[-1]) != size:
            raise MessageError(
                "a roster is not a list of certificates",
                why=f"{len(certificates)} bytes are no multiple of {size}, or none at all",
                fix=f"send {size} bytes for each client",
            )
        ids = [part[:ID_BYTES] for part in parts]
        if any(before >= after for before, after in pairwise(ids)):
            raise MessageError(
                "a roster is not in its canonical order",
                why="an id comes twice, or after a larger one",
                fix="sort the certificates by id, one for each client",
            )
        keys: set[bytes] = set()
        for part in parts:
            key = part[ID_BYTES : ID_BYTES + KEY_BYTES]
            if key in keys:
                raise _refused(Certificate.decode(part), "another client has the same key")
            keys.add(key)
        return [self.verify(part, now=now) for part in parts]


def _refused(certificate: Certificate, why: str) -> AuthenticationError:
    return AuthenticationError(
        "a client's certificate is not valid",
        why=why,
        fix="let the client register again, or check the trusted roots and the clock",
        culprit=certificate.id,
    )
