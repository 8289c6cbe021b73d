"""A message has one encoding: what decodes is what was encoded, and nothing else decodes."""

from __future__ import annotations

import hashlib
import tracemalloc
from array import array
from collections.abc import Callable
from contextlib import suppress
from dataclasses import FrozenInstanceError, fields, replace
from random import Random
from struct import pack
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fedcore.errors import MessageError
from fedcore.secagg.messages import (
    CHUNK_BYTES,
    Abort,
    AbortReason,
    Advertise,
    Complaint,
    ComplaintReason,
    Confirmation,
    Limits,
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
    decode_as,
    encode,
)

KINDS: tuple[type[Any], ...] = get_args(Message)
FREE_LENGTH = {"config", "pulse", "uploaders", "survivors", "data"}


def blob(first: int, size: int) -> bytes:
    """Bytes that count up from `first`."""
    return bytes((first + i) % 256 for i in range(size))


SID = blob(1, 32)
SIGNATURE = blob(200, 64)
NEIGHBOURS = tuple((blob(j, 176), blob(3 * j, 3 * 32)) for j in (40, 41, 42, 43))

SAMPLES: dict[type[Any], Message] = {
    Advertise: Advertise(blob(2, 120), blob(3, 176)),
    Roster: Roster(
        SID,
        2**40 + 5,
        7,
        blob(4, 32),
        blob(5, 90),
        blob(6, 48),
        5,
        3,
        blob(23, 16),
        blob(7, 5 * 120),
        blob(8, 3 * 32),
        NEIGHBOURS,
    ),
    Shares: Shares(SID, blob(9, 300), blob(10, 96), SIGNATURE),
    MaskRequest: MaskRequest(SID, blob(11, 32), b"\x1b", blob(12, 300), blob(13, 96)),
    Complaint: Complaint(SID, 70_000, ComplaintReason.NOT_IN_FIELD, SIGNATURE),
    UploadHeader: UploadHeader(SID, blob(14, 32), 2**33 + 1, SIGNATURE),
    UploadChunk: UploadChunk(SID, 2**34, blob(15, 77)),
    UploadTrailer: UploadTrailer(SID, blob(16, 32)),
    Survivors: Survivors(SID, b"\xff\x01", blob(17, 128)),
    Confirmation: Confirmation(SID, blob(18, 32), SIGNATURE),
    UnmaskRequest: UnmaskRequest(SID, b"\xff\x01", (0, 2, 513), blob(19, 192)),
    UnmaskAnswer: UnmaskAnswer(SID, blob(20, 32), b"\x85\x02", 10, blob(21, 144), blob(22, 128)),
    Abort: Abort(SID, AbortReason.CANNOT_UNMASK),
}


def depth(n: int) -> int:
    """⌈log₂ n⌉."""
    return next(d for d in range(33) if 2**d >= n)


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


def refused(data: bytes | memoryview, limits: Limits | None = None) -> MessageError:
    with pytest.raises(MessageError) as caught:
        decode(data, limits=limits or Limits())
    return caught.value


every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


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


@every_kind
def test_every_truncation_and_every_extension_is_refused(kind: type[Any]) -> None:
    encoded = encode(SAMPLES[kind])
    for size in range(len(encoded)):
        refused(memoryview(encoded)[:size])
    for more in (b"\0", b"\xff", bytes(31), encoded):
        refused(encoded + more)


def test_another_version_and_an_unknown_type_are_refused() -> None:
    encoded = encode(SAMPLES[Abort])
    for version in (0, 2, 255):
        assert "version" in refused(bytes([version]) + encoded[1:]).what
    for code in (0, 14, 255):
        assert "type" in refused(bytes([1, code]) + encoded[2:]).what


@pytest.mark.parametrize(
    "data", [None, "text", 5, [1, 13], memoryview(bytes(68))[::2]], ids=lambda d: type(d).__name__
)
def test_what_is_not_contiguous_bytes_is_refused(data: Any) -> None:
    refused(data)


def test_any_contiguous_buffer_can_be_decoded() -> None:
    encoded = encode(SAMPLES[Abort])
    assert decode(memoryview(array("H", encoded))) == SAMPLES[Abort]


def mutations(rng: np.random.Generator, encoded: list[bytes], count: int) -> list[bytes]:
    """Flipped bits, spliced messages, bytes put in and taken out, and forged length fields."""
    found = []
    for which, other, how, at, to, bit in rng.integers(0, 2**31, (count, 6)).tolist():
        data = bytearray(encoded[which % len(encoded)])
        at = 2 + at % (len(data) - 2)
        match how % 5:
            case 0:
                data[at] ^= 1 << bit % 8
            case 1:
                second = encoded[other % len(encoded)]
                data[at:] = second[to % len(second) :]
            case 2:
                data[at : at + to % 40] = b""
            case 3:
                data[at:at] = bytes([bit % 256]) * (1 + to % 40)
            case _:
                width = (2, 4, 8)[to % 3]
                forged = (b"\xff" * width, bytes(width), bit.to_bytes(8, "little")[:width])
                data[at : at + width] = forged[other % 3]
        found.append(bytes(data))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_a_mutated_message_is_refused_or_is_the_one_encoding_of_another(seed: int) -> None:
    rng = np.random.default_rng(seed)
    encoded = [encode(sample) for sample in SAMPLES.values()]
    accepted = 0
    for data in mutations(rng, encoded, 25_000):
        try:
            message = decode(data)
        except MessageError:
            continue
        assert encode(message) == data
        accepted += 1
    assert 2_500 < accepted < 22_500  # the mutations are neither all too wild nor all too tame


def peak_of(data: bytes | memoryview, limits: Limits) -> int:
    """The most memory, in bytes, that decoding sets aside."""
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    with suppress(MessageError):
        decode(data, limits=limits)
    return tracemalloc.get_traced_memory()[1] - before


@every_kind
@pytest.mark.parametrize("limits", [Limits(), Limits(2**31, 2**31, 2**31, 2**31)])
def test_a_forged_count_sets_no_memory_aside(kind: type[Any], limits: Limits) -> None:
    encoded = encode(SAMPLES[kind])
    decode(encoded)
    tracemalloc.start()
    try:
        for width in (2, 4):
            for at in range(2, len(encoded) - width, 1 if len(encoded) < 400 else 7):
                forged = encoded[:at] + b"\xff" * width + encoded[at + width :]
                # The runner's own threads allocate, too, now and then, but not three times.
                bound = 6 * len(encoded) + 10_000
                assert any(peak_of(forged, limits) < bound for _ in range(3))
    finally:
        tracemalloc.stop()


def large_roster(n: int = 1000, degree: int = 158) -> Roster:
    path = bytes(32 * depth(n))
    near = tuple((bytes(176), path) for _ in range(degree))
    agreed, place = (bytes(32), bytes(200), b""), (n, 3, bytes(16))
    return Roster(bytes(32), 1, 0, *agreed, *place, bytes(120 * n), path, near)


@pytest.mark.parametrize("message", [large_roster(), UploadChunk(SID, 0, bytes(CHUNK_BYTES))])
def test_decoding_copies_the_fields_once_and_a_refusal_copies_nothing(message: Message) -> None:
    encoded = encode(message)
    whole, longer = memoryview(encoded), memoryview(encoded + b"\0")
    tracemalloc.start()
    try:
        for data, bound in ((whole[:-1], 10_000), (longer, 10_000), (whole, 1.2 * len(encoded))):
            assert any(peak_of(data, Limits()) < bound for _ in range(3))
    finally:
        tracemalloc.stop()


def test_the_fields_do_not_change_with_the_buffer() -> None:
    buffer = bytearray(encode(SAMPLES[UploadChunk]))
    message = decode(memoryview(buffer))
    buffer[:] = bytes(len(buffer))
    assert message == SAMPLES[UploadChunk]


def test_counts_and_lengths_beyond_the_limits_are_refused() -> None:
    roster = large_roster(n=1025, degree=2)
    chunk = UploadChunk(SID, 0, bytes(1000))
    wide = replace(SAMPLES[Survivors], survivors=bytes(129))
    pairs = [
        (roster, "Roster.n", Limits(clients=1025)),
        (replace(SAMPLES[Roster], config=bytes(8193)), "Roster.config", Limits(config_bytes=8193)),
        (replace(SAMPLES[Roster], pulse=bytes(1025)), "Roster.pulse", Limits(pulse_bytes=1025)),
        (wide, "Survivors.survivors", Limits(clients=1025)),
    ]
    for message, where, enough in pairs:
        assert where in refused(encode(message)).what
        assert decode(encode(message), limits=enough) == message
    assert "UploadChunk.data" in refused(encode(chunk), Limits(chunk_bytes=999)).what
    for kind in (Shares, MaskRequest, Survivors, UnmaskRequest, UnmaskAnswer):
        assert kind.__name__ in refused(encode(SAMPLES[kind]), Limits(clients=1)).what


@every_kind
@pytest.mark.parametrize("wrong", [None, "text", 1.5, True, bytearray(32), np.uint32(1), [1]])
def test_a_field_of_a_wrong_type_is_refused_by_its_name(kind: type[Any], wrong: Any) -> None:
    for entry in fields(kind):
        with pytest.raises(MessageError, match=rf"{kind.__name__}\.{entry.name}\b"):
            replace(SAMPLES[kind], **{entry.name: wrong})


@every_kind
def test_a_field_of_a_wrong_length_is_refused_by_its_name(kind: type[Any]) -> None:
    for entry in fields(kind):
        value = getattr(SAMPLES[kind], entry.name)
        if isinstance(value, bytes) and entry.name not in FREE_LENGTH:
            for wrong in (value[:-1], value + b"\0"):
                with pytest.raises(MessageError, match=rf"{kind.__name__}\.{entry.name}\b"):
                    replace(SAMPLES[kind], **{entry.name: wrong})


@pytest.mark.parametrize(
    ("kind", "field", "wrong"),
    [
        (Roster, "round", -1),
        (Roster, "round", 2**64),
        (Roster, "attempt", 2**32),
        (Roster, "config", bytes(2**16)),
        (Roster, "n", 1),
        (Roster, "n", 2**32),
        (Roster, "index", 5),
        (Roster, "index", -1),
        (Roster, "neighbours", (*NEIGHBOURS, (bytes(176),))),
        (Roster, "neighbours", (*NEIGHBOURS, (bytes(176), bytes(64)))),
        (Roster, "neighbours", (*NEIGHBOURS, bytes(272))),
        (Roster, "neighbours", bytes(4)),
        (Complaint, "accused", 2**32),
        (Complaint, "reason", 1),
        (Complaint, "reason", AbortReason.WINDOW),
        (UploadHeader, "length", 2**64),
        (UploadChunk, "offset", -1),
        (UploadChunk, "data", bytes(CHUNK_BYTES + 1)),
        (UnmaskRequest, "signatures", bytes(128)),
        (UnmaskRequest, "signers", b"\0\1\2"),
        (UnmaskRequest, "signers", (2, 0, 513)),
        (UnmaskRequest, "signers", (0, 2, 2)),
        (UnmaskRequest, "signers", (-1, 2, 3)),
        (UnmaskRequest, "signers", (0, 2, 2**16)),
        (UnmaskRequest, "signers", (0, 2, 3.0)),
        (UnmaskAnswer, "present", b"\x85\x04"),
        (UnmaskAnswer, "present", b"\x85\x82"),
        (UnmaskAnswer, "count", 2**16),
        (Abort, "reason", 5),
    ],
)
def test_a_field_that_breaks_the_layout_is_refused_by_its_name(
    kind: type[Any], field: str, wrong: Any
) -> None:
    with pytest.raises(MessageError, match=rf"{kind.__name__}\.{field}\b"):
        replace(SAMPLES[kind], **{field: wrong})


def forged(kind: type[Any], at: int, value: bytes) -> bytes:
    encoded = encode(SAMPLES[kind])
    return encoded[:at] + value + encoded[at + len(value) :]


def test_what_breaks_the_layout_on_the_wire_is_refused_by_its_name() -> None:
    index = 34 + 8 + 4 + 32 + 2 + 90 + 2 + 48 + 4
    for data, where in [
        (forged(Roster, index, pack("<I", 5)), "Roster.index"),
        (forged(Complaint, 38, b"\0"), "Complaint.reason"),
        (forged(Complaint, 38, b"\x04"), "Complaint.reason"),
        (forged(Abort, 34, pack("<H", 0)), "Abort.reason"),
        (forged(Abort, 34, pack("<H", 7)), "Abort.reason"),
        (forged(UnmaskRequest, 40, pack("<H", 2)), "UnmaskRequest.signers"),
        (forged(UnmaskRequest, 40, pack("<H", 3)), "UnmaskRequest.signers"),
        (forged(UnmaskAnswer, 68, b"\x05\x06"), "UnmaskAnswer.present"),
    ]:
        assert refused(data).what.startswith(where)


def test_only_messages_are_encoded() -> None:
    for thing in (None, b"", object(), Abort):
        with pytest.raises(MessageError):
            encode(thing)  # type: ignore[arg-type]


@every_kind
def test_a_record_of_one_kind_is_not_taken_for_another(kind: type[Any]) -> None:
    encoded = encode(SAMPLES[kind])
    assert decode_as(encoded, kind) == SAMPLES[kind]
    for other in set(KINDS) - {kind}:
        with pytest.raises(MessageError, match=kind.__name__):
            decode_as(encoded, other)


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


def test_a_refusal_says_what_why_and_how_to_mend_it() -> None:
    error = refused(encode(large_roster(n=1025, degree=0)))
    assert error.what == "Roster.n: 1025 is more than the limit, 1024"
    assert error.why and "Limits.clients" in error.fix
