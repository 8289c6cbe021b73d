"""A signature holds for one message, RPC, place in a round and server, and nowhere else.

TLS may end at a load balancer, and a server may fall into other hands; so whatever changes a result
is signed by who sends it. In the manner of DSSE the signature covers, each behind its length in 8
bytes (little-endian), the domain "fedcore.v1/" with the RPC's name, the task, round and attempt, a
nonce of the server, and the payload. A message of one RPC, assignment or server is worthless in any
other, without a clock that both sides would have to share.

| signed | method | place |
|---|---|---|
| messages of an assignment | of the RPC, like "UploadService.Commit" | its `RoundRef` and nonce |
| mutations of an operator | like "AdminService.Drain" | the nonce is the server's id |
| a task, by its author | `TASK` | `Place()`: every server may show it |

What is signed is longer than the 32 bytes that `fedcore.secagg.transcript.statement` has, so the
one key signs both, and neither can pass for the other.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fedcore.errors import ArgumentError, EnvelopeError
from fedcore.secagg.identity import KEY_BYTES, SIGNATURE_BYTES, verify_signature
from fedcore.v1 import common_pb2

__all__ = [
    "TASK",
    "Place",
    "opened",
    "proof_statement",
    "reissue_statement",
    "seal",
    "signed_bytes",
]

TASK: Final = "task"

_DOMAIN: Final = "fedcore.v1/"
_METHOD: Final = re.compile(r"task|[A-Z][A-Za-z]*Service\.[A-Z][A-Za-z]*", re.ASCII)
_ENROL: Final = "EnrolmentService.Enrol"
_REISSUE: Final = "EnrolmentService.Reissue"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a message belongs. `nonce`: of the assignment, or the server's id.

    >>> Place(task_id="digits", round=3, attempt=1, nonce=b"n" * 32).round
    3
    """

    task_id: str = ""
    round: int = 0
    attempt: int = 0
    nonce: bytes = b""


def signed_bytes(payload: bytes, *, method: str, place: Place) -> bytes:
    """What a signature over `payload` covers: every part behind its length.

    Raises: ArgumentError for a method that is no name of an RPC, or a number beyond 64 bits.

    >>> start = signed_bytes(b"x", method="AdminService.Drain", place=Place())[:34]
    >>> start[8:]
    b'fedcore.v1/AdminService.Dr'
    """
    if _METHOD.fullmatch(method) is None:
        raise ArgumentError(
            f"{method!r} is no method whose messages are signed",
            why="a signature names the RPC that it is for",
            fix='write it like "UploadService.Commit"; a task has the method "task"',
        )
    return _framed(
        (_DOMAIN + method).encode("ascii"),
        place.task_id.encode("utf-8", "surrogatepass"),
        _number(place.round),
        _number(place.attempt),
        place.nonce,
        payload,
    )


def seal(
    payload: bytes, *, method: str, place: Place, sign: Callable[[bytes], bytes], key: bytes
) -> common_pb2.Envelope:
    """An envelope over `payload`. `sign`: of the Ed25519 key whose public 32 bytes are `key`.

    Raises: ArgumentError for another method, number, or length of the key.
    """
    if len(key) != KEY_BYTES:
        raise ArgumentError(
            "an envelope names a key of another length",
            why=f"{len(key)} bytes were given",
            fix=f"pass the {KEY_BYTES} public bytes of the Ed25519 key that signs",
        )
    signature = sign(signed_bytes(payload, method=method, place=place))
    return common_pb2.Envelope(payload=payload, key_id=key, signature=signature)


def opened(envelope: common_pb2.Envelope, *, method: str, place: Place, key: bytes) -> bytes:
    """The payload, once it is known to be signed with `key` for this method and place.

    `key`: 32 bytes, that of whom the connection or the registry says the sender is; the envelope's
    own `key_id` is compared with it and trusted for nothing. Takes 0.11 ms.
    Raises: EnvelopeError; ArgumentError as `signed_bytes` does.
    """
    covered = signed_bytes(envelope.payload, method=method, place=place)
    if not hmac.compare_digest(envelope.key_id, key):
        raise _refused("its key is not the key of its sender")
    if len(envelope.signature) != SIGNATURE_BYTES:
        raise _refused(f"a signature has {SIGNATURE_BYTES} bytes, not {len(envelope.signature)}")
    if not verify_signature(key, envelope.signature, covered):
        raise _refused("its signature does not hold for this content, RPC, round and server")
    return envelope.payload


def proof_statement(signing_request: bytes, authority: bytes) -> bytes:
    """What a client signs with its identity key to enrol it: it owns the key, and wants it here.

    `signing_request`: DER of the PKCS #10 request that it sends along; `authority`: DER of the root
    certificate that its join string names, so that no other federation can pass the proof on.
    """
    return _framed(
        (_DOMAIN + _ENROL).encode("ascii"),
        hashlib.sha256(signing_request).digest(),
        hashlib.sha256(authority).digest(),
    )


def reissue_statement(signing_request: bytes, authority: bytes, *, client_id: bytes) -> bytes:
    """What a client signs with its identity key to be certified anew. Parts as `proof_statement`.

    Whoever repeats it gets certificates for the key of that request, of which only its maker has
    the private half.
    """
    return _framed(
        (_DOMAIN + _REISSUE).encode("ascii"),
        hashlib.sha256(signing_request).digest(),
        hashlib.sha256(authority).digest(),
        client_id,
    )


def _framed(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(8, "little") + part for part in parts)


def _number(value: int) -> bytes:
    if not 0 <= value < 2**64:
        raise ArgumentError(
            f"{value} is no round and no attempt",
            why="they are signed as 8 bytes without a sign",
            fix="count rounds and attempts from 0",
        )
    return value.to_bytes(8, "little")


def _refused(why: str) -> EnvelopeError:
    return EnvelopeError(
        "a signed message is not valid here",
        why=why,
        fix="sign the exact bytes with the key that was enrolled, for the assignment at hand",
    )
