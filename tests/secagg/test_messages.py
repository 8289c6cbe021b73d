"""A message has one encoding, that of the protocol, and what decodes is what was encoded."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, replace
from random import Random
from struct import pack
from typing import Any

import pytest
from hypothesis import given, strategies as st

from fedcore.errors import MessageError
from fedcore.secagg.messages import (
    Abort,
    AbortReason,
    Advertise,
    Complaint,
    ComplaintReason,
    Confirmation,
    MaskRequest,
    Message,
    Roster,
    Shares,
    Survivors,
    UnmaskAnswer,
    UnmaskRequest,
    UploadChunk,
    UploadHeader,
    UploadTrailer,
    decode,
    encode,
)
from tests.secagg.samples import KINDS, SAMPLES, SID, depth, every_kind


def entries(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


def paired(a: bytes, size_a: int, b: bytes, size_b: int) -> bytes:
    pairs = zip(entries(a, size_a), entries(b, size_b), strict=True)
    return b"".join(x + y for x, y in pairs)


def quorum_of(m: UnmaskRequest) -> bytes:
    signed = zip(m.signers, entries(m.signatures, 64), strict=True)
    return b"".join(pack("<H64s", signer, signature) for signer, signature in signed)


# Section 7 of the protocol, line by line.
BY_HAND: dict[type[Any], Callable[[Any], bytes]] = {
    Advertise: lambda m: pack("<BB120s176s", 1, 1, m.certificate, m.bundle),
    Roster: lambda m: (
        pack("<BB32sQI32s", 1, 2, m.sid, m.round, m.attempt, m.nonce)
        + (pack("<H", len(m.config)) + m.config)
        + (pack("<H", len(m.pulse)) + m.pulse)
        + pack("<II16s", m.n, m.index, m.pid)
        + (m.certificates + m.path + pack("<H", len(m.neighbours)))
        + b"".join(bundle + path for bundle, path in m.neighbours)
    ),
    Shares: lambda m: (
        pack("<BB32sH", 1, 3, m.sid, len(m.hashes) // 32) + m.ciphertexts + m.hashes + m.signature
    ),
    MaskRequest: lambda m: (
        pack("<BB32s32sH", 1, 4, m.sid, m.model_digest, len(m.uploaders))
        + (m.uploaders + pack("<H", len(m.hashes) // 32))
        + paired(m.ciphertexts, 100, m.hashes, 32)
    ),
    Complaint: lambda m: pack("<BB32sIB64s", 1, 5, m.sid, m.accused, m.reason, m.signature),
    UploadHeader: lambda m: pack("<BB32s32sQ64s", 1, 6, m.sid, m.context, m.length, m.signature),
    UploadChunk: lambda m: pack("<BB32sQI", 1, 7, m.sid, m.offset, len(m.data)) + m.data,
    UploadTrailer: lambda m: pack("<BB32s32s", 1, 8, m.sid, m.digest),
    Survivors: lambda m: (
        pack("<BB32sH", 1, 9, m.sid, len(m.survivors))
        + (m.survivors + pack("<H", len(m.signatures) // 64) + m.signatures)
    ),
    Confirmation: lambda m: pack("<BB32s32s64s", 1, 10, m.sid, m.digest, m.signature),
    UnmaskRequest: lambda m: (
        pack("<BB32sH", 1, 11, m.sid, len(m.survivors))
        + (m.survivors + pack("<H", len(m.signers)) + quorum_of(m))
    ),
    UnmaskAnswer: lambda m: (
        pack("<BB32s32sH", 1, 12, m.sid, m.b, m.count)
        + (m.present + paired(m.shares, 36, m.other_hashes, 32))
    ),
    Abort: lambda m: pack("<BB32sH", 1, 13, m.sid, m.reason),
}

# SHA-256 of the samples' encodings.
FROZEN: dict[type[Any], str] = {
    Advertise: "7d9d3c9b87703e9adb42c8c56d2ce4b818720f6b82e17851132566755763cb26",
    Roster: "f31087bbd31771c60dfecb90a3b201df74ee4d992fa50c42ae7a5bb614ba71c7",
    Shares: "6c558631290e62840c6b90ae6f2a49930e30bc6d7bac7922e09d96af06f819c8",
    MaskRequest: "be5e1c3dd971190c3f1b87009596a2cadcb8cf1f5899d33f7c09307ae406df9b",
    Complaint: "b0ddaf7cf5c1f6229aacd4210117f3c71becfd44ded73707a4250c18f2b07775",
    UploadHeader: "0d53eee44bfed82c457e668094a78eef3731d2d7fb97a4a67c3304f422e2e2cd",
    UploadChunk: "eb400db9ddaaef4a444fc9cd53eb48f8cb5b4c275f16738db9d55b91c26e298a",
    UploadTrailer: "adb35dc013e07e94cdd7564fe33c2a1d35c4304ff62744c463273e8c432dff79",
    Survivors: "79e244eeda3f871b908b60d5bb2a211105bfdb8ba5c7ea0c21a73c596110132f",
    Confirmation: "a9d4293a8bf434b99206758299e53fb65ea58be46fbab3e129faa620a670157c",
    UnmaskRequest: "d9e71a1fe7c89a1fd9fa04290fce144c1d655f84eefaf055d34251925957f323",
    UnmaskAnswer: "47143cb1b1126fb88b34b83a5baf53250115990b9230cf064d64da1639bafb3c",
    Abort: "fa21f748ca935c95b703dd3f7326333f44cc8f772a3f3ff8a5c24a0a4ca31ddb",
}


@st.composite
def messages(draw: st.DrawFn, kind: type[Any]) -> Message:
    """A message like the sample of its kind, with other counts, numbers and bytes."""
    random = Random(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(0, 20))
    bits = draw(st.integers(0, 2**count - 1))
    n = draw(st.integers(2, 40))
    some = random.randbytes

    def number(width: int) -> int:
        return draw(st.integers(0, 2 ** (8 * width) - 1))

    def free(most: int) -> bytes:
        return some(draw(st.integers(0, most)))

    match kind.__name__:
        case "Advertise":
            return Advertise(some(120), some(176))
        case "Roster":
            near = tuple((some(176), some(32 * depth(n))) for _ in range(min(count, n - 1)))
            agreed = some(32), free(8192), free(1024)
            place = n, draw(st.integers(0, n - 1)), some(16)
            proof = some(120 * n), some(32 * depth(n)), near
            return Roster(some(32), number(8), number(4), *agreed, *place, *proof)
        case "Shares":
            return Shares(some(32), some(100 * count), some(32 * count), some(64))
        case "MaskRequest":
            inbox = some(100 * count), some(32 * count)
            return MaskRequest(some(32), some(32), free(128), *inbox)
        case "Complaint":
            reason = draw(st.sampled_from(ComplaintReason))
            return Complaint(some(32), number(4), reason, some(64))
        case "UploadHeader":
            return UploadHeader(some(32), some(32), number(8), some(64))
        case "UploadChunk":
            return UploadChunk(some(32), number(8), free(10_000))
        case "UploadTrailer":
            return UploadTrailer(some(32), some(32))
        case "Survivors":
            return Survivors(some(32), free(128), some(64 * count))
        case "Confirmation":
            return Confirmation(some(32), some(32), some(64))
        case "UnmaskRequest":
            signers = tuple(sorted(draw(st.sets(st.integers(0, 2**16 - 1), max_size=20))))
            return UnmaskRequest(some(32), free(128), signers, some(64 * len(signers)))
        case "UnmaskAnswer":
            present, held = bits.to_bytes(-(-count // 8), "little"), bits.bit_count()
            halves = some(36 * held), some(32 * held)
            return UnmaskAnswer(some(32), some(32), present, count, *halves)
        case _:
            return Abort(some(32), draw(st.sampled_from(AbortReason)))


def test_there_are_thirteen_messages_and_a_sample_of_each() -> None:
    assert [kind.code for kind in KINDS] == list(range(1, 14))
    assert list(SAMPLES) == list(BY_HAND) == list(FROZEN) == list(KINDS)


@every_kind
@given(data=st.data())
def test_every_message_survives_the_wire_and_lies_on_it_as_the_protocol_says(
    kind: type[Any], data: st.DataObject
) -> None:
    message = data.draw(messages(kind))
    encoded = encode(message)
    assert encoded == BY_HAND[kind](message)
    decoded = decode(memoryview(bytearray(encoded)))
    assert decoded == message and type(decoded) is kind
    assert encode(decoded) == encoded


@every_kind
def test_the_bytes_of_version_1_are_frozen(kind: type[Any]) -> None:
    encoded = encode(SAMPLES[kind])
    assert encoded == BY_HAND[kind](SAMPLES[kind])
    assert hashlib.sha256(encoded).hexdigest() == FROZEN[kind]


def test_any_contiguous_buffer_can_be_decoded() -> None:
    encoded = encode(SAMPLES[Abort])
    assert decode(memoryview(array("H", encoded))) == SAMPLES[Abort]


def test_the_fields_do_not_change_with_the_buffer() -> None:
    buffer = bytearray(encode(SAMPLES[UploadChunk]))
    message = decode(memoryview(buffer))
    buffer[:] = bytes(len(buffer))
    assert message == SAMPLES[UploadChunk]


@every_kind
def test_a_message_cannot_change(kind: type[Any]) -> None:
    message = SAMPLES[kind]
    for entry in fields(kind):
        with pytest.raises(FrozenInstanceError):
            setattr(message, entry.name, getattr(message, entry.name))
    assert not hasattr(message, "__dict__")


def test_neither_a_repr_nor_an_error_shows_a_secret() -> None:
    some = Random(1).randbytes
    answer = UnmaskAnswer(SID, some(32), b"\x07", 3, some(108), some(96))
    shown = repr(answer)
    with pytest.raises(MessageError) as caught:
        replace(answer, b=answer.b[:-1])
    with pytest.raises(MessageError) as again:
        replace(answer, shares=answer.shares[:-1])
    for text in (shown, str(caught.value), str(again.value)):
        for secret in (answer.b, answer.shares):
            for piece in entries(secret, 4):
                assert repr(piece)[2:-1] not in text and piece.hex() not in text


@every_kind
def test_a_repr_stays_readable(kind: type[Any]) -> None:
    assert len(repr(SAMPLES[kind])) < 2000
