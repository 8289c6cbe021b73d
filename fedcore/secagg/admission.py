"""What a server asks of a client's message before it keeps it; each refusal names the client."""

from __future__ import annotations

from fedcore.errors import AuthenticationError, ConsistencyError, MessageError
from fedcore.secagg.assembly import SessionRoster
from fedcore.secagg.identity import Certificate, TrustStore
from fedcore.secagg.keys import PrekeyBundle
from fedcore.secagg.messages import (
    Advertise,
    Complaint,
    Confirmation,
    Shares,
    UploadChunk,
    UploadHeader,
    UploadTrailer,
)
from fedcore.secagg.revealing import confirmation_statement, header_statement
from fedcore.secagg.sharing import HASH_BYTES, complaint_statement, shares_statement

__all__ = [
    "check_advertisement",
    "check_chunk",
    "check_complaint",
    "check_confirmation",
    "check_header",
    "check_shares",
    "check_upload",
]


def check_advertisement(
    client_id: bytes, message: Advertise, *, trust: TrustStore, now: int
) -> Certificate:
    """The certificate, if it holds at `now`, is the sender's own, and signs the bundle."""
    certificate = trust.verify(message.certificate, now=now)
    if certificate.id != client_id:
        raise AuthenticationError(
            "a client posts the certificate of another",
            why=f"it names {certificate.id.hex()}",
            fix="post under the identity that the connection was made with",
            stage="R0",
            culprit=client_id,
        )
    PrekeyBundle.decode(message.bundle).verify(certificate, trust)
    return certificate


def check_shares(roster: SessionRoster, i: int, message: Shares, *, trust: TrustStore) -> None:
    """One sealed share for each neighbour, all signed."""
    degree = roster.parameters.degree
    if message.sid != roster.sid or len(message.hashes) != HASH_BYTES * degree:
        raise _misfit(roster, i, "R1", f"its shares are not {degree} shares of this session")
    signed = shares_statement(roster.sid, roster.root, message.ciphertexts, message.hashes)
    _check_signature(roster, i, message.signature, signed, "R1", trust)


def check_complaint(
    roster: SessionRoster, i: int, message: Complaint, *, trust: TrustStore
) -> None:
    """A signed complaint about a neighbour."""
    if message.sid != roster.sid or message.accused not in roster.neighbours[i]:
        raise _misfit(roster, i, "R2", f"it complains about {message.accused}, no neighbour of it")
    signed = complaint_statement(roster.sid, roster.root, message.accused, message.reason)
    _check_signature(roster, i, message.signature, signed, "R2", trust)


def check_header(
    roster: SessionRoster, i: int, message: UploadHeader, context: bytes, *, trust: TrustStore
) -> None:
    """The client masks under the server's own context, as many bytes as the layout has."""
    upload_bytes = roster.config.layout.upload_bytes
    if message.sid != roster.sid or message.length != upload_bytes:
        raise _misfit(roster, i, "R2", f"it announces {message.length} bytes, not {upload_bytes}")
    if message.context != context:
        raise ConsistencyError(
            f"client {i} masks under another context",
            why="it was told another set of uploaders, or lies",
            fix="drop this client: nobody would help to open a sum with it",
            stage="R2",
            culprit=roster.certificates[i].id,
        )
    _check_signature(roster, i, message.signature, header_statement(context, i), "R2", trust)


def check_chunk(
    roster: SessionRoster, i: int, chunk: UploadChunk, header: UploadHeader | None
) -> None:
    """A chunk follows its header, and lies within the upload that it announced."""
    inside = header is not None and chunk.offset + len(chunk.data) <= header.length
    if chunk.sid != roster.sid or not inside:
        raise _misfit(roster, i, "R2", "it is a chunk of another session, of none, or too long")


def check_upload(
    roster: SessionRoster,
    i: int,
    trailer: UploadTrailer,
    header: UploadHeader | None,
    *,
    received: bytes,
    length: int,
) -> None:
    """What was received is of the length that the header announced, and of the trailer's digest."""
    announced = header and (header.sid, header.length)
    if announced != (trailer.sid, length) or trailer.digest != received:
        raise MessageError(
            f"the upload of client {i} is not what it announced",
            why="its session, digest or length differs, or no header came before it",
            fix="discard the spool, and let the client send the upload again",
            stage="R2",
            culprit=roster.certificates[i].id,
        )


def check_confirmation(
    roster: SessionRoster,
    i: int,
    message: Confirmation,
    survivors_digest: bytes,
    *,
    trust: TrustStore,
) -> None:
    """The client confirms the one set that all were told; `survivors_digest` is T."""
    if message.sid != roster.sid or message.digest != survivors_digest:
        raise _misfit(roster, i, "R3", "it confirms another set of survivors")
    signed = confirmation_statement(survivors_digest)
    _check_signature(roster, i, message.signature, signed, "R3", trust)


def _check_signature(
    roster: SessionRoster,
    i: int,
    signature: bytes,
    statement: bytes,
    stage: str,
    trust: TrustStore,
) -> None:
    certificate = roster.certificates[i]
    if not trust.verify_signature(certificate.key, signature, statement):
        raise AuthenticationError(
            f"a message of client {i} is not signed by it",
            why="its certificate's key does not verify the signature",
            fix="drop this client, or let it send the message again",
            stage=stage,
            culprit=certificate.id,
        )


def _misfit(roster: SessionRoster, i: int, stage: str, why: str) -> MessageError:
    return MessageError(
        f"a message of client {i} does not belong to what it was asked",
        why=why,
        fix="drop this client, or let it send the message again",
        stage=stage,
        culprit=roster.certificates[i].id,
    )
