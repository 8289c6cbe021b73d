"""The secure aggregation of one attempt: what becomes durable, and what each client is told.

It knows no database and no network. Every call gives the records that have to be durable before
anything else happens; the attempt writes them, and only then answers anybody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedcore.errors import RoundOverError, SecAggError
from fedcore.rounds import Phase
from fedcore.secagg import (
    Effect,
    Fail,
    Message,
    Parameters,
    Persist,
    SecAggServer,
    Send,
    SessionConfig,
    Stage,
    TrustStore,
    UnmaskPlan,
    UploadTrailer,
    decode,
    encode,
)
from fedcore.secagg.messages import Advertise
from fedserver.store.records import RoundRef

__all__ = ["STAGE_OF", "MaskedSession", "Records"]

Records = dict[str, bytes]

STAGE_OF: Mapping[Phase, Stage] = {
    Phase.KEYS: Stage.PREKEYS,
    Phase.SHARES: Stage.SHARES,
    Phase.COLLECTING: Stage.UPLOADS,
    Phase.CONFIRMING: Stage.CONFIRMATIONS,
    Phase.UNMASKING: Stage.ANSWERS,
}
_ORDER = tuple(Stage)
_MACHINE, _POSTING = "secagg/", "posting/"


class MaskedSession:
    """One session of `SecAggServer`, its postings kept like everything else.

    `now`: Unix seconds of the planned end, at which every certificate must still hold.
    """

    def __init__(
        self, config: SessionConfig, ref: RoundRef, *, model: bytes, trust: TrustStore, now: int
    ) -> None:
        self._server = SecAggServer(
            config,
            model_digest=model,
            round=ref.round,
            attempt=ref.attempt,
            trust=trust,
            now=now,
        )
        self._config = config
        self._due: dict[bytes, Message] = {}

    @classmethod
    def restored(
        cls,
        records: Mapping[str, bytes],
        config: SessionConfig,
        ref: RoundRef,
        *,
        model: bytes,
        trust: TrustStore,
        now: int,
    ) -> MaskedSession:
        """The session whose records were made durable before a crash.

        Before its roster was frozen it has a new nonce, and takes the same postings again.
        """
        session = cls(config, ref, model=model, trust=trust, now=now)
        kept = _under(_MACHINE, records)
        if kept:
            session._server, effects = SecAggServer.restore(kept, trust=trust)
            session._take(effects)
            return session
        for name, data in _under(_POSTING, records).items():
            session.take(bytes.fromhex(name), decode(data))
        return session

    @property
    def stage(self) -> Stage:
        """What the session waits for."""
        return self._server.stage

    @property
    def members(self) -> frozenset[bytes]:
        """The clients of the frozen roster, or those that have posted a bundle so far."""
        return self._server.advertised

    @property
    def parameters(self) -> Parameters:
        """Of so many members as there are. Raises: ParameterError, PackingError."""
        return self._config.parameters(len(self.members))

    @property
    def survivors(self) -> frozenset[bytes]:
        """Whose updates make up the sum. Raises: StageError before they are frozen."""
        return self._server.survivors

    @property
    def pending(self) -> frozenset[bytes]:
        """From whom the present stage still awaits something."""
        return self._server.pending

    def culprits(self) -> Mapping[bytes, str]:
        """Who is proven to have dealt bad shares, and how it shows; for a worker thread."""
        return self._server.culprits

    def due(self, client_id: bytes) -> Message | None:
        """The last message that the client was sent, or None."""
        return self._due.get(client_id)

    def is_past(self, phase: Phase) -> bool:
        """Whether the stage of `phase` is closed, as after a crash just behind it."""
        return _ORDER.index(self.stage) > _ORDER.index(STAGE_OF[phase])

    def take(self, client_id: bytes, message: Message) -> Records:
        """What has to be durable before `message` is acknowledged. Raises: SecAggError."""
        records = self._take(self._server.handle(client_id, message))
        if isinstance(message, Advertise):
            records[_POSTING + client_id.hex()] = encode(message)
        return records

    def finish(self, client_id: bytes, *, sha256: bytes, size: int) -> Records:
        """Counts an upload that is durable in the spool. Raises: SecAggError."""
        sid = self._server.roster.sid
        trailer = UploadTrailer(sid, sha256)
        return self._take(
            self._server.finish_upload(client_id, trailer, received=sha256, length=size)
        )

    def close(self, phase: Phase) -> Records:
        """Freezes who takes part in what follows `phase`.

        Raises: RoundOverError if the session ends there; its end is durable with `records` of it.
        """
        try:
            effects = self._server.close(STAGE_OF[phase])
        except SecAggError as error:  # at the first stage more clients might still have come
            raise RoundOverError(error.what, why=error.why, fix=error.fix) from error
        records = self._take(effects)
        for effect in effects:
            if isinstance(effect, Fail):
                raise RoundOverError(
                    effect.error.what, why=effect.error.why, fix=effect.error.fix
                ) from effect.error
        return records

    def plan(self) -> UnmaskPlan:
        """What takes the masks off the sum; the same after a restart."""
        return self._server.plan()

    def _take(self, effects: Sequence[Effect]) -> Records:
        records: Records = {}
        for effect in effects:
            match effect:
                case Persist():
                    records[_MACHINE + effect.key] = effect.value
                case Send():
                    self._due[effect.to] = effect.message
        return records


def _under(prefix: str, records: Mapping[str, bytes]) -> Records:
    return {
        name.removeprefix(prefix): data for name, data in records.items() if name.startswith(prefix)
    }
