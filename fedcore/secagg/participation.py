"""What one client knows and has promised in one session.

Only the driving `SecAggClient` changes it, and only after every check of a message has passed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedcore.errors import ConsistencyError, MessageError, StageError
from fedcore.secagg.effects import NeedInput, Send
from fedcore.secagg.identity import Identity
from fedcore.secagg.keys import Channel, Prekey
from fedcore.secagg.messages import Complaint, Confirmation, MaskRequest, Roster, Shares
from fedcore.secagg.policy import Policy
from fedcore.secagg.roster import RosterView
from fedcore.secagg.sharing import CIPHERTEXT_BYTES, HeldShare, receive
from fedcore.secagg.transcript import context_digest, members_of

__all__ = ["Masking", "Participation", "accept_request"]


@dataclass(frozen=True, repr=False)
class Masking:
    """What a client masks under, fixed by the server's one MaskRequest.

    `uploaders` (n,): U1. `context`: H_ctx. `held`: the shares of its neighbours' secrets.
    """

    request: MaskRequest
    uploaders: npt.NDArray[np.bool_]
    context: bytes
    held: Mapping[int, HeldShare]
    complaints: tuple[Complaint, ...]


@dataclass(repr=False)
class Participation:
    """The state of one session: roster and shares, then masking, then committed, then confirmed."""

    roster: Roster
    view: RosterView
    prekey: Prekey
    channels: Mapping[int, Channel]
    shares: Shares
    masking: Masking | None = None
    frame_digests: bytes = b""
    confirmation: Confirmation | None = None

    @property
    def stage(self) -> str:
        """The name of the state."""
        if self.confirmation is not None:
            return "confirmed"
        if self.masking is None:
            return "shared"
        return "committed" if self.frame_digests else "masking"

    def masked(self, *, asked: str) -> Masking:
        """What this client masked its vector under. Raises: StageError if it has committed none."""
        if self.masking is None or not self.frame_digests:
            raise StageError(
                f"{asked} comes before this client's vector",
                why=f"the session stands at {self.stage!r}",
                fix="wait for the client's upload, or drop the client",
                stage=asked,
            )
        return self.masking

    def pending(self) -> Send | NeedInput:
        """What this client does again after a crash, or when its last message was lost."""
        if self.confirmation is not None:
            return Send(self.confirmation)
        if self.masking is None:
            return Send(self.shares)
        return NeedInput(
            sid=self.view.sid,
            model_digest=self.masking.request.model_digest,
            context=self.masking.context,
            layout=self.view.config.layout,
            committed=bool(self.frame_digests),
        )


def accept_request(
    session: Participation, request: MaskRequest, *, identity: Identity, policy: Policy
) -> Masking:
    """What `request` makes this client mask under.

    Raises: MessageError, ConsistencyError or PolicyError, with nothing kept.
    """
    view = session.view
    uploaders = members_of(request.uploaders, view.parameters.n)
    count = int(uploaders.sum())
    if not uploaders[view.index] or count < view.parameters.minimum_survivors:
        raise ConsistencyError(
            f"{count} uploaders are not a set to mask with",
            why=f"this client and at least {view.parameters.minimum_survivors} must be in it",
            fix="abandon the session and begin another one",
            stage="R2",
        )
    policy.check_model(request.model_digest)
    senders = view.neighbours_in(uploaders)
    if len(request.ciphertexts) != CIPHERTEXT_BYTES * len(senders):
        raise MessageError(
            f"{len(request.ciphertexts)} bytes of shares",
            why=f"{len(senders)} neighbours are uploaders, with {CIPHERTEXT_BYTES} bytes each",
            fix="send the share of each neighbour among the uploaders, in order",
            stage="R2",
        )
    held, complaints = receive(view, request, senders, session.channels, identity=identity)
    context = context_digest(
        sid=view.sid,
        root=view.root,
        bitmap=request.uploaders,
        model_digest=request.model_digest,
        config_digest=view.config.digest,
    )
    return Masking(request, uploaders, context, held, tuple(complaints))
