"""One client in one session: what it knows, what it has promised, and what it answers.

A message is checked whole before anything changes; what is promised is persisted before it is sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from fedcore.errors import ConsistencyError, MessageError, ReuseError, StageError
from fedcore.secagg.effects import Effect, NeedInput, Persist, Send
from fedcore.secagg.identity import Identity, TrustStore
from fedcore.secagg.keys import Channel, Prekey
from fedcore.secagg.masking import check_blocks, mask_streams, masked_frames
from fedcore.secagg.messages import (
    Complaint,
    Confirmation,
    MaskRequest,
    Roster,
    Shares,
    Survivors,
    UnmaskAnswer,
    UnmaskRequest,
    UploadChunk,
    UploadHeader,
    UploadTrailer,
    encode,
)
from fedcore.secagg.packing import IntegerSource
from fedcore.secagg.params import Profile
from fedcore.secagg.policy import Policy
from fedcore.secagg.records import step_key
from fedcore.secagg.revealing import (
    check_headers,
    check_quorum,
    confirmation_statement,
    header_statement,
    reveal,
)
from fedcore.secagg.roster import RosterView
from fedcore.secagg.sharing import CIPHERTEXT_BYTES, HeldShare, receive
from fedcore.secagg.transcript import context_digest, members_of, survivor_digest, u64

_M = TypeVar("_M")

__all__ = ["Masking", "Participation", "used_up"]


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
    """The state of one session: roster and shares, then masking, then committed, then confirmed.

    `joined`: Unix seconds at which the roster was verified.
    """

    identity: Identity
    policy: Policy
    trust: TrustStore
    roster: Roster
    view: RosterView
    prekey: Prekey
    channels: Mapping[int, Channel]
    shares: Shares
    joined: int
    masking: Masking | None = None
    frame_digests: bytes = b""
    confirmation: Confirmation | None = None
    closed: bool = False

    @property
    def stage(self) -> str:
        """The name of the state."""
        if self.confirmation is not None:
            return "confirmed"
        if self.masking is None:
            return "shared"
        return "committed" if self.frame_digests else "masking"

    def records(self) -> list[Effect]:
        """All that this session has promised so far.

        What is sent again is persisted again before it: the first time may have failed.
        """
        values = {"roster": u64(self.joined) + encode(self.roster), "shares": encode(self.shares)}
        if self.masking is not None:
            values["mask-request"] = encode(self.masking.request)
        if self.frame_digests:
            values["masking"] = self.frame_digests
        if self.confirmation is not None:
            values["confirmation"] = encode(self.confirmation)
        return [Persist(step_key(self.view.sid, step), value) for step, value in values.items()]

    def pending(self) -> list[Effect]:
        """What this client does again after a crash, or when its last messages were lost."""
        if self.confirmation is not None:
            return [Send(self.confirmation)]
        if self.masking is None:
            return [Send(self.shares)]
        ask = NeedInput(
            sid=self.view.sid,
            config=self.view.config,
            round=self.view.round,
            model_digest=self.masking.request.model_digest,
            context=self.masking.context,
            committed=bool(self.frame_digests),
        )
        return [*[Send(complaint) for complaint in self.masking.complaints], ask]

    def take_request(self, request: MaskRequest) -> list[Effect]:
        """Fix what this client masks under; ask for its vector.

        Raises: ReuseError for a second, other request; MessageError, ConsistencyError, PolicyError.
        """
        if self.masking is not None:
            if self.masking.request != request:
                raise used_up("another set of uploaders, or another model", "R2")
            return [] if self.confirmation else [*self.records(), *self.pending()]
        self.masking = self.accepted(request)
        key = step_key(request.sid, "mask-request")
        return [Persist(key, encode(request)), *self.pending()]

    def accepted(self, request: MaskRequest) -> Masking:
        """What `request` makes this client mask under, with nothing kept. Raises as above."""
        view = self.view
        uploaders = members_of(request.uploaders, view.parameters.n)
        count = int(uploaders.sum())
        if not uploaders[view.index] or count < view.parameters.minimum_survivors:
            raise ConsistencyError(
                f"{count} uploaders are not a set to mask with",
                why=f"this client and at least {view.parameters.minimum_survivors} must be in it",
                fix="abandon the session and begin another one",
                stage="R2",
            )
        self.policy.check_model(request.model_digest)
        senders = view.neighbours_in(uploaders)
        if len(request.ciphertexts) != CIPHERTEXT_BYTES * len(senders):
            raise MessageError(
                f"{len(request.ciphertexts)} bytes of shares",
                why=f"{len(senders)} neighbours are uploaders, with {CIPHERTEXT_BYTES} bytes each",
                fix="send the share of each neighbour among the uploaders, in order",
                stage="R2",
            )
        held, complaints = receive(view, request, senders, self.channels, identity=self.identity)
        context = context_digest(
            sid=view.sid,
            root=view.root,
            bitmap=request.uploaders,
            model_digest=request.model_digest,
            config_digest=view.config.digest,
        )
        return Masking(request, uploaders, context, held, tuple(complaints))

    def upload(
        self, blocks: Sequence[IntegerSource]
    ) -> Iterator[UploadHeader | UploadChunk | UploadTrailer]:
        """Header, masked chunks and trailer. Raises: StageError, ReuseError."""
        masking, view = self._masked("R2"), self.view
        layout = view.config.layout
        check_blocks(layout, blocks)
        signature = self.identity.sign(header_statement(masking.context, view.index))
        header = UploadHeader(view.sid, masking.context, layout.upload_bytes, signature)
        frames = masked_frames(
            view.sid,
            layout,
            blocks,
            self.frame_digests,
            mask_streams(view, self.prekey, masking.uploaders),
            prg=view.config.prg,
        )
        return self._while_open(chain([header], frames))

    def _while_open(self, messages: Iterator[_M]) -> Iterator[_M]:
        for message in messages:
            if self.closed:
                raise used_up("more of an upload to a session that it has closed", "R2")
            yield message

    def confirm(self, message: Survivors) -> list[Effect]:
        """Sign the one set whose sum this client lets be opened.

        Raises: ReuseError for a second set; ConsistencyError for one that would reveal more than
        the sum of honest clients; AuthenticationError if a neighbour masked under another context.
        """
        view, masking = self.view, self._masked("R3")
        if view.config.profile is not Profile.MALICIOUS:
            raise StageError(
                "nobody confirms survivors in the profile SEMI_HONEST",
                why="its clients trust that the server tells all of them the same set",
                fix="send an UnmaskRequest",
                stage="R3",
            )
        survivors_digest = survivor_digest(masking.context, message.survivors)
        if self.confirmation is not None:
            if self.confirmation.digest != survivors_digest:
                raise used_up("a second set of survivors", "R3")
            return [*self.records(), Send(self.confirmation)]
        survivors = view.check_survivors(message.survivors, masking.uploaders, stage="R3")
        check_headers(view, message, masking.context, survivors, trust=self.trust)
        signature = self.identity.sign(confirmation_statement(survivors_digest))
        self.confirmation = Confirmation(message.sid, survivors_digest, signature)
        return [
            Persist(step_key(message.sid, "confirmation"), encode(self.confirmation)),
            Send(self.confirmation),
        ]

    def answer(self, request: UnmaskRequest) -> tuple[bytes, bytes, UnmaskAnswer]:
        """H_ctx, T and what this client reveals for it; the caller closes the session with it.

        Raises: StageError, ReuseError, ConsistencyError, AuthenticationError.
        """
        view, masking = self.view, self._masked("R4")
        survivors_digest = survivor_digest(masking.context, request.survivors)
        if view.config.profile is Profile.MALICIOUS:
            if self.confirmation is None:
                raise StageError(
                    "an unmasking comes before this client confirmed the survivors",
                    why="which sum it opens must be signed by a quorum first",
                    fix="send Survivors, and collect the confirmations",
                    stage="R4",
                )
            if self.confirmation.digest != survivors_digest:
                raise used_up("another set of survivors than the one that was confirmed", "R4")
        survivors = view.check_survivors(request.survivors, masking.uploaders, stage="R4")
        check_quorum(view, request, survivors_digest, trust=self.trust)
        answer = reveal(
            view, self.prekey, masking.held, uploaders=masking.uploaders, survivors=survivors
        )
        return masking.context, survivors_digest, answer

    def _masked(self, asked: str) -> Masking:
        if self.masking is None or not self.frame_digests:
            raise StageError(
                f"{asked} comes before this client's vector",
                why=f"the session stands at {self.stage!r}",
                fix="wait for the client's upload, or drop the client",
                stage=asked,
            )
        return self.masking


def used_up(what: str, stage: str) -> ReuseError:
    """The refusal of a second one of what a client gives once."""
    return ReuseError(
        f"this client was asked for {what}",
        why="what it gave once binds it for ever; a second would open more than one sum",
        fix="begin a new session with new prekeys",
        stage=stage,
    )
