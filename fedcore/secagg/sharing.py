"""A client's secrets, split among its neighbours, so that enough of them can stand in for it."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from fedcore.entropy import Entropy
from fedcore.errors import AuthenticationError
from fedcore.secagg import shamir
from fedcore.secagg.identity import Identity
from fedcore.secagg.keys import Channel, Prekey, share_hash
from fedcore.secagg.messages import Complaint, ComplaintReason, MaskRequest, Shares
from fedcore.secagg.roster import RosterView
from fedcore.secagg.shamir import SHARE_BYTES
from fedcore.secagg.transcript import digest, entry, statement, u32

__all__ = [
    "CIPHERTEXT_BYTES",
    "HASH_BYTES",
    "HeldShare",
    "channels_of",
    "complaint_statement",
    "deal",
    "receive",
    "shares_statement",
]

CIPHERTEXT_BYTES, HASH_BYTES = 100, 32
_LIMBS = struct.Struct(f"<{2 * shamir.LIMBS}I")


@dataclass(frozen=True, slots=True)
class HeldShare:
    """One neighbour's share of its two secrets: 36 bytes of b, 36 of the private mask key."""

    of_b: bytes = field(repr=False)
    of_mask_key: bytes = field(repr=False)


def channels_of(view: RosterView, prekey: Prekey) -> dict[int, Channel]:
    """The sealed channel to each neighbour, by its index."""
    schedule = view.schedule
    return {
        j: schedule.channel(prekey.channel_private, bundle.channel_key, view.index, j)
        for j, bundle in view.bundles.items()
    }


def shares_statement(sid: bytes, root: bytes, ciphertexts: bytes, hashes: bytes) -> bytes:
    """What a client signs of the shares it deals (protocol §7, message 3)."""
    return statement("R1", sid, root, digest("shares", ciphertexts, hashes))


def complaint_statement(sid: bytes, root: bytes, accused: int, reason: ComplaintReason) -> bytes:
    """What a client signs of a share that it could not take (protocol §7, message 5)."""
    return statement("complaint", sid, root, u32(accused), bytes([reason]))


def deal(
    view: RosterView,
    prekey: Prekey,
    channels: Mapping[int, Channel],
    *,
    identity: Identity,
    entropy: Entropy,
) -> Shares:
    """Split b and the private mask key among the neighbours, sealed for each: message 3."""
    holders = np.array(list(channels), np.int64)
    limbs = shamir.share(
        [prekey.b, prekey.mask_secret],
        threshold=view.parameters.threshold,
        points=holders + 1,
        entropy=entropy,
    )
    ciphertexts, hashes = [], []
    for (j, channel), row in zip(channels.items(), limbs.astype("<u4"), strict=True):
        halves = row.tobytes()
        of_b, of_mask_key = halves[:SHARE_BYTES], halves[SHARE_BYTES:]
        ciphertexts.append(channel.seal(halves, entropy))
        hashes.append(share_hash(view.sid, view.index, j, of_b, of_mask_key))
    sealed, hashed = b"".join(ciphertexts), b"".join(hashes)
    signature = identity.sign(shares_statement(view.sid, view.root, sealed, hashed))
    return Shares(view.sid, sealed, hashed, signature)


def receive(
    view: RosterView,
    request: MaskRequest,
    senders: list[int],
    channels: Mapping[int, Channel],
    *,
    identity: Identity,
) -> tuple[dict[int, HeldShare], list[Complaint]]:
    """The shares that this client holds for `senders`, and a complaint about each bad one.

    A bad share costs one holder and nothing else: the sender is masked with all the same.
    """
    held: dict[int, HeldShare] = {}
    complaints = []
    for place, j in enumerate(senders):
        ciphertext = entry(request.ciphertexts, CIPHERTEXT_BYTES, place)
        expected = entry(request.hashes, HASH_BYTES, place)
        share = _open(view, j, channels[j], ciphertext, expected)
        if isinstance(share, HeldShare):
            held[j] = share
        else:
            signature = identity.sign(complaint_statement(view.sid, view.root, j, share))
            complaints.append(Complaint(view.sid, j, share, signature))
    return held, complaints


def _open(
    view: RosterView, sender: int, channel: Channel, ciphertext: bytes, expected: bytes
) -> HeldShare | ComplaintReason:
    try:
        halves = channel.open(ciphertext)
    except AuthenticationError:
        return ComplaintReason.NOT_DECRYPTED
    share = HeldShare(halves[:SHARE_BYTES], halves[SHARE_BYTES:])
    found = share_hash(view.sid, sender, view.index, share.of_b, share.of_mask_key)
    if found != expected:
        return ComplaintReason.OTHER_HASH
    # Plain integers: as two arrays of one share each, the limbs of 94 neighbours took 1.5 ms.
    if max(_LIMBS.unpack(halves)) >= shamir.PRIME:
        return ComplaintReason.NOT_IN_FIELD
    return share
