"""The server of one secure aggregation: a state machine that learns the sum and nothing else.

It holds signatures, sealed shares and sets, never a client's vector: uploads go to the driver's
spool, and once complete into its one accumulator. Each set is durable before anyone is told of it;
a server that restarts tells the same set again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from fedcore.entropy import Entropy, SystemEntropy, require_entropy
from fedcore.errors import (
    AbortError,
    ReuseError,
    SecAggError,
    StageError,
)
from fedcore.secagg.admission import (
    check_chunk,
    check_complaint,
    check_confirmation,
    check_header,
    check_shares,
    check_upload,
)
from fedcore.secagg.assembly import SessionRoster
from fedcore.secagg.collected import BOXES, Collected
from fedcore.secagg.config import SessionConfig
from fedcore.secagg.effects import Effect, Fail, Persist, Send
from fedcore.secagg.exclusive import Lock, exclusive
from fedcore.secagg.identity import TrustStore
from fedcore.secagg.messages import (
    Abort,
    AbortReason,
    Advertise,
    Complaint,
    Confirmation,
    Message,
    Shares,
    UnmaskAnswer,
    UploadChunk,
    UploadHeader,
    UploadTrailer,
    encode,
)
from fedcore.secagg.postings import Postings
from fedcore.secagg.stages import LAST, STAGES, Stage, invited, obstacle, stage_of
from fedcore.secagg.unmask import UnmaskPlan

__all__ = ["SecAggServer"]


_NAMES = {kind: name for name, kind in BOXES.items()}


class SecAggServer:
    """One session: the driver hands it messages, and closes each stage when time or number says so.

    `model_digest`: of the model that the clients will train, 32 bytes. `now`: Unix seconds at which
    certificates must be valid; pass the planned end of the session, for every client refuses a
    roster with a certificate that has expired on its way to it. `trust`: whose certificates count;
    it may serve many sessions. One call at a time: calls that overlap raise StageError. After a
    `Persist` that failed, `restore` the session.
    Raises: ParameterError for terms that no message can carry.
    """

    def __init__(
        self,
        config: SessionConfig,
        *,
        model_digest: bytes,
        round: int,
        attempt: int = 0,
        trust: TrustStore,
        now: int,
        entropy: Entropy | None = None,
    ) -> None:
        self._lock, self._trust = Lock(), trust
        self._state: Postings | Collected = Postings(
            config,
            model_digest=model_digest,
            round=round,
            attempt=attempt,
            trust=trust,
            now=now,
            entropy=require_entropy(entropy or SystemEntropy()),
        )
        self._plan: UnmaskPlan | None = None

    @classmethod
    def restore(
        cls, records: Mapping[str, bytes], *, trust: TrustStore
    ) -> tuple[SecAggServer, list[Effect]]:
        """The server that made these records durable, and what it sends again.

        Raises: StageError if no roster is among them: the session had not begun; MessageError if
        they are damaged.
        """
        if "roster" not in records:
            raise _out_of_order("there is no session to restore", Stage.PREKEYS)
        server = cls.__new__(cls)  # there are no postings any more to begin with
        server._lock, server._trust, server._plan = Lock(), trust, None
        server._state = Collected.from_records(records)
        return server, server._sends()

    @property
    def stage(self) -> Stage:
        """What the session waits for."""
        return Stage.PREKEYS if isinstance(self._state, Postings) else stage_of(self._state)

    @property
    def advertised(self) -> frozenset[bytes]:
        """The ids whose bundles have arrived; once the roster is frozen, its members."""
        if isinstance(self._state, Postings):
            return self._state.ids
        return frozenset(self._state.roster.indices)

    @property
    def roster(self) -> SessionRoster:
        """The frozen roster. Raises: StageError while prekeys are still collected."""
        return self._frozen.roster

    @property
    def survivors(self) -> frozenset[bytes]:
        """The ids of the clients whose sum is opened. Raises: StageError before they are frozen."""
        survivors = self._frozen.survivors
        if survivors is None:
            raise _out_of_order("the survivors are not frozen yet", self.stage)
        return self._ids(survivors)

    @property
    def pending(self) -> frozenset[bytes]:
        """The ids from which the present stage still awaits something.

        Nobody at PREKEYS: whom to invite and how long to wait is the driver's to say.
        """
        stage = self.stage
        if stage not in LAST:
            return frozenset()
        return self._ids(invited(self._frozen, stage) & ~self._frozen.senders(LAST[stage]))

    @property
    def uploaded(self) -> frozenset[bytes]:
        """The ids whose uploads are complete: the driver adds each to its accumulator, once.

        After a crash these are the ones to add, unless they are in it already.
        """
        if isinstance(self._state, Postings):
            return frozenset()
        return self._ids(self._state.senders(UploadTrailer))

    @property
    def sufficient(self) -> bool:
        """Whether the present stage could be closed now, and the session would go on.

        At PREKEYS, whether enough clients have posted. At ANSWERS, whether enough shares are there:
        only a dealer whose shares contradict each other can then still end the session. While
        answers come in, 17 ms for 1,000 clients: ask at intervals, not after each of them.
        """
        if isinstance(self._state, Postings):
            try:
                self._state.config.parameters(len(self._state.ids))
            except SecAggError:
                return False
            return True
        match self.stage:
            case Stage.OPENED | Stage.ABORTED:
                return False
            case Stage.ANSWERS:
                return not self._state.opening.missing(self._state.of(UnmaskAnswer))
            case stage:
                return obstacle(self._state, stage) is None

    @property
    def culprits(self) -> Mapping[bytes, str]:
        """Who is proven to have dealt bad shares, by the id, and how it shows.

        More clients complained than may be corrupt, or the shares that it signed contradict each
        other, which shows once ANSWERS is closed, also where that has ended the session.
        """
        if isinstance(self._state, Postings):
            return {}
        roster = self._state.roster
        complaints = Counter(accused for _, accused in self._state.complaints)
        found = {
            roster.certificates[j].id: f"{count} neighbours cannot use its shares"
            for j, count in sorted(complaints.items())
            if count > roster.parameters.corrupt
        }
        for client_id in self._contradicted():
            found[client_id] = "the shares that it dealt contradict each other"
        return found

    @exclusive
    def handle(self, client_id: bytes, message: Message) -> list[Effect]:
        """Take a message of the client that the transport has authenticated as `client_id`.

        The same message again changes nothing; at a later stage it is answered with what that
        client should have by now. Raises: a SecAggError with the culprit where known; the state is
        as before.
        """
        if isinstance(message, Advertise):
            return self._take_posting(client_id, message)
        collected, i = self._frozen, self._index(client_id)
        if isinstance(message, Complaint):
            return self._take_complaint(i, message)
        if type(message) not in STAGES or isinstance(message, UploadTrailer):
            raise _out_of_order(f"a server takes no {type(message).__name__} here", self.stage)
        if self._is_kept(i, message):
            return self._acknowledge(client_id, message)
        self._require_awaited(i, message)
        match message:
            case Shares():
                check_shares(collected.roster, i, message, trust=self._trust)
            case UploadHeader():
                check_header(collected.roster, i, message, collected.context, trust=self._trust)
            case Confirmation():
                digest = collected.survivors_digest
                check_confirmation(collected.roster, i, message, digest, trust=self._trust)
            case UnmaskAnswer():
                collected.opening.check(i, message)
        return self._keep(i, message)

    @exclusive
    def takes(self, client_id: bytes, chunk: UploadChunk) -> bool:
        """Whether a chunk belongs into the driver's spool: not if that upload is complete already.

        Raises: MessageError, naming the client, unless its header came before and the chunk lies
        within the upload; StageError if no upload of it is awaited.
        """
        i, collected = self._index(client_id), self._frozen
        if i in collected.of(UploadTrailer):
            return False
        if self.stage is not Stage.UPLOADS or not invited(collected, Stage.UPLOADS)[i]:
            raise _out_of_order(f"no upload of client {i} is awaited", self.stage)
        check_chunk(collected.roster, i, chunk, collected.of(UploadHeader).get(i))
        return True

    @exclusive
    def finish_upload(
        self, client_id: bytes, trailer: UploadTrailer, *, received: bytes, length: int
    ) -> list[Effect]:
        """Count an upload as complete, once it is durable in the driver's spool.

        `received`, `length`: SHA-256 and the number of the bytes in the spool. Only now may the
        driver add it to the accumulator, and must before it unmasks.
        Raises: MessageError, naming the client, if the upload has another digest, another length or
        no header.
        """
        i = self._index(client_id)
        if self._is_kept(i, trailer):
            return self._acknowledge(client_id, trailer)
        self._require_awaited(i, trailer)
        header = self._frozen.of(UploadHeader).get(i)
        check_upload(self._frozen.roster, i, trailer, header, received=received, length=length)
        return self._keep(i, trailer)

    @exclusive
    def resend(self, client_id: bytes) -> list[Effect]:
        """What this client should act on by now: for one that reconnects, or after a restart."""
        return self._resend(client_id)

    def _resend(self, client_id: bytes) -> list[Effect]:
        i = self._index(client_id)
        asked = client_id in self.pending or self.stage is Stage.ABORTED
        return [*self._frozen.latest(), Send(self._due(i), client_id)] if asked else []

    @exclusive
    def close(self, stage: Stage, *, pulse: bytes = b"") -> list[Effect]:
        """End a stage with what has arrived; the driver owns time.

        `pulse`: of the beacon that the configuration names, at the end of PREKEYS.
        Raises: StageError if the session is at another stage; at PREKEYS, MessageError for a pulse
        that does not fit, and ParameterError or PackingError while more clients may still come;
        elsewhere a Fail ends the session.
        """
        if stage is not self.stage or stage in (Stage.OPENED, Stage.ABORTED):
            raise _out_of_order(f"stage {stage.name} cannot be closed", self.stage)
        if isinstance(self._state, Postings):
            self._state = Collected(self._state.roster(pulse), self._state.model_digest)
            return [*self._state.latest(), *self._sends()]
        collected = self._state
        if stage is not Stage.ANSWERS and (why := obstacle(collected, stage)) is not None:
            return self._abort(*why)
        match stage:
            case Stage.SHARES:
                collected.uploaders = collected.senders(Shares)
            case Stage.UPLOADS:
                collected.survivors = collected.senders(UploadTrailer)
            case Stage.CONFIRMATIONS:
                quorum = collected.roster.parameters.quorum
                collected.signers = tuple(sorted(collected.of(Confirmation))[:quorum])
            case _:
                try:
                    self._plan = collected.opening.plan(collected.of(UnmaskAnswer))
                except SecAggError as error:
                    return self._abort(AbortReason.CANNOT_UNMASK, error)
                collected.opened = True
        return [*collected.latest(), *self._sends()]

    @exclusive
    def abort(self) -> list[Effect]:
        """End the session; nothing of it may be used again.

        Raises: StageError if there is none, or it is over.
        """
        if self.stage in (Stage.PREKEYS, Stage.OPENED, Stage.ABORTED):
            raise _out_of_order("there is no session to abort", self.stage)
        error = AbortError(
            "the session was cancelled",
            why="its driver decided so",
            fix="begin a new attempt with new prekeys",
            stage=self.stage.value,
        )
        return self._abort(AbortReason.CANCELLED, error)

    @exclusive
    def plan(self) -> UnmaskPlan:
        """What takes the masks off the accumulator; the same after a restart.

        Raises: StageError before ANSWERS is closed.
        """
        if self.stage is not Stage.OPENED:
            raise _out_of_order("the sum cannot be opened yet", self.stage)
        if self._plan is None:
            self._plan = self._frozen.opening.plan(self._frozen.of(UnmaskAnswer))
        return self._plan

    @property
    def _frozen(self) -> Collected:
        if isinstance(self._state, Postings):
            raise _out_of_order("the roster is not frozen yet", Stage.PREKEYS)
        return self._state

    def _contradicted(self) -> tuple[bytes, ...]:
        """The ids of the dealers whose own shares are the proof; the same after a restart."""
        if self._plan is not None:
            return self._plan.culprits
        collected = self._frozen
        if not collected.opened and collected.aborted is not AbortReason.CANNOT_UNMASK:
            return ()
        return collected.opening.culprits(collected.of(UnmaskAnswer))

    def _ids(self, members: npt.NDArray[np.bool_]) -> frozenset[bytes]:
        certificates = self._frozen.roster.certificates
        return frozenset(certificates[i].id for i in np.flatnonzero(members))

    def _index(self, client_id: bytes) -> int:
        index = self._frozen.roster.indices.get(client_id)
        if index is None:
            raise StageError(
                "a client outside the roster speaks in a session",
                why="it was not there when the roster was frozen",
                fix="let it take part in the next session",
                stage=self.stage.value,
                culprit=client_id,
            )
        return index

    def _is_kept(self, i: int, message: Message) -> bool:
        """Whether client i has sent this before. Raises: ReuseError if it sent another."""
        kept = self._frozen.of(type(message)).get(i)
        if kept is None or kept == message:
            return kept is not None
        raise ReuseError(
            f"client {i} sends a second {_NAMES[type(message)]}",
            why="the first one binds it",
            fix="drop this client",
            stage=STAGES[type(message)].value,
            culprit=self._frozen.roster.certificates[i].id,
        )

    def _require_awaited(self, i: int, message: Message) -> None:
        name, stage = _NAMES[type(message)], STAGES[type(message)]
        if stage is not self.stage or not invited(self._frozen, stage)[i]:
            raise _out_of_order(f"a {name} of client {i} is not awaited", self.stage)

    def _acknowledge(self, client_id: bytes, message: Message) -> list[Effect]:
        """Persist it again: the first time may have failed."""
        kept = self._keep(self._index(client_id), message)
        return kept if STAGES[type(message)] is self.stage else [*kept, *self._resend(client_id)]

    def _keep(self, i: int, message: Message) -> list[Effect]:
        self._frozen.of(type(message))[i] = message
        return [Persist(f"{_NAMES[type(message)]}/{i}", encode(message))]

    def _take_posting(self, client_id: bytes, message: Advertise) -> list[Effect]:
        if isinstance(self._state, Postings):
            self._state.take(client_id, message)
            return []
        if message not in self._state.roster.members:
            raise _out_of_order("the roster is frozen", self.stage)
        return self._resend(client_id)

    def _take_complaint(self, i: int, complaint: Complaint) -> list[Effect]:
        collected = self._frozen
        open_stages = (Stage.UPLOADS, Stage.CONFIRMATIONS, Stage.ANSWERS)
        if self.stage not in open_stages or not invited(collected, Stage.UPLOADS)[i]:
            raise _out_of_order("this is no time to complain", self.stage)
        check_complaint(collected.roster, i, complaint, trust=self._trust)
        kept = collected.complaints.setdefault((i, complaint.accused), complaint)
        return [Persist(f"complaint/{i}/{complaint.accused}", encode(kept))]

    def _sends(self) -> list[Effect]:
        """What each client should act on now."""
        indices = self._frozen.roster.indices
        ids = indices if self.stage is Stage.ABORTED else sorted(self.pending)
        return [Send(self._due(indices[client_id]), client_id) for client_id in ids]

    def _due(self, i: int) -> Message:
        collected = self._frozen
        if collected.aborted is not None:
            return Abort(collected.roster.sid, collected.aborted)
        match self.stage:
            case Stage.SHARES:
                return collected.roster.message_for(i)
            case Stage.UPLOADS:
                return collected.mask_request(i)
            case Stage.CONFIRMATIONS:
                return collected.survivors_message(i)
            case _:
                return collected.unmask_request

    def _abort(self, reason: AbortReason, error: SecAggError) -> list[Effect]:
        self._frozen.aborted = reason
        return [*self._frozen.latest(), *self._sends(), Fail(error)]


def _out_of_order(what: str, stage: Stage) -> StageError:
    return StageError(
        what,
        why=f"the session is at the stage {stage.name}",
        fix="send what the stage asks for, or begin a new session",
        stage=stage.value,
    )
