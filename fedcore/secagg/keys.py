"""The keys of one session: posted ahead for a single use, agreed pair by pair, bound to all of it.

A client posts prekeys before it knows a session, which saves a round trip. Once the roster stands,
each pair of neighbours agrees on a mask and on a channel for shares. Every derived key depends on
the session's name, the root of the roster, a label and the indices of the two clients, so no key
serves two purposes, two pairs or two sessions (protocol §2, §4, §5).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedcore.entropy import Entropy, require_entropy
from fedcore.errors import ArgumentError, AuthenticationError, MessageError
from fedcore.secagg.identity import Certificate, Identity, TrustStore, check_expiry
from fedcore.secagg.prg import Prg
from fedcore.secagg.transcript import digest, frame, statement, u32, u64

__all__ = [
    "BUNDLE_BYTES",
    "PID_BYTES",
    "PREKEY_BYTES",
    "SEALED_BYTES",
    "SECRET_BYTES",
    "SHARE_PAIR_BYTES",
    "Channel",
    "KeySchedule",
    "Prekey",
    "PrekeyBundle",
    "commitment",
    "half_hash",
    "hkdf",
    "mask_public",
    "private_key",
    "share_hash",
    "share_hash_of_halves",
    "shared_secret",
]

PID_BYTES: Final = 16
SECRET_BYTES: Final = 32
BUNDLE_BYTES: Final = 176
PREKEY_BYTES: Final = 120
SHARE_PAIR_BYTES: Final = 72
SEALED_BYTES: Final = 100

_NONCE: Final = 12

# The u-coordinates of all points whose order divides 8, on the curve and on its twist (RFC 7748
# §6.1): with them every secret agrees on zero.
_PRIME: Final = 2**255 - 19
_LOW_ORDER: Final = frozenset(
    {
        0,
        1,
        _PRIME - 1,
        0x00B8495F16056286FDB1329CEB8D09DA6AC49FF1FAE35616AEB8413B7C7AEBE0,
        0x57119FD0DD4E22D8868E1C58C45C44045BEF839C55B1D0B1248C50A3BC959C5F,
    }
)


@dataclass(frozen=True, slots=True)
class PrekeyBundle:
    """What a client posts of a prekey, signed: two X25519 keys, and a commitment to the self mask.

    `pid`: 16 bytes that name the prekey. `mask_key` (P), `channel_key` (C), `commitment` (hb): 32.
    Separate keys, so that a mask key that the server rebuilds opens no share.
    """

    pid: bytes
    mask_key: bytes
    channel_key: bytes
    commitment: bytes
    signature: bytes

    def encode(self) -> bytes:
        """176 bytes (protocol §2)."""
        return self.pid + self.mask_key + self.channel_key + self.commitment + self.signature

    @classmethod
    def decode(cls, data: bytes) -> PrekeyBundle:
        """The bundle of 176 bytes, not yet verified. Raises: MessageError."""
        if len(data) != BUNDLE_BYTES:
            raise MessageError(
                "a prekey bundle has the wrong length",
                why=f"{len(data)} bytes came, {BUNDLE_BYTES} make a bundle",
                fix="send pid, mask key, channel key, commitment and signature, and nothing else",
            )
        data = bytes(data)
        return cls(data[:16], data[16:48], data[48:80], data[80:112], data[112:])

    def statement(self, client_id: bytes) -> bytes:
        """What the client `client_id` signs."""
        parts = (client_id, self.pid, self.mask_key, self.channel_key, self.commitment)
        return statement("R0", *parts)

    def verify(self, certificate: Certificate, trust: TrustStore) -> None:
        """Check that the holder of `certificate`, verified before, signed this bundle.

        Raises: AuthenticationError if not, or if a key is a point of low order: its pairs could
        agree on nothing secret, so whoever posts one is kept out before there is a roster.
        """
        signed = self.statement(certificate.id)
        if not trust.verify_signature(certificate.key, self.signature, signed):
            raise AuthenticationError(
                "a prekey bundle is not signed by its client",
                why="the signature does not belong to these keys and the certified identity",
                fix="let the client post a bundle that its own identity signed",
                culprit=certificate.id,
            )
        if _has_low_order(self.mask_key) or _has_low_order(self.channel_key):
            raise AuthenticationError(
                "a prekey bundle holds a key of low order",
                why="any secret agrees with it on zero",
                fix="exclude the client, which made this key on purpose",
                culprit=certificate.id,
            )


@dataclass(frozen=True)
class Prekey:
    """The secrets behind one bundle; they serve one session, or expire, and are then erased.

    `pid`: 16 random bytes. `mask_secret`, `channel_secret` (X25519) and `b`, from which the self
    mask comes: 32 bytes each. `expires`: Unix seconds.
    """

    pid: bytes
    mask_secret: bytes = field(repr=False)
    channel_secret: bytes = field(repr=False)
    b: bytes = field(repr=False)
    expires: int

    @classmethod
    def generate(cls, entropy: Entropy, *, expires: int) -> Prekey:
        """A new prekey: pid, mask secret, channel secret and b are drawn in this order.

        Raises: EntropyError; ArgumentError unless `expires` is a plain int, 0 … 2⁶⁴ − 1.
        """
        check_expiry(expires)
        draw = require_entropy(entropy).token
        pid, mask, channel = draw(PID_BYTES), draw(SECRET_BYTES), draw(SECRET_BYTES)
        return cls(pid, mask, channel, draw(SECRET_BYTES), expires)

    @cached_property
    def mask_private(self) -> X25519PrivateKey:
        """`mask_secret`, parsed once for all neighbours."""
        return private_key(self.mask_secret)

    @cached_property
    def channel_private(self) -> X25519PrivateKey:
        """`channel_secret`, parsed once for all neighbours."""
        return private_key(self.channel_secret)

    def bundle(self, identity: Identity) -> PrekeyBundle:
        """What is posted of this prekey, signed by its owner."""
        keys = mask_public(self.mask_private), mask_public(self.channel_private)
        blank = PrekeyBundle(self.pid, *keys, commitment(self.pid, self.b), b"")
        signature = identity.sign(blank.statement(identity.id))
        return PrekeyBundle(self.pid, *keys, blank.commitment, signature)

    def encode(self) -> bytes:
        """120 bytes, secret: pid, mask secret, channel secret, b and expiry, to be sealed."""
        return self.pid + self.mask_secret + self.channel_secret + self.b + u64(self.expires)

    @classmethod
    def decode(cls, data: bytes) -> Prekey:
        """The prekey that `encode` made of it. Raises: MessageError for another length."""
        if len(data) != PREKEY_BYTES:
            raise MessageError(
                "a stored prekey has the wrong length",
                why=f"{len(data)} bytes were found, {PREKEY_BYTES} make a prekey",
                fix="discard the record and post new prekeys",
            )
        data = bytes(data)
        secrets = data[16:48], data[48:80], data[80:112]
        return cls(data[:16], *secrets, int.from_bytes(data[112:], "little"))


def commitment(pid: bytes, b: bytes) -> bytes:
    """hb, 32 bytes: binds a client to the b of its prekey before anyone has seen a roster."""
    return digest("bcommit", pid, b)


def private_key(secret: bytes | X25519PrivateKey) -> X25519PrivateKey:
    """The X25519 key of a secret of 32 bytes, parsed once for many neighbours; a key stays itself.

    Parsing multiplies a point, 31 µs, as much as agreeing with one neighbour does.
    Raises: ArgumentError for another length.
    """
    if isinstance(secret, X25519PrivateKey):
        return secret
    if len(secret) != SECRET_BYTES:
        raise ArgumentError(
            "an X25519 secret has the wrong length",
            why=f"it has {len(secret)} bytes",
            fix=f"pass {SECRET_BYTES} bytes",
        )
    return X25519PrivateKey.from_private_bytes(secret)


def mask_public(secret: bytes | X25519PrivateKey) -> bytes:
    """The X25519 public key, 32 bytes, of a secret: a rebuilt sk is held against its P by it.

    Raises: ArgumentError unless the secret has 32 bytes.
    """
    return private_key(secret).public_key().public_bytes_raw()


def shared_secret(secret: bytes | X25519PrivateKey, public: bytes) -> bytes:
    """X25519 (RFC 7748 §6.1): the same 32 bytes for both owners of the two keys.

    Raises: AuthenticationError unless `public` has 32 bytes and the result is not all zero, which
    it is for the points of low order; ArgumentError unless the secret has 32 bytes.
    """
    private = private_key(secret)
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise AuthenticationError(
            "no secret can be agreed on with a public key",
            why="it is not of 32 bytes, or a point of low order with which the result is zero",
            fix="exclude the client that posted it",
        ) from None


def hkdf(ikm: bytes, length: int, *, salt: bytes, info: bytes) -> bytes:
    """HKDF with SHA-256 (RFC 5869): `length` bytes of key from `ikm`. 3 µs for 32."""
    return HKDF(SHA256(), length, salt, info).derive(ikm)


@dataclass(frozen=True, slots=True)
class KeySchedule:
    """All keys that one session derives, from its name `sid` and its roster's `root` (32 bytes).

    Secrets are given as bytes or, for many neighbours, parsed once. Raises: ArgumentError for a
    name or root of another length.
    """

    sid: bytes
    root: bytes
    prg: Prg

    def __post_init__(self) -> None:
        if len(self.sid) != 32 or len(self.root) != 32:
            raise ArgumentError(
                "a session's name or root has the wrong length",
                why=f"they have {len(self.sid)} and {len(self.root)} bytes",
                fix="pass the digests of 32 bytes that transcript makes",
            )

    def pair_seed(self, secret: bytes | X25519PrivateKey, public: bytes, i: int, j: int) -> bytes:
        """The seed of the mask of clients i and j, from the mask secret of one and P of the other.

        Both get the same `prg.seed_bytes` bytes, in whichever order the two are named. Raises:
        AuthenticationError for a key of low order; ArgumentError for i = j.
        """
        return self._derive(
            shared_secret(secret, public), self.prg.seed_bytes, "pair", *_ordered(i, j)
        )

    def self_seed(self, b: bytes, i: int) -> bytes:
        """The seed of the mask that client i adds alone, `prg.seed_bytes` bytes from its b."""
        return self._derive(b, self.prg.seed_bytes, "self", i)

    def channel(
        self, secret: bytes | X25519PrivateKey, public: bytes, me: int, peer: int
    ) -> Channel:
        """The channel from client `me`, whose channel secret this is, to `peer` with its C.

        Raises: AuthenticationError for a key of low order; ArgumentError for me = peer.
        """
        ordered = _ordered(me, peer)
        keys = self._derive(shared_secret(secret, public), 32, "chan", *ordered)
        return Channel(keys, me, peer)

    def _derive(self, ikm: bytes, length: int, label: str, *indices: int) -> bytes:
        info = frame(label, self.root, *map(u32, indices))
        return hkdf(ikm, length, salt=self.sid, info=info)


class Channel:
    """Seals shares for one neighbour and opens its own, with a key for each direction.

    `keys`: 32 bytes, the first half for the way from the smaller index to the larger. AES-128-GCM;
    each direction carries one share a session, or the same again.
    """

    __slots__ = ("_incoming", "_outgoing", "_received", "_sent")

    def __init__(self, keys: bytes, me: int, peer: int) -> None:
        upwards, downwards = AESGCM(keys[:16]), AESGCM(keys[16:])
        self._outgoing, self._incoming = (upwards, downwards) if me < peer else (downwards, upwards)
        self._sent, self._received = u32(me) + u32(peer), u32(peer) + u32(me)

    def seal(self, plaintext: bytes, entropy: Entropy) -> bytes:
        """100 bytes that only the peer can open: nonce 12, ciphertext 72, tag 16 (protocol §5).

        `plaintext`: the two halves of a share, 72 bytes. Raises: ArgumentError; EntropyError.
        """
        if len(plaintext) != SHARE_PAIR_BYTES:
            raise ArgumentError(
                "a share to be sealed has the wrong length",
                why=f"it has {len(plaintext)} bytes",
                fix=f"pass the two halves, {SHARE_PAIR_BYTES} bytes together",
            )
        nonce = require_entropy(entropy).token(_NONCE)
        return nonce + self._outgoing.encrypt(nonce, plaintext, self._sent)

    def open(self, ciphertext: bytes) -> bytes:
        """The 72 bytes that the peer sealed for this client.

        Raises: AuthenticationError if a single bit, the sender, the receiver, the session or the
        roster is another, or for another length.
        """
        if len(ciphertext) == SEALED_BYTES:
            try:
                return self._incoming.decrypt(
                    ciphertext[:_NONCE], ciphertext[_NONCE:], self._received
                )
            except InvalidTag:
                pass
        raise AuthenticationError(
            "a share cannot be opened",
            why="it was not sealed for this client by this neighbour in this session, as it stands",
            fix="complain of its sender; the session can lose a share",
        )


def half_hash(kind: Literal["b", "sk"], sid: bytes, sharer: int, holder: int, half: bytes) -> bytes:
    """hash_b or hash_sk: of the 36 bytes that `holder` has of a secret of `sharer` (§5)."""
    return digest("share/" + kind, sid, u32(sharer), u32(holder), half)


def share_hash_of_halves(hash_b: bytes, hash_sk: bytes) -> bytes:
    """The share hash, from a half that was revealed and the hash of the one that never may be."""
    return digest("share", hash_b, hash_sk)


def share_hash(sid: bytes, sharer: int, holder: int, half_b: bytes, half_sk: bytes) -> bytes:
    """The share hash, 32 bytes, which `sharer` signs and against which a wrong share is held."""
    return share_hash_of_halves(
        half_hash("b", sid, sharer, holder, half_b), half_hash("sk", sid, sharer, holder, half_sk)
    )


def _ordered(i: int, j: int) -> tuple[int, int]:
    if i == j:
        raise ArgumentError(
            f"client {i} has no key with itself",
            why="a pair is of two clients",
            fix="pass two different indices of the roster",
        )
    return (i, j) if i < j else (j, i)


def _has_low_order(public: bytes) -> bool:
    u = int.from_bytes(public, "little") & (2**255 - 1)  # the top bit is ignored, RFC 7748 §5
    return u % _PRIME in _LOW_ORDER
