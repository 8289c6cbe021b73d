"""The thirteen messages of the protocol, each a frozen dataclass beside the table of its encoding.

Their layout is section 7 of `docs/secure-aggregation-protocol.md`. A message that exists is
well-formed: types, lengths, counts, ranges and order are checked when it is constructed, be it by
`decode` or by hand. What depends on the session is left to the state machines: the length and the
last bits of the bitmaps U1 and U, whether an index is a neighbour's, every signature.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import ClassVar, TypeAlias, TypeVar, get_args

from fedcore.errors import MessageError
from fedcore.secagg.codec import (
    Bitmap,
    Bytes,
    Choice,
    Count,
    Entries,
    Field,
    Integer,
    Limits,
    Record,
    Rows,
    each,
    refusal,
    sized,
)
from fedcore.secagg.transcript import path_depth

__all__ = [
    "CHUNK_BYTES",
    "VERSION",
    "Abort",
    "AbortReason",
    "Advertise",
    "Complaint",
    "ComplaintReason",
    "Confirmation",
    "Limits",
    "MaskRequest",
    "Message",
    "Roster",
    "Shares",
    "Survivors",
    "UnmaskAnswer",
    "UnmaskRequest",
    "UploadChunk",
    "UploadHeader",
    "UploadTrailer",
    "decode",
    "decode_as",
    "encode",
]

VERSION = 1
CHUNK_BYTES = 2**20

_SID = Bytes("sid", 32)
_SIGNATURE = Bytes("signature", 64)


class ComplaintReason(IntEnum):
    """What is wrong with a share that was received."""

    NOT_DECRYPTED = 1
    OTHER_HASH = 2
    NOT_IN_FIELD = 3


class AbortReason(IntEnum):
    """Why a session ended without a sum."""

    TOO_FEW_SHARES = 1
    TOO_FEW_UPLOADS = 2
    WINDOW = 3
    NO_QUORUM = 4
    CANNOT_UNMASK = 5
    CANCELLED = 6


@dataclass(frozen=True, slots=True)
class Advertise(Record):
    """Client to server: a certificate (120 bytes) and one prekey bundle (176), posted ahead."""

    certificate: bytes
    bundle: bytes

    code: ClassVar[int] = 1
    wire: ClassVar[tuple[Field, ...]] = (Bytes("certificate", 120), Bytes("bundle", 176))


@dataclass(frozen=True, slots=True)
class Roster(Record):
    """Server to client: who takes part, under which configuration, and the neighbours' bundles.

    `pid`: which of its prekeys the client uses. `certificates`: n × 120 bytes in the order of the
    index. `path`: the client's own Merkle path. `neighbours`: for each a bundle (176 bytes) and its
    path, in ascending order of the index.
    """

    sid: bytes
    round: int
    attempt: int
    nonce: bytes
    config: bytes
    pulse: bytes
    n: int
    index: int
    pid: bytes
    certificates: bytes = field(repr=False)
    path: bytes = field(repr=False)
    neighbours: tuple[tuple[bytes, bytes], ...] = field(repr=False)

    code: ClassVar[int] = 2
    wire: ClassVar[tuple[Field, ...]] = (
        _SID,
        Integer("round", 8),
        Integer("attempt", 4),
        Bytes("nonce", 32),
        *sized("config", limit="config_bytes"),
        *sized("pulse", limit="pulse_bytes"),
        Integer("n", 4, least=2, limit="clients"),
        Integer("index", 4, below="n"),
        Bytes("pid", 16),
        Bytes("certificates", each("n", 120)),
        Bytes("path", lambda values: 32 * path_depth(values.n)),
        Count("degree", 2, "neighbours", limit="clients"),
        Entries("neighbours", each("degree"), (176, lambda values: 32 * path_depth(values.n))),
    )


@dataclass(frozen=True, slots=True)
class Shares(Record):
    """Client to server: a ciphertext (100 bytes) and a share hash (32) for each neighbour."""

    sid: bytes
    ciphertexts: bytes = field(repr=False)
    hashes: bytes = field(repr=False)
    signature: bytes

    code: ClassVar[int] = 3
    wire: ClassVar[tuple[Field, ...]] = (
        _SID,
        Count("count", 2, "hashes", 32, limit="clients"),
        Bytes("ciphertexts", each("count", 100)),
        Bytes("hashes", each("count", 32)),
        _SIGNATURE,
    )


@dataclass(frozen=True, slots=True)
class MaskRequest(Record):
    """Server to client: the set U1, and a ciphertext and a share hash from each of N(i) ∩ U1."""

    sid: bytes
    model_digest: bytes
    uploaders: bytes
    ciphertexts: bytes = field(repr=False)
    hashes: bytes = field(repr=False)

    code: ClassVar[int] = 4
    wire: ClassVar[tuple[Field, ...]] = (
        _SID,
        Bytes("model_digest", 32),
        *sized("uploaders", limit="bitmap_bytes"),
        Count("count", 2, "hashes", 32, limit="clients"),
        Rows("inbox", each("count"), (("ciphertexts", "100s"), ("hashes", "32s"))),
    )


@dataclass(frozen=True, slots=True)
class Complaint(Record):
    """Client to server: the share of the client with index `accused` is unusable."""

    sid: bytes
    accused: int
    reason: ComplaintReason
    signature: bytes

    code: ClassVar[int] = 5
    wire: ClassVar[tuple[Field, ...]] = (
        _SID,
        Integer("accused", 4),
        Choice("reason", 1, ComplaintReason),
        _SIGNATURE,
    )


@dataclass(frozen=True, slots=True)
class UploadHeader(Record):
    """Client to server: H_ctx and the bytes of the masked vector that follow."""

    sid: bytes
    context: bytes
    length: int
    signature: bytes

    code: ClassVar[int] = 6
    wire: ClassVar[tuple[Field, ...]] = (
        _SID,
        Bytes("context", 32),
        Integer("length", 8),
        _SIGNATURE,
    )


@dataclass(frozen=True, slots=True)
class UploadChunk(Record):
    """Client to server: at most 1 MiB of the masked vector, from byte `offset` on."""

    sid: bytes
    offset: int
    data: bytes = field(repr=False)

    code: ClassVar[int] = 7
    wire: ClassVar[tuple[Field, ...]] = (
        _SID,
        Integer("offset", 8),
        *sized("data", width=4, limit="chunk_bytes", most=CHUNK_BYTES),
    )


@dataclass(frozen=True, slots=True)
class UploadTrailer(Record):
    """Client to server: the upload is complete; SHA-256 of all its bytes."""

    sid: bytes
    digest: bytes

    code: ClassVar[int] = 8
    wire: ClassVar[tuple[Field, ...]] = (_SID, Bytes("digest", 32))


@dataclass(frozen=True, slots=True)
class Survivors(Record):
    """Server to client: the set U, and the header signatures (64 bytes each) of N(i) ∩ U."""

    sid: bytes
    survivors: bytes
    signatures: bytes = field(repr=False)

    code: ClassVar[int] = 9
    wire: ClassVar[tuple[Field, ...]] = (
        _SID,
        *sized("survivors", limit="bitmap_bytes"),
        Count("count", 2, "signatures", 64, limit="clients"),
        Bytes("signatures", each("count", 64)),
    )


@dataclass(frozen=True, slots=True)
class Confirmation(Record):
    """Client to server: the one T that the client signs in this session."""

    sid: bytes
    digest: bytes
    signature: bytes

    code: ClassVar[int] = 10
    wire: ClassVar[tuple[Field, ...]] = (_SID, Bytes("digest", 32), _SIGNATURE)


@dataclass(frozen=True, slots=True)
class UnmaskRequest(Record):
    """Server to client: the set U again, and a quorum's signatures of T (none in `semi_honest`).

    `signers`: roster indices, ascending; `signatures`: 64 bytes for each.
    """

    sid: bytes
    survivors: bytes
    signers: tuple[int, ...] = field(repr=False)
    signatures: bytes = field(repr=False)

    code: ClassVar[int] = 11
    wire: ClassVar[tuple[Field, ...]] = (
        _SID,
        *sized("survivors", limit="bitmap_bytes"),
        Count("count", 2, "signers", limit="clients"),
        Rows("quorum", each("count"), (("signers", "H"), ("signatures", "64s"))),
    )


@dataclass(frozen=True, slots=True)
class UnmaskAnswer(Record):
    """Client to server: the client's own b, and one half of each share that it holds.

    `count`: the size of N(i) ∩ U1. `present`: a bitmap over its members, in ascending order of the
    index, of those whose share the client holds. For each of these `shares` has 36 bytes and
    `other_hashes` 32.
    """

    sid: bytes
    b: bytes = field(repr=False)
    present: bytes
    count: int
    shares: bytes = field(repr=False)
    other_hashes: bytes = field(repr=False)

    code: ClassVar[int] = 12
    wire: ClassVar[tuple[Field, ...]] = (
        _SID,
        Bytes("b", 32),
        Integer("count", 2, limit="clients"),
        Bitmap("present", lambda values: -(-values.count // 8), "count"),
        Rows(
            "halves",
            lambda values: int.from_bytes(values.present, "little").bit_count(),
            (("shares", "36s"), ("other_hashes", "32s")),
        ),
    )


@dataclass(frozen=True, slots=True)
class Abort(Record):
    """Server to client: the session ended without a sum."""

    sid: bytes
    reason: AbortReason

    code: ClassVar[int] = 13
    wire: ClassVar[tuple[Field, ...]] = (_SID, Choice("reason", 2, AbortReason))


Message: TypeAlias = (
    Advertise
    | Roster
    | Shares
    | MaskRequest
    | Complaint
    | UploadHeader
    | UploadChunk
    | UploadTrailer
    | Survivors
    | Confirmation
    | UnmaskRequest
    | UnmaskAnswer
    | Abort
)

_LIMITS = Limits()

_M = TypeVar("_M", bound=Message)
_BY_CODE: dict[int, type[Message]] = {kind.code: kind for kind in get_args(Message)}


def encode(message: Message) -> bytes:
    """The one encoding of a message: version, type, fields. Raises: MessageError for anything else.

    >>> encode(Abort(bytes(32), AbortReason.NO_QUORUM)).hex()[-10:]
    '0000000400'
    """
    if not isinstance(message, Message):
        raise refusal("message", f"{type(message).__name__} is not one of the protocol's messages")
    return message.write(bytes((VERSION, message.code)))


def decode(data: bytes | memoryview, *, limits: Limits = _LIMITS) -> Message:
    """The message that `data` encodes; its fields are copies, and the only ones made.

    Counts are held against `limits`, and the length against the counts, before anything is copied.
    Raises: MessageError, which names the field, for whatever `encode` could not have written.

    >>> decode(encode(Abort(bytes(32), AbortReason.NO_QUORUM))).reason.name
    'NO_QUORUM'
    """
    try:
        view = memoryview(data).cast("B")
    except TypeError:
        raise refusal("message", f"{type(data).__name__} is not contiguous bytes") from None
    if len(view) < 2:
        raise refusal("message", f"{len(view)} bytes, and version and type take two")
    if view[0] != VERSION:
        raise refusal(
            "message.version",
            f"{view[0]}, not {VERSION}",
            fix="let both sides use releases that speak the same version of the protocol",
        )
    if view[1] not in _BY_CODE:
        raise refusal("message.type", f"{view[1]} is none of 1 to {len(_BY_CODE)}")
    return _BY_CODE[view[1]].read(view[2:], limits)


def decode_as(data: bytes, kind: type[_M]) -> _M:
    """The message of one kind that a durable record holds. Raises: MessageError for another."""
    message = decode(data)
    if not isinstance(message, kind):
        raise MessageError(
            f"a record holds a {type(message).__name__}",
            why=f"under its name stands a {kind.__name__}",
            fix="restore the records from where they were written last",
        )
    return message
