"""The bundles that clients posted for one session, until its roster is frozen from them."""

from __future__ import annotations

from fedcore.entropy import Entropy
from fedcore.errors import AuthenticationError, MessageError, ParameterError, ReuseError
from fedcore.secagg.admission import check_advertisement
from fedcore.secagg.assembly import SessionRoster
from fedcore.secagg.config import SessionConfig
from fedcore.secagg.identity import TrustStore
from fedcore.secagg.messages import Advertise, Limits
from fedcore.secagg.params import LARGEST_SESSION

__all__ = ["Postings"]

_STAGE = "R0"
_DIGEST_BYTES = 32


class Postings:
    """The terms of a session and who wants to take part.

    Raises: ParameterError for a round, an attempt or a model's digest that no message can carry.
    """

    def __init__(
        self,
        config: SessionConfig,
        *,
        model_digest: bytes,
        round: int,
        attempt: int,
        trust: TrustStore,
        now: int,
        entropy: Entropy,
    ) -> None:
        for name, value, bits in (("round", round, 64), ("attempt", attempt, 32)):
            if type(value) is not int or not 0 <= value < 2**bits:
                raise _unsendable(f"{name} = {value!r}", f"it is a whole number below 2^{bits}")
        if not isinstance(model_digest, bytes) or len(model_digest) != _DIGEST_BYTES:
            raise _unsendable("the model's digest", f"it has {_DIGEST_BYTES} bytes")
        self.config, self.model_digest = config, model_digest
        self._round, self._attempt = round, attempt
        self._trust, self._now = trust, now
        self._nonce = entropy.token(32)
        self._messages: dict[bytes, Advertise] = {}
        self._key_holders: dict[bytes, bytes] = {}

    @property
    def ids(self) -> frozenset[bytes]:
        """Whose bundles have arrived."""
        return frozenset(self._messages)

    def take(self, client_id: bytes, message: Advertise) -> None:
        """Keep a client's bundle; again the same one changes nothing.

        Raises: AuthenticationError, ReuseError, MessageError, each naming the client; PackingError
        or ParameterError if it would be one too many for the session.
        """
        certificate = check_advertisement(client_id, message, trust=self._trust, now=self._now)
        if self._messages.get(client_id, message) != message:
            raise ReuseError(
                "a client posts a second bundle for one session",
                why="its first one is in the roster",
                fix="post each bundle once, for one session",
                stage=_STAGE,
                culprit=client_id,
            )
        if self._key_holders.get(certificate.key, client_id) != client_id:
            raise AuthenticationError(
                "two clients post bundles with one identity key",
                why="no client accepts a roster in which one signature counts for two",
                fix="register each client with a key of its own",
                stage=_STAGE,
                culprit=client_id,
            )
        self._check_room(client_id)
        self._messages[client_id] = message
        self._key_holders[certificate.key] = client_id

    def _check_room(self, client_id: bytes) -> None:
        """With one client too many no roster can be frozen, and nobody can be sent away."""
        count = len(self._messages.keys() | {client_id})
        self.config.layout.check_budget(count)
        if count > LARGEST_SESSION:
            raise ParameterError(
                f"the session is full with {LARGEST_SESSION} clients",
                why="each client reads the whole roster",
                fix="let this client take part in another session, and add up the sums",
                stage=_STAGE,
            )

    def roster(self, pulse: bytes) -> SessionRoster:
        """The roster of all who posted, with the beacon's `pulse` if the terms name a beacon.

        Raises: MessageError for a pulse that does not fit; ParameterError or PackingError if so
        many clients cannot be aggregated on these terms.
        """
        if bool(self.config.beacon) != bool(pulse) or len(pulse) > Limits().pulse_bytes:
            raise MessageError(
                f"a pulse of {len(pulse)} bytes cannot seed the ring",
                why=f"a named beacon gives 1 to {Limits().pulse_bytes} bytes, and no other does",
                fix="pass the beacon's pulse as it is, and only if the configuration names one",
                stage=_STAGE,
            )
        self.config.parameters(len(self._messages))
        members = tuple(self._messages[client_id] for client_id in sorted(self._messages))
        return SessionRoster(self.config, self._round, self._attempt, self._nonce, pulse, members)


def _unsendable(what: str, why: str) -> ParameterError:
    return ParameterError(
        f"a session cannot be opened with {what}",
        why=why,
        fix="pass the round of the task, its attempt from 0 on, and SHA-256 of the model",
        stage=_STAGE,
    )
