"""What a server could open with all that it ever received: worked out, whatever the clients claim.

For every prekey of an honest client the monitor collects which points of its two secrets are known,
those of corrupt holders from the start. From that follow the masks that can be removed, and so the
sums that can be opened.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from fedcore.secagg.client import SecAggClient
from fedcore.secagg.keys import commitment, half_hash, share_hash_of_halves
from fedcore.secagg.messages import (
    Confirmation,
    Message,
    Shares,
    UnmaskAnswer,
    UploadChunk,
    UploadHeader,
)
from fedcore.secagg.roster import RosterView
from fedcore.secagg.shamir import SHARE_BYTES
from fedcore.secagg.sharing import HASH_BYTES

__all__ = ["Leak", "Monitor"]


class Leak(AssertionError):
    """The server can learn more than it may."""


@dataclass
class Dealing:
    """The shares that one client dealt in one session, and whose points the server knows.

    `hashes`: of the share of each holder, by the index of the roster as the dealer saw it.
    `holders`: those indices by the holder's id. `committed`: hb.
    """

    view: RosterView
    pid: bytes
    committed: bytes
    hashes: dict[int, bytes]
    holders: dict[bytes, int]
    points: dict[str, set[int]] = field(default_factory=lambda: {"b": set(), "sk": set()})

    def knows(self, kind: str) -> bool:
        """Whether enough points are known to rebuild b or sk."""
        return len(self.points[kind]) >= self.view.parameters.threshold


@dataclass
class Upload:
    """What a client's masked vector is masked with, as the client believed."""

    view: RosterView
    pid: bytes
    partners: frozenset[int]
    sent: dict[int, bytes] = field(default_factory=dict)


class Monitor:
    """Hears all that the server hears; `corrupt`: the ids of clients in league with it."""

    def __init__(self, corrupt: Iterable[bytes] = ()) -> None:
        self.corrupt = frozenset(corrupt)
        self._dealings: dict[tuple[bytes, bytes], Dealing] = {}
        self._uploads: dict[tuple[bytes, bytes], Upload] = {}
        self._b: set[bytes] = set()
        self._confirmed: dict[tuple[bytes, bytes], bytes] = {}
        self._broken: list[str] = []

    def hear(self, client_id: bytes, client: SecAggClient, message: Message) -> None:
        """Take note of a message that `client` gave away. Raises: Leak."""
        match message:
            case Shares() if client_id not in self.corrupt:
                self._hear_shares(client_id, client, message)
            case UploadHeader():
                session = client._sessions[message.sid]
                assert session.masking is not None
                partners = frozenset(session.view.neighbours_in(session.masking.uploaders))
                upload = Upload(session.view, session.prekey.pid, partners)
                self._uploads.setdefault((client_id, message.sid), upload)
            case UploadChunk():
                sent = self._uploads[client_id, message.sid].sent
                if sent.setdefault(message.offset, message.data) != message.data:
                    raise Leak("two vectors were sent under the same masks")
            case Confirmation() if client_id not in self.corrupt:
                key = client_id, message.sid
                if self._confirmed.setdefault(key, message.digest) != message.digest:
                    self._broken.append("two sets were confirmed in one session")
            case UnmaskAnswer():
                self._hear_answer(client_id, message)

    def points(self, client_id: bytes, sid: bytes, kind: str) -> int:
        """How many points of a client's "b" or "sk" the server knows, dealt in one session."""
        return len(self._dealings[client_id, sid].points[kind])

    def kinds(self) -> dict[tuple[bytes, bytes], set[str]]:
        """Of which secrets of a client the server has seen anything at all, by (client, sid)."""
        seen = {}
        for key, dealing in self._dealings.items():
            seen[key] = {kind for kind, points in dealing.points.items() if points}
            if dealing.pid in self._b:
                seen[key].add("b")
        return seen

    def check(self) -> None:
        """Raises: Leak if both secrets of an honest client can be had, or more than one sum.

        Also if a promise is broken that keeps this from happening.
        """
        known = self._known()
        for client_id, pid in known["b"] & known["sk"]:
            raise Leak(f"both secrets of client {client_id.hex()}, prekey {pid.hex()}")
        opened: dict[bytes, set[frozenset[bytes]]] = defaultdict(set)
        for sid, summands in self.openable():
            opened[sid].add(summands)
        for sid, sums in opened.items():
            if len(sums) > 1:
                raise Leak(f"{len(sums)} sums of session {sid.hex()} can be opened")
            view = next(u.view for (_, name), u in self._uploads.items() if name == sid)
            least = view.parameters.minimum_survivors - view.parameters.corrupt
            if len(next(iter(sums))) < least:
                raise Leak(f"a sum of {len(next(iter(sums)))} honest clients can be opened")
        for promise in self._broken:
            raise Leak(promise)

    def openable(self) -> list[tuple[bytes, frozenset[bytes]]]:
        """The smallest sums of honest clients' vectors that the server can compute: (sid, ids)."""
        known = self._known()
        stories: dict[tuple[bytes, bytes], dict[int, Upload]] = defaultdict(dict)
        for (client_id, sid), upload in self._uploads.items():
            if client_id not in self.corrupt:
                stories[sid, upload.view.root][upload.view.index] = upload
        return [
            (sid, summands)
            for (sid, _), uploads in stories.items()
            for summands in self._components(uploads, known)
        ]

    def _components(
        self, uploads: dict[int, Upload], known: dict[str, set[tuple[bytes, bytes]]]
    ) -> Iterable[frozenset[bytes]]:
        """Uploads that hang together by masks nobody else knows, if nothing else holds them shut.

        What holds one shut is its own self mask, or a mask that no other upload takes away again.
        """
        view = next(iter(uploads.values())).view
        name = [certificate.id for certificate in view.certificates]
        leader = {i: i for i in uploads}
        shut = {i for i, u in uploads.items() if (name[i], u.pid) not in known["b"]}

        def find(i: int) -> int:
            while leader[i] != i:
                i = leader[i]
            return i

        for i, upload in uploads.items():
            for j in upload.partners:
                secrets = {(name[i], upload.pid), (name[j], upload.view.bundles[j].pid)}
                if name[j] in self.corrupt or secrets & known["sk"]:
                    continue
                if j in uploads and i in uploads[j].partners:
                    leader[find(i)] = find(j)
                else:
                    shut.add(i)
        groups: dict[int, set[int]] = defaultdict(set)
        for i in uploads:
            groups[find(i)].add(i)
        return [frozenset(name[i] for i in g) for g in groups.values() if not g & shut]

    def _known(self) -> dict[str, set[tuple[bytes, bytes]]]:
        known: dict[str, set[tuple[bytes, bytes]]] = {"b": set(), "sk": set()}
        for (client_id, _), dealing in self._dealings.items():
            for kind, secrets in known.items():
                if dealing.knows(kind) or (kind == "b" and dealing.pid in self._b):
                    secrets.add((client_id, dealing.pid))
        return known

    def _hear_shares(self, client_id: bytes, client: SecAggClient, message: Shares) -> None:
        session = client._sessions[message.sid]
        view, prekey = session.view, session.prekey
        hashes = {
            j: message.hashes[HASH_BYTES * place :][:HASH_BYTES]
            for place, j in enumerate(view.bundles)
        }
        holders = {view.certificates[j].id: j for j in view.bundles}
        dealing = Dealing(view, prekey.pid, commitment(prekey.pid, prekey.b), hashes, holders)
        for client_in_league in self.corrupt & holders.keys():
            for points in dealing.points.values():
                points.add(holders[client_in_league])
        if any(
            dealer == client_id and known.pid == prekey.pid and sid != message.sid
            for (dealer, sid), known in self._dealings.items()
        ):
            self._broken.append("one prekey was dealt in two sessions")
        found = self._dealings.setdefault((client_id, message.sid), dealing)
        if found.hashes != hashes:
            raise Leak("other polynomials were dealt for the same session")

    def _hear_answer(self, client_id: bytes, message: UnmaskAnswer) -> None:
        """Find the dealer and the kind of each half that was revealed, by the hashes dealt."""
        dealings = deque(
            dealing
            for (_, sid), dealing in self._dealings.items()
            if sid == message.sid and client_id in dealing.holders
        )
        for place in range(len(message.other_hashes) // HASH_BYTES):
            half = message.shares[SHARE_BYTES * place :][:SHARE_BYTES]
            other = message.other_hashes[HASH_BYTES * place :][:HASH_BYTES]
            for _ in range(len(dealings)):  # the next one is the likeliest
                dealing = dealings[0]
                dealings.rotate(-1)
                if self._attribute(dealing, dealing.holders[client_id], half, other):
                    break
        for dealing in self._dealings.values():
            if commitment(dealing.pid, message.b) == dealing.committed:
                self._b.add(dealing.pid)

    def _attribute(self, dealing: Dealing, holder: int, half: bytes, other: bytes) -> bool:
        """Whether the half is one of this share, which its hash alone can say."""
        sid, dealer = dealing.view.sid, dealing.view.index
        of_b = half_hash("b", sid, dealer, holder, half)
        of_mask_key = half_hash("sk", sid, dealer, holder, half)
        is_b = share_hash_of_halves(of_b, other) == dealing.hashes[holder]
        is_mask_key = share_hash_of_halves(other, of_mask_key) == dealing.hashes[holder]
        if is_b:
            dealing.points["b"].add(holder)
        if is_mask_key:
            dealing.points["sk"].add(holder)
        return is_b or is_mask_key
