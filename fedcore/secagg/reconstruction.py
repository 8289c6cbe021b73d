"""The secrets of a session, rebuilt from what survivors revealed, and who is to blame if not."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedcore.errors import AbortError, AuthenticationError, MessageError, ShareError
from fedcore.secagg import shamir
from fedcore.secagg.assembly import SessionRoster
from fedcore.secagg.keys import (
    commitment,
    half_hash,
    mask_public,
    private_key,
    share_hash_of_halves,
)
from fedcore.secagg.messages import Shares, UnmaskAnswer
from fedcore.secagg.prg import Stream
from fedcore.secagg.shamir import SHARE_BYTES
from fedcore.secagg.sharing import HASH_BYTES
from fedcore.secagg.transcript import entry, members_of
from fedcore.secagg.unmask import UnmaskPlan

__all__ = ["Opening"]

_STAGE = "R4"


@dataclass(frozen=True)
class Opening:
    """The one set of survivors (n,) of a session, its uploaders (n,), and all shares dealt."""

    roster: SessionRoster
    uploaders: npt.NDArray[np.bool_]
    survivors: npt.NDArray[np.bool_]
    shares: Mapping[int, Shares]

    def check(self, i: int, answer: UnmaskAnswer) -> None:
        """Hold client i's answer against what it and its neighbours committed to.

        Raises: MessageError or AuthenticationError, each naming client i: an honest one had
        complained about a share that does not fit its hash, or is in no field, and would not reveal
        it now.
        """
        roster, culprit = self.roster, self.roster.certificates[i].id
        asked = len(roster.neighbours_in(i, self.uploaders))
        if answer.sid != roster.sid or answer.count != asked:
            raise MessageError(
                f"client {i} answers what it was not asked",
                why=f"it is another session's answer, or not for the {asked} neighbours in U1",
                fix="drop this client, the others hold enough shares",
                stage=_STAGE,
                culprit=culprit,
            )
        bundle = roster.bundles[i]
        if commitment(bundle.pid, answer.b) != bundle.commitment:
            raise _unlike(f"client {i} reveals a b that its prekey does not commit to", culprit)
        revealed = self.revealed(i, answer)
        for place, (j, half) in enumerate(revealed.items()):
            other = entry(answer.other_hashes, HASH_BYTES, place)
            if self.survivors[j]:
                hashes = half_hash("b", roster.sid, j, i, half), other
            else:
                hashes = other, half_hash("sk", roster.sid, j, i, half)
            position = bisect_left(roster.neighbours[j], i)
            dealt = entry(self.shares[j].hashes, HASH_BYTES, position)
            if share_hash_of_halves(*hashes) != dealt:
                raise _unlike(f"client {i} reveals a share that {j} did not deal", culprit)
        try:
            shamir.parse_shares(list(revealed.values()))
        except ShareError:
            raise _unlike(f"client {i} reveals a share that is not in the field", culprit) from None

    def revealed(self, i: int, answer: UnmaskAnswer) -> dict[int, bytes]:
        """The half shares (36 bytes) in client i's answer, by the index of who dealt them."""
        return {
            j: entry(answer.shares, SHARE_BYTES, place)
            for place, j in enumerate(self._dealers(i, answer))
        }

    def missing(self, answers: Mapping[int, UnmaskAnswer]) -> list[int]:
        """The clients of whose secret fewer than t shares, and not the secret itself, are there."""
        counts = np.zeros(self.roster.n, np.int64)
        for i, answer in answers.items():
            counts[self._dealers(i, answer)] += 1
        short = self.uploaders & (counts < self.roster.parameters.threshold)
        short[[i for i in answers if self.survivors[i]]] = False
        return np.flatnonzero(short).tolist()

    def plan(self, answers: Mapping[int, UnmaskAnswer]) -> UnmaskPlan:
        """The streams that unmask the survivors' sum.

        Raises: AbortError if too few shares are there; ShareError, naming the first such client, if
        more than half of those beyond t that it dealt contradict the others.
        """
        roster = self.roster
        if missing := self.missing(answers):
            raise AbortError(
                f"the masks of {len(missing)} clients cannot be removed",
                why=f"fewer than {roster.parameters.threshold} neighbours revealed their shares",
                fix="begin a new attempt; more clients were lost than delta provides for",
                stage=_STAGE,
            )
        secrets, culprits = self._rebuilt(answers)
        for j in culprits:
            if j not in secrets:
                raise self._irreparable(j)
        streams = []
        schedule = roster.schedule
        for i in np.flatnonzero(self.survivors).tolist():
            b = answers[i].b if i in answers else secrets[i]
            streams.append(Stream(schedule.self_seed(b, i), negative=True))
        for j in self._lost:
            mask_key = private_key(secrets[j])  # parsed once: as dear as agreeing with a neighbour
            for i in roster.neighbours_in(j, self.survivors):
                seed = schedule.pair_seed(mask_key, roster.bundles[i].mask_key, j, i)
                streams.append(Stream(seed, negative=i < j))
        return UnmaskPlan(roster.config.prg, tuple(streams), self._ids(culprits))

    def culprits(self, answers: Mapping[int, UnmaskAnswer]) -> tuple[bytes, ...]:
        """The ids of all clients whose shares contradict each other, as far as they are there.

        No holder can make an honest dealer one of them: what it reveals is in an answer only if the
        dealer signed its hash, and what it withholds contradicts nothing.
        """
        return self._ids(self._rebuilt(answers)[1])

    @property
    def _lost(self) -> list[int]:
        """Who was to upload and did not."""
        return np.flatnonzero(self.uploaders & ~self.survivors).tolist()

    def _ids(self, members: Sequence[int]) -> tuple[bytes, ...]:
        return tuple(self.roster.certificates[j].id for j in members)

    def _dealers(self, i: int, answer: UnmaskAnswer) -> list[int]:
        """Whose shares client i's answer holds, ascending."""
        uploaders = self.roster.neighbours_in(i, self.uploaders)
        present = members_of(answer.present, answer.count).tolist()
        return [j for j, held in zip(uploaders, present, strict=True) if held]

    def _rebuilt(self, answers: Mapping[int, UnmaskAnswer]) -> tuple[dict[int, bytes], list[int]]:
        """The secrets that no answer tells, each from t shares, held against what was published.

        Where the first t do not fit, all shares of that dealer are, and it is among the culprits;
        where those do not either, it is there without a secret.
        """
        alone = [i for i in np.flatnonzero(self.survivors).tolist() if i not in answers]
        held: dict[int, list[tuple[int, bytes]]] = {j: [] for j in [*alone, *self._lost]}
        for i in sorted(answers):
            for j, half in self.revealed(i, answers[i]).items():
                if j in held:
                    held[j].append((i + 1, half))
        threshold = self.roster.parameters.threshold
        owners = [j for j, shares in held.items() if len(shares) >= threshold]
        if not owners:
            return {}, []
        first = [share for j in owners for share in held[j][:threshold]]
        points = np.array([x for x, _ in first], np.int64).reshape(len(owners), threshold)
        limbs = shamir.parse_shares([half for _, half in first])
        rebuilt = shamir.combine(limbs.reshape(*points.shape, shamir.LIMBS), points)
        secrets, culprits = {}, []
        for j, secret in zip(owners, rebuilt, strict=True):
            found = secret if self._published(j, secret) else None
            if found is None:
                found = self._corrected(j, held[j])
                culprits.append(j)
            if found is not None:
                secrets[j] = found
        return secrets, culprits

    def _published(self, j: int, secret: bytes | None) -> bool:
        """Whether client j published what shows this to be its secret."""
        bundle = self.roster.bundles[j]
        if secret is None:
            return False
        if self.survivors[j]:
            return commitment(bundle.pid, secret) == bundle.commitment
        return mask_public(secret) == bundle.mask_key

    def _corrected(self, j: int, held: Sequence[tuple[int, bytes]]) -> bytes | None:
        """The secret of client j without those of its shares that contradict the others.

        None if too many do.
        """
        points = np.array([x for x, _ in held], np.int64)
        shares = shamir.parse_shares([half for _, half in held])
        threshold = self.roster.parameters.threshold
        good = shamir.agreeing(shares, points, threshold=threshold)[:threshold]
        (secret,) = shamir.combine(shares[good][np.newaxis], points[good][np.newaxis])
        return secret if self._published(j, secret) else None

    def _irreparable(self, j: int) -> ShareError:
        return ShareError(
            f"the shares that client {j} dealt do not rebuild what it published",
            why="each of them is the one that it signed, and too many contradict the others",
            fix="begin a new attempt without this client",
            stage=_STAGE,
            culprit=self.roster.certificates[j].id,
        )


def _unlike(what: str, culprit: bytes) -> AuthenticationError:
    return AuthenticationError(
        what,
        why="what was committed to in R0 and R1 binds every client",
        fix="drop this client, the others hold enough shares",
        stage=_STAGE,
        culprit=culprit,
    )
