"""What a session has collected so far: all that the server knows, and all that it makes durable.

The driver's records hold the same, one a message or frozen set, and give it back after a crash.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from fedcore.errors import MessageError
from fedcore.secagg.assembly import SessionRoster
from fedcore.secagg.effects import Effect, Persist
from fedcore.secagg.messages import (
    AbortReason,
    Complaint,
    Confirmation,
    MaskRequest,
    Message,
    Shares,
    Survivors,
    UnmaskAnswer,
    UnmaskRequest,
    UploadHeader,
    UploadTrailer,
    decode_as,
)
from fedcore.secagg.params import Profile
from fedcore.secagg.reconstruction import Opening
from fedcore.secagg.sharing import CIPHERTEXT_BYTES, HASH_BYTES
from fedcore.secagg.transcript import bitmap_of, context_digest, entry, members_of, survivor_digest

__all__ = ["BOXES", "Collected"]

BOXES: Mapping[str, type[Message]] = {
    "shares": Shares,
    "header": UploadHeader,
    "trailer": UploadTrailer,
    "confirmation": Confirmation,
    "answer": UnmaskAnswer,
}
_M = TypeVar("_M", bound=Message)
_DIGEST_BYTES = 32


@dataclass
class Collected:
    """A frozen roster, the messages of its clients by kind and index, and the sets frozen since.

    `uploaders`, `survivors`: (n,) bool, or None before they are frozen. `signers`: the indices of
    the quorum that is shown. `aborted`: why the session ended, or None.
    """

    roster: SessionRoster
    model_digest: bytes
    boxes: dict[type[Any], dict[int, Any]] = field(
        default_factory=lambda: {kind: {} for kind in BOXES.values()}
    )
    complaints: dict[tuple[int, int], Complaint] = field(default_factory=dict)
    uploaders: npt.NDArray[np.bool_] | None = None
    survivors: npt.NDArray[np.bool_] | None = None
    signers: tuple[int, ...] | None = None
    opened: bool = False
    aborted: AbortReason | None = None

    def of(self, kind: type[_M]) -> dict[int, _M]:
        """The messages of one kind, by the index of the client."""
        return self.boxes[kind]

    def senders(self, kind: type[Message]) -> npt.NDArray[np.bool_]:
        """The clients (n,) that have sent a message of this kind."""
        members = np.zeros(self.roster.n, bool)
        members[list(self.boxes[kind])] = True
        return members

    @property
    def context(self) -> bytes:
        """H_ctx, as every client must have it."""
        assert self.uploaders is not None
        return context_digest(
            sid=self.roster.sid,
            root=self.roster.root,
            bitmap=bitmap_of(self.uploaders),
            model_digest=self.model_digest,
            config_digest=self.roster.config.digest,
        )

    @property
    def survivors_digest(self) -> bytes:
        """T, as every survivor must confirm it."""
        assert self.survivors is not None
        return survivor_digest(self.context, bitmap_of(self.survivors))

    @property
    def opening(self) -> Opening:
        """The sets whose sum is opened."""
        assert self.uploaders is not None and self.survivors is not None
        return Opening(self.roster, self.uploaders, self.survivors, self.of(Shares))

    def mask_request(self, i: int) -> MaskRequest:
        """U1 for client i, with the shares that its neighbours dealt it."""
        assert self.uploaders is not None
        roster, shares = self.roster, self.of(Shares)
        ciphertexts, hashes = [], []
        for j in roster.neighbours_in(i, self.uploaders):
            place = bisect_left(roster.neighbours[j], i)
            ciphertexts.append(entry(shares[j].ciphertexts, CIPHERTEXT_BYTES, place))
            hashes.append(entry(shares[j].hashes, HASH_BYTES, place))
        return MaskRequest(
            roster.sid,
            self.model_digest,
            bitmap_of(self.uploaders),
            b"".join(ciphertexts),
            b"".join(hashes),
        )

    def survivors_message(self, i: int) -> Survivors:
        """U for client i, with the header signatures of its neighbours."""
        assert self.survivors is not None
        headers = self.of(UploadHeader)
        neighbours = self.roster.neighbours_in(i, self.survivors)
        signatures = b"".join(headers[j].signature for j in neighbours)
        return Survivors(self.roster.sid, bitmap_of(self.survivors), signatures)

    @cached_property
    def unmask_request(self) -> UnmaskRequest:
        """U again for every survivor, with the signatures of a quorum; from R4 on.

        One object for all: 900 of 551 signatures took 31 MB and 0.3 s.
        """
        assert self.survivors is not None
        signers, confirmations = self.signers or (), self.of(Confirmation)
        signatures = b"".join(confirmations[i].signature for i in signers)
        return UnmaskRequest(self.roster.sid, bitmap_of(self.survivors), signers, signatures)

    def latest(self) -> list[Effect]:
        """What was frozen last, to be durable before anybody is told, also when told again."""
        if self.aborted is not None:
            return [Persist("aborted", self.aborted.to_bytes(2, "little"))]
        if self.opened:
            return [Persist("opened", b"")]
        if self.signers is not None:
            return [Persist("signers", np.array(self.signers, "<u2").tobytes())]
        if self.survivors is not None:
            return [Persist("survivors", bitmap_of(self.survivors))]
        if self.uploaders is not None:
            return [Persist("uploaders", bitmap_of(self.uploaders))]
        return [Persist("model", self.model_digest), Persist("roster", self.roster.encode())]

    @classmethod
    def from_records(cls, records: Mapping[str, bytes]) -> Collected:
        """What a server before a crash had made durable; `records` hold a roster.

        Raises: MessageError if they are damaged.
        """
        try:
            return cls._read(records)
        except (KeyError, ValueError, IndexError, struct.error) as error:
            raise MessageError(
                "the records of a session are damaged",
                why=f"one of them is missing or is not what its name says: {error}",
                fix="restore the server's records from where they were written last",
            ) from error

    @classmethod
    def _read(cls, records: Mapping[str, bytes]) -> Collected:
        roster = SessionRoster.decode(records["roster"])
        found = cls(roster, records["model"])
        for key in sorted(records):
            box, _, rest = key.partition("/")
            if box in BOXES:
                found.boxes[BOXES[box]][int(rest)] = decode_as(records[key], BOXES[box])
            elif box == "complaint":
                i, accused = map(int, rest.split("/"))
                found.complaints[i, accused] = decode_as(records[key], Complaint)
        if "uploaders" in records:
            found.uploaders = members_of(records["uploaders"], roster.n)
        if "survivors" in records:
            found.survivors = members_of(records["survivors"], roster.n)
        if "signers" in records:
            found.signers = tuple(np.frombuffer(records["signers"], "<u2").tolist())
        if "aborted" in records:
            found.aborted = AbortReason(int.from_bytes(records["aborted"], "little"))
        found.opened = "opened" in records
        found._check()
        return found

    def _check(self) -> None:
        """Raises: ValueError, IndexError unless each set rests on messages and the set before."""
        n, malicious = self.roster.n, self.roster.config.profile is Profile.MALICIOUS
        if len(self.model_digest) != _DIGEST_BYTES:
            raise ValueError("a model's digest has 32 bytes")
        indices = {i for box in self.boxes.values() for i in box} | set(chain(*self.complaints))
        if indices - set(range(n)):
            raise ValueError("a message is that of a client outside the roster")
        signers = None if self.signers is None else np.zeros(n, bool)
        if signers is not None:
            signers[list(self.signers or ())] = True
        before: npt.NDArray[np.bool_] | None = np.ones(n, bool)
        for frozen, kinds in (
            (self.uploaders, (Shares,)),
            (self.survivors, (UploadHeader, UploadTrailer)),
            (signers, (Confirmation,)),
        ):
            there = np.logical_and.reduce([self.senders(kind) for kind in kinds])
            if frozen is not None and (before is None or (frozen & ~(before & there)).any()):
                raise ValueError("a frozen set names a client whose message is not there")
            before = frozen
        asked = self.opened or self.aborted is AbortReason.CANNOT_UNMASK
        if asked and (self.signers if malicious else self.survivors) is None:
            raise ValueError("answers are counted for a set that is not there")
