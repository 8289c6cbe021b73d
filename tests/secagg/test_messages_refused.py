"""Nothing but a message decodes, and what is refused is named and sets no memory aside."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress
from dataclasses import fields, replace
from struct import pack
from typing import Any

import numpy as np
import pytest

from fedcore.errors import MessageError
from fedcore.secagg.messages import (
    CHUNK_BYTES,
    Abort,
    AbortReason,
    Complaint,
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
    decode,
    decode_as,
    encode,
)
from tests.secagg.samples import KINDS, NEIGHBOURS, SAMPLES, SID, depth, every_kind

FREE_LENGTH = {"config", "pulse", "uploaders", "survivors", "data"}


def refused(data: bytes | memoryview, limits: Limits | None = None) -> MessageError:
    with pytest.raises(MessageError) as caught:
        decode(data, limits=limits or Limits())
    return caught.value


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


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 4))]
)
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


def test_a_refusal_says_what_why_and_how_to_mend_it() -> None:
    error = refused(encode(large_roster(n=1025, degree=0)))
    assert error.what == "Roster.n: 1025 is more than the limit, 1024"
    assert error.why and "Limits.clients" in error.fix
