"""A signature holds for one message, method, place and key, and for nothing else."""

from __future__ import annotations

import dataclasses

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import assume, given, strategies as st

from fedcore.errors import ArgumentError, EnvelopeError
from fedcore.secagg.transcript import statement
from fedcore.v1 import common_pb2
from fedcore.wire.envelope import (
    TASK,
    Place,
    opened,
    proof_statement,
    reissue_statement,
    seal,
    signed_bytes,
)

ALICE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
BOB = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
ALICES_KEY = ALICE.public_key().public_bytes_raw()
BOBS_KEY = BOB.public_key().public_bytes_raw()

METHODS = st.sampled_from(
    [TASK, "UploadService.Commit", "SecAggService.Share", "AdminService.Drain"]
)
PLACES = st.builds(
    Place,
    task_id=st.text(max_size=5),
    round=st.integers(0, 2**64 - 1),
    attempt=st.integers(0, 2**32 - 1),
    nonce=st.binary(max_size=4),
)
MESSAGES = st.tuples(st.binary(max_size=8), METHODS, PLACES)


def sealed(payload: bytes, method: str, place: Place) -> common_pb2.Envelope:
    return seal(payload, method=method, place=place, sign=ALICE.sign, key=ALICES_KEY)


@given(MESSAGES)
def test_what_was_sealed_opens_at_its_place(message: tuple[bytes, str, Place]) -> None:
    payload, method, place = message
    envelope = common_pb2.Envelope.FromString(sealed(*message).SerializeToString())
    assert opened(envelope, method=method, place=place, key=ALICES_KEY) == payload


@given(MESSAGES, MESSAGES)
def test_a_signature_holds_for_no_other_message_method_or_place(
    mine: tuple[bytes, str, Place], other: tuple[bytes, str, Place]
) -> None:
    assume(mine != other)
    envelope = sealed(*mine)
    envelope.payload = other[0]
    with pytest.raises(EnvelopeError):
        opened(envelope, method=other[1], place=other[2], key=ALICES_KEY)


@given(MESSAGES, MESSAGES)
def test_different_messages_are_signed_as_different_bytes(
    mine: tuple[bytes, str, Place], other: tuple[bytes, str, Place]
) -> None:
    def covered(message: tuple[bytes, str, Place]) -> bytes:
        return signed_bytes(message[0], method=message[1], place=message[2])

    assert (covered(mine) == covered(other)) == (mine == other)


@pytest.mark.parametrize(
    "change",
    [{"task_id": "other"}, {"round": 4}, {"attempt": 2}, {"nonce": b"n" * 31 + b"m"}],
    ids=lambda change: next(iter(change)),
)
def test_a_message_cannot_be_replayed_at_another_place(change: dict[str, object]) -> None:
    place = Place("digits", 3, 1, b"n" * 32)
    envelope = sealed(b"update", "UploadService.Commit", place)
    with pytest.raises(EnvelopeError, match="not valid here"):
        opened(
            envelope,
            method="UploadService.Commit",
            place=dataclasses.replace(place, **change),  # type: ignore[arg-type]
            key=ALICES_KEY,
        )


def test_the_key_that_an_envelope_names_is_not_trusted_by_itself() -> None:
    forged = seal(b"x", method=TASK, place=Place(), sign=BOB.sign, key=BOBS_KEY)
    with pytest.raises(EnvelopeError) as refused:
        opened(forged, method=TASK, place=Place(), key=ALICES_KEY)
    assert "not the key of its sender" in refused.value.why
    forged.key_id = ALICES_KEY
    with pytest.raises(EnvelopeError):
        opened(forged, method=TASK, place=Place(), key=ALICES_KEY)


@given(st.binary(max_size=100), st.binary(max_size=100), st.binary(max_size=100))
def test_whatever_comes_as_an_envelope_is_refused_as_one(
    payload: bytes, key_id: bytes, signature: bytes
) -> None:
    for key in (key_id, ALICES_KEY):
        envelope = common_pb2.Envelope(payload=payload, key_id=key, signature=signature)
        with pytest.raises(EnvelopeError):
            opened(envelope, method=TASK, place=Place(), key=ALICES_KEY)


@pytest.mark.parametrize("key", [bytes(32), b"\x01" + bytes(31)], ids=["order 4", "order 1"])
def test_a_key_for_which_anyone_can_sign_opens_nothing(key: bytes) -> None:
    for first in range(64):
        envelope = common_pb2.Envelope(payload=b"x", key_id=key, signature=bytes([first]) * 64)
        with pytest.raises(EnvelopeError):
            opened(envelope, method=TASK, place=Place(), key=key)


@pytest.mark.parametrize(
    "method", ["", "Commit", "/fedcore.v1.UploadService/Commit", "x.Y", "task "]
)
def test_a_method_that_is_no_rpc_is_refused(method: str) -> None:
    with pytest.raises(ArgumentError, match="no method"):
        signed_bytes(b"", method=method, place=Place())


@pytest.mark.parametrize("place", [Place(round=-1), Place(attempt=2**64)], ids=str)
def test_a_round_that_does_not_fit_is_refused_before_it_is_signed(place: Place) -> None:
    with pytest.raises(ArgumentError, match="no round"):
        sealed(b"", TASK, place)


def test_nothing_that_is_signed_here_is_a_statement_of_secure_aggregation() -> None:
    assert len(signed_bytes(b"", method=TASK, place=Place())) > len(statement("cert"))
    assert len(proof_statement(b"", b"")) > len(statement("cert"))


def test_a_proof_of_identity_is_bound_to_its_request_and_authority() -> None:
    proofs = {proof_statement(a, b) for a in (b"", b"r", b"rs") for b in (b"", b"a", b"sa")}
    assert len(proofs) == 9


def test_a_proof_for_new_certificates_is_bound_to_its_client_and_to_that_rpc() -> None:
    parts = (b"", b"r", b"rs")
    proofs = {reissue_statement(a, b, client_id=c) for a in parts for b in parts for c in parts}
    assert len(proofs) == 27
    assert proofs.isdisjoint(proof_statement(a, b) for a in parts for b in parts)
    assert min(map(len, proofs)) > len(statement("cert"))


def test_the_signed_bytes_are_those_of_the_documentation() -> None:
    expected = bytearray()
    place = Place("digits", 7, 2, b"\x01\x02")
    numbers = [(7).to_bytes(8, "little"), (2).to_bytes(8, "little")]
    for part in [b"fedcore.v1/RoundService.Report", b"digits", *numbers, b"\x01\x02", b"payload"]:
        expected += len(part).to_bytes(8, "little") + part
    assert signed_bytes(b"payload", method="RoundService.Report", place=place) == bytes(expected)
