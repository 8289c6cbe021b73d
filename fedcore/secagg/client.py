"""A client of secure aggregation: a state machine that takes messages and asks for effects.

Whatever may happen only once (shares dealt, a vector masked, a set confirmed, secrets revealed) is
persisted before it is sent. Asked for the same again, the client sends the same bytes; asked for
anything else in its place, it refuses. A message that is refused changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from fedcore.entropy import Entropy, SystemEntropy, require_entropy
from fedcore.errors import (
    AbortError,
    ArgumentError,
    MessageError,
    ParameterError,
    ReuseError,
    SecAggError,
    StageError,
)
from fedcore.secagg.charges import Charges
from fedcore.secagg.effects import Effect, Erase, Fail, Persist, Send
from fedcore.secagg.exclusive import Lock, exclusive
from fedcore.secagg.identity import Identity, TrustStore
from fedcore.secagg.keys import Channel, Prekey
from fedcore.secagg.masking import frame_digests
from fedcore.secagg.messages import (
    Abort,
    Advertise,
    Confirmation,
    MaskRequest,
    Message,
    Roster,
    Shares,
    Survivors,
    UnmaskRequest,
    UploadChunk,
    UploadHeader,
    UploadTrailer,
    decode_as,
)
from fedcore.secagg.packing import IntegerSource
from fedcore.secagg.participation import Participation, used_up
from fedcore.secagg.policy import Policy
from fedcore.secagg.records import (
    STEPS,
    Stored,
    Tombstone,
    prekey_key,
    step_key,
    tombstone_key,
)
from fedcore.secagg.roster import RosterView, open_roster
from fedcore.secagg.sharing import channels_of, deal
from fedcore.secagg.transcript import survivor_digest

__all__ = ["SecAggClient"]


class SecAggClient:
    """One device's part in secure aggregation, over any number of sessions.

    `trust`: a store of certificates to share with other clients of this process, no laxer than the
    policy; by default one of its own. `entropy` is the operating system's generator; a seeded one
    is refused outside tests. One object for one disk, and one call at a time: calls that overlap
    raise StageError. After a `Persist` that failed, make a new client and `restore` it.
    Raises: ArgumentError, EntropyError.
    """

    def __init__(
        self,
        identity: Identity,
        policy: Policy,
        *,
        entropy: Entropy | None = None,
        trust: TrustStore | None = None,
    ) -> None:
        self._identity, self._policy = identity, policy
        self._lock = Lock()
        self._entropy = require_entropy(entropy or SystemEntropy())
        self._trust = trust or TrustStore(policy.roots, policy.revoked)
        if not self._trust.keeps(policy.roots, policy.revoked):
            raise ArgumentError(
                "the store of certificates accepts more than the policy does",
                why="it has other roots, or has not revoked all that the policy revokes",
                fix="pass TrustStore(policy.roots, policy.revoked), or none",
            )
        self._prekeys: dict[bytes, Prekey] = {}
        self._sessions: dict[bytes, Participation] = {}
        self._closed: dict[bytes, Tombstone] = {}
        self._charges = Charges(policy.attempts)

    @property
    def prekeys_left(self) -> int:
        """How many prekeys serve no session yet."""
        return len(self._prekeys)

    @property
    def stages(self) -> Mapping[bytes, str]:
        """The state of each open session, by its sid."""
        return {sid: session.stage for sid, session in self._sessions.items()}

    @exclusive
    def offer(self, count: int, *, expires: int) -> list[Effect]:
        """Make `count` prekeys, each for one session, and post their bundles.

        `expires`: Unix seconds.
        """
        if type(count) is not int or count < 0:
            raise ArgumentError(
                f"{count!r} prekeys cannot be made",
                why="they are counted in whole numbers",
                fix="offer 16 to 64 at a time",
            )
        effects: list[Effect] = []
        for _ in range(count):
            prekey = Prekey.generate(self._entropy, expires=expires)
            self._prekeys[prekey.pid] = prekey
            effects += self._posting(prekey)
        return effects

    @exclusive
    def repost(self) -> list[Effect]:
        """Post the bundles of all unused prekeys again.

        After a restart: the program may have stopped between a prekey's record and its posting.
        """
        return [effect for prekey in self._prekeys.values() for effect in self._posting(prekey)]

    @exclusive
    def handle(self, message: Message, *, now: int) -> list[Effect]:
        """Take a message of the server; what follows, in binding order.

        `now`: Unix seconds, of the driver's clock; certificates and prekeys are checked by it.
        Raises: a SecAggError of the kind that says what is wrong; the state is as before.
        """
        _check_time(now)
        match message:
            case Roster():
                return self._join(message, now)
            case MaskRequest():
                return self._session(message.sid, "R2").take_request(message)
            case Survivors():
                return self._session(message.sid, "R3").confirm(message)
            case UnmaskRequest():
                return self._answer(message)
            case Abort():
                return self._hear_of_end(message)
            case _:
                raise StageError(
                    f"a client takes no {type(message).__name__}",
                    why="it is a message from clients to the server",
                    fix="send it to a SecAggServer",
                )

    @exclusive
    def commit(self, sid: bytes, blocks: Sequence[IntegerSource]) -> list[Effect]:
        """Bind this session to one vector, given as an array of integers for each block.

        The first commitment charges a release, and closes the sessions of this round that can get
        none any more. A second one to another vector ends the session for this client: it acts as
        one that was lost.
        Raises: PackingError if the vector does not fit the layout; PolicyError if the policy allows
        no further attempt at this round; StageError before a MaskRequest.
        """
        session = self._session(sid, "R2")
        if session.masking is None:
            raise StageError(
                "a vector comes before its session asked for it",
                why="which clients it is masked with is not known yet",
                fix="wait for NeedInput",
                stage="R2",
            )
        view, digests = session.view, frame_digests(session.view.config.layout, blocks)
        if session.frame_digests and session.frame_digests != digests:
            return self._fail_over_second_vector(sid)
        self._charges.check(view)
        records = session.records()
        if not session.frame_digests:
            records = [Persist(step_key(sid, "masking"), digests)]
        self._charges.charge(view)
        session.frame_digests = digests
        return [self._charges.record(view), *records, *self._leave_spent_rounds()]

    @exclusive
    def upload(
        self, sid: bytes, blocks: Sequence[IntegerSource]
    ) -> Iterator[UploadHeader | UploadChunk | UploadTrailer]:
        """The messages of the upload: header, masked chunks, trailer; the same bytes each time.

        Memory: 4 MiB beside `blocks`. Raises: StageError if no vector is committed;
        ReuseError before a frame is sent that differs from the one committed.
        """
        return self._session(sid, "R2").upload(blocks)

    @exclusive
    def settle(self, sid: bytes) -> list[Effect]:
        """Forget what was revealed in a session whose sum is opened: nobody will ask again."""
        closed = self._closed.get(sid)
        if closed is None or closed.answer is None:
            return []
        self._closed[sid] = replace(closed, answer=None)
        return [Persist(tombstone_key(sid), self._closed[sid].encode())]

    @exclusive
    def abandon(self, sid: bytes) -> list[Effect]:
        """Leave a session for good; its secrets are erased. Of one unknown, nothing happens."""
        return self._leave(sid)

    def _leave(self, sid: bytes) -> list[Effect]:
        session = self._sessions.get(sid)
        if session is None:
            return []
        return self._close(sid, Tombstone(session.prekey.pid, session.prekey.expires))

    @exclusive
    def expire(self, now: int) -> list[Effect]:
        """Drop what has outlived its prekey: prekeys, open sessions, memories of closed ones."""
        _check_time(now)
        return self._drop_expired(now)

    def _drop_expired(self, now: int) -> list[Effect]:
        effects: list[Effect] = []
        for pid in [pid for pid, prekey in self._prekeys.items() if prekey.expires <= now]:
            del self._prekeys[pid]
            effects.append(Erase(prekey_key(pid)))
        for sid, session in list(self._sessions.items()):
            if session.prekey.expires <= now:
                effects += self._leave(sid)
        for sid in [sid for sid, closed in self._closed.items() if closed.expires <= now]:
            # The prekey once more: were it still there, nothing but the tombstone would guard it.
            effects += [Erase(prekey_key(self._closed.pop(sid).pid)), Erase(tombstone_key(sid))]
        return effects

    @exclusive
    def restore(self, records: Mapping[str, bytes], *, now: int) -> list[Effect]:
        """Take up what a client before a crash had made durable; what is to be done again.

        `records`: every record persisted and not erased, by its key. A session whose records do
        not fit together, or not this client's policy, is closed and reported by a Fail.
        """
        _check_time(now)
        stored = Stored.read(records)
        self._prekeys, self._sessions = stored.prekeys, {}
        self._closed = stored.closed
        self._charges = Charges(self._policy.attempts, stored.charged)
        effects = self._burn(closed.pid for closed in self._closed.values())
        for sid, steps in stored.steps.items():
            effects += self._resume(sid, steps)
        effects += self._leave_spent_rounds()
        effects += self._drop_expired(now)
        for session in self._sessions.values():
            effects += session.pending()
        return effects + [Send(done.answer) for done in self._closed.values() if done.answer]

    def _resume(self, sid: bytes, steps: Mapping[str, bytes]) -> list[Effect]:
        if sid in self._closed or steps.keys() <= {"roster"}:  # closed, or nothing was ever sent
            return _erased(sid)
        try:
            self._sessions[sid] = self._rebuilt(steps)
        except SecAggError as error:
            return [*self._give_up(sid, steps), *_erased(sid), Fail(error)]
        return []

    def _give_up(self, sid: bytes, steps: Mapping[str, bytes]) -> list[Effect]:
        """Close a session that cannot go on; neighbours hold shares of the prekey that served it.

        If the record does not tell which one it was, all are given up.
        """
        try:
            prekey = self._prekeys.get(decode_as(steps.get("roster", b"")[8:], Roster).pid)
        except SecAggError:
            return self._burn(list(self._prekeys))
        if prekey is None:
            return []
        self._closed[sid] = Tombstone(prekey.pid, prekey.expires)
        return [Persist(tombstone_key(sid), self._closed[sid].encode()), *self._burn([prekey.pid])]

    def _burn(self, pids: Iterable[bytes]) -> list[Effect]:
        """Forget prekeys that serve no session any more, and had not been erased yet."""
        return [Erase(prekey_key(pid)) for pid in pids if self._prekeys.pop(pid, None)]

    def _rebuilt(self, done: Mapping[str, bytes]) -> Participation:
        if done.keys() != set(STEPS[: len(done)]):
            raise MessageError(
                "the records of a session have a gap",
                why="each step is written after all before it; one of them is missing",
                fix="restore the client's records from where they were written last",
            )
        record = done["roster"]
        now, roster = int.from_bytes(record[:8], "little"), decode_as(record[8:], Roster)
        view, prekey = self._verified(roster, now)
        shares = decode_as(done["shares"], Shares)
        session = self._participation(roster, view, prekey, channels_of(view, prekey), shares, now)
        if "mask-request" in done:
            session.masking = session.accepted(decode_as(done["mask-request"], MaskRequest))
        session.frame_digests = done.get("masking", b"")
        if "confirmation" in done:
            session.confirmation = decode_as(done["confirmation"], Confirmation)
        del self._prekeys[prekey.pid]
        return session

    def _posting(self, prekey: Prekey) -> list[Effect]:
        certificate = self._identity.certificate.encode()
        message = Advertise(certificate, prekey.bundle(self._identity).encode())
        return [Persist(prekey_key(prekey.pid), prekey.encode()), Send(message)]

    def _join(self, roster: Roster, now: int) -> list[Effect]:
        open_session = self._sessions.get(roster.sid)
        if open_session is not None:
            if open_session.roster == roster:
                return [*open_session.records(), Send(open_session.shares)]
            raise used_up("another roster for a session that has one", "R1")
        if roster.sid in self._closed:
            raise used_up("a session that this client has closed", "R1")
        view, prekey = self._verified(roster, now)
        if view.sid in self._charges.of(view):
            raise used_up("a session to which it gave a vector", "R1")
        self._charges.check(view)
        channels = channels_of(view, prekey)
        shares = deal(view, prekey, channels, identity=self._identity, entropy=self._entropy)
        session = self._participation(roster, view, prekey, channels, shares, now)
        effects = [*session.records(), Send(shares)]
        self._sessions[view.sid] = session
        del self._prekeys[prekey.pid]
        return effects

    def _participation(
        self,
        roster: Roster,
        view: RosterView,
        prekey: Prekey,
        channels: Mapping[int, Channel],
        shares: Shares,
        joined: int,
    ) -> Participation:
        return Participation(
            self._identity,
            self._policy,
            self._trust,
            roster,
            view,
            prekey,
            channels,
            shares,
            joined,
        )

    def _verified(self, roster: Roster, now: int) -> tuple[RosterView, Prekey]:
        prekey = self._prekeys.get(roster.pid)
        if prekey is None or prekey.expires <= now:
            raise ReuseError(
                "the roster uses a prekey that this client has not to give",
                why="it was never posted, serves another session, was used up, or has expired",
                fix="take a bundle that was posted and not used since",
                stage="R1",
            )
        view = open_roster(
            roster,
            certificate=self._identity.certificate,
            bundle=prekey.bundle(self._identity),
            policy=self._policy,
            trust=self._trust,
            now=now,
        )
        return view, prekey

    def _answer(self, request: UnmaskRequest) -> list[Effect]:
        closed = self._closed.get(request.sid)
        if closed is not None and closed.answer is not None:
            if closed.survivors_digest != survivor_digest(closed.context, request.survivors):
                raise used_up("the secrets of a second set of survivors", "R4")
            return self._last_word(request.sid, closed)
        session = self._session(request.sid, "R4")
        context, survivors_digest, answer = session.answer(request)
        prekey = session.prekey
        tombstone = Tombstone(prekey.pid, prekey.expires, context, survivors_digest, answer)
        return self._close(request.sid, tombstone)

    def _close(self, sid: bytes, tombstone: Tombstone) -> list[Effect]:
        """One record holds the tombstone and the last word, which is then sent; secrets go last."""
        effects = self._last_word(sid, tombstone)
        self._closed[sid] = tombstone
        self._sessions.pop(sid).closed = True
        return effects

    def _last_word(self, sid: bytes, tombstone: Tombstone) -> list[Effect]:
        return [
            Persist(tombstone_key(sid), tombstone.encode()),
            *([] if tombstone.answer is None else [Send(tombstone.answer)]),
            Erase(prekey_key(tombstone.pid)),
            *_erased(sid),
        ]

    def _session(self, sid: bytes, stage: str) -> Participation:
        session = self._sessions.get(sid)
        if session is not None:
            return session
        if sid in self._closed:
            raise used_up("a session that this client has closed", stage)
        raise StageError(
            "the message belongs to no session of this client",
            why="no roster with this sid was accepted",
            fix="send the roster first",
            stage=stage,
        )

    def _leave_spent_rounds(self) -> list[Effect]:
        """Close the sessions that would ask for a vector which their round may not get."""
        sessions = list(self._sessions.items())
        spent = [sid for sid, session in sessions if self._charges.is_spent(session.view)]
        return [effect for sid in spent for effect in self._leave(sid)]

    def _hear_of_end(self, message: Abort) -> list[Effect]:
        if message.sid not in self._sessions:
            return []
        error = AbortError(
            "the server ended the session",
            why=f"it gives the reason {message.reason.name}",
            fix="wait for the next session; nothing of this one is used again",
        )
        return [*self._leave(message.sid), Fail(error)]

    def _fail_over_second_vector(self, sid: bytes) -> list[Effect]:
        error = ReuseError(
            "a second vector was given for one session",
            why="two vectors under the same masks give away their difference",
            fix="act as a client that was lost; the next session has new masks",
            stage="R2",
        )
        return [*self._leave(sid), Fail(error)]


def _check_time(now: int) -> None:
    if type(now) is not int or not 0 <= now < 2**64:
        raise ParameterError(
            f"{now!r} is no time",
            why="certificates and prekeys expire at whole Unix seconds",
            fix="pass int(time.time())",
        )


def _erased(sid: bytes) -> list[Effect]:
    return [Erase(step_key(sid, step)) for step in STEPS]
