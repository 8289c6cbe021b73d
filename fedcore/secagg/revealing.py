"""The end of a session on the client: one set is confirmed, and the masks of that set are revealed.

A client reveals, of each neighbour, a share of the self mask's seed if it survived, or of the mask
key if it was lost: never both, and never for two sets.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from fedcore.errors import AuthenticationError, MessageError
from fedcore.secagg.identity import TrustStore
from fedcore.secagg.keys import Prekey, half_hash
from fedcore.secagg.messages import Survivors, UnmaskAnswer, UnmaskRequest
from fedcore.secagg.params import Profile
from fedcore.secagg.roster import RosterView
from fedcore.secagg.sharing import HeldShare
from fedcore.secagg.transcript import bitmap_of, entry, statement, u32

__all__ = [
    "SIGNATURE_BYTES",
    "check_headers",
    "check_quorum",
    "confirmation_statement",
    "header_statement",
    "reveal",
]

SIGNATURE_BYTES = 64


def header_statement(context: bytes, index: int) -> bytes:
    """What a client signs when it begins an upload (protocol §7, message 6)."""
    return statement("R2", context, u32(index))


def confirmation_statement(survivors_digest: bytes) -> bytes:
    """What a client signs of the set whose sum may be opened (protocol §7, message 10)."""
    return statement("R3", survivors_digest)


def check_headers(
    view: RosterView,
    message: Survivors,
    context: bytes,
    survivors: npt.NDArray[np.bool_],
    *,
    trust: TrustStore,
) -> None:
    """Every surviving neighbour masked under this client's own context, and signed that it did.

    Raises: MessageError for another number of signatures; AuthenticationError, naming the client.
    """
    neighbours = view.neighbours_in(survivors)
    if len(message.signatures) != SIGNATURE_BYTES * len(neighbours):
        raise MessageError(
            f"{len(message.signatures)} bytes of header signatures",
            why=f"{len(neighbours)} neighbours survive, with {SIGNATURE_BYTES} bytes each",
            fix="send the signature of each surviving neighbour, in order",
            stage="R3",
        )
    for place, j in enumerate(neighbours):
        signature = entry(message.signatures, SIGNATURE_BYTES, place)
        key = view.certificates[j].key
        if not trust.verify_signature(key, signature, header_statement(context, j)):
            raise AuthenticationError(
                f"client {j} did not sign that it masked under what this client knows",
                why="it saw another roster, model, configuration or set of uploaders",
                fix="the server must tell all clients the same; this session opens nothing",
                stage="R3",
                culprit=view.certificates[j].id,
            )


def check_quorum(
    view: RosterView, request: UnmaskRequest, survivors_digest: bytes, *, trust: TrustStore
) -> None:
    """Enough members of the roster confirmed this one set; in `semi_honest` nobody is asked to.

    Raises: AuthenticationError.
    """
    malicious = view.config.profile is Profile.MALICIOUS
    needed = view.parameters.quorum if malicious else 0
    signers = request.signers
    if len(signers) < needed or (not malicious and signers):
        raise _no_quorum(f"{len(signers)} clients confirmed the set, {needed} are needed")
    signed = confirmation_statement(survivors_digest)
    for place, j in enumerate(signers):
        if j >= view.parameters.n:
            raise _no_quorum(f"signer {j} is not in the roster of {view.parameters.n}")
        signature = entry(request.signatures, SIGNATURE_BYTES, place)
        key = view.certificates[j].key
        if not trust.verify_signature(key, signature, signed):
            raise _no_quorum(f"the confirmation of client {j} is not valid")


def reveal(
    view: RosterView,
    prekey: Prekey,
    held: Mapping[int, HeldShare],
    *,
    uploaders: npt.NDArray[np.bool_],
    survivors: npt.NDArray[np.bool_],
) -> UnmaskAnswer:
    """This client's b, and one half of each share it holds: of b or of the mask key, message 12.

    With each half goes the hash of the other, so that a wrong one can be held against its sharer
    or its holder.
    """
    senders = view.neighbours_in(uploaders)
    shares, other_hashes = [], []
    for j in senders:
        if j not in held:
            continue
        share = held[j]
        if survivors[j]:
            shares.append(share.of_b)
            other_hashes.append(half_hash("sk", view.sid, j, view.index, share.of_mask_key))
        else:
            shares.append(share.of_mask_key)
            other_hashes.append(half_hash("b", view.sid, j, view.index, share.of_b))
    present = np.array([j in held for j in senders], bool)
    return UnmaskAnswer(
        sid=view.sid,
        b=prekey.b,
        present=bitmap_of(present),
        count=len(senders),
        shares=b"".join(shares),
        other_hashes=b"".join(other_hashes),
    )


def _no_quorum(what: str) -> AuthenticationError:
    return AuthenticationError(
        what,
        why="a set is opened only if a quorum of the roster signed that very set",
        fix="collect the confirmations of this session again",
        stage="R4",
    )
