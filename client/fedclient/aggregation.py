"""This device's part in secure aggregation: the state machine, its disk, and what is kept of it.

The machine says what must be durable before what is sent; here that becomes rows of the device's
state. What a restart would send again is left out: the server repeats every instruction that was
not obeyed, and the machine then answers with the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from fedclient.assignment import OpenAssignment
from fedclient.state import State
from fedcore.errors import ConsistencyError, FedcoreError
from fedcore.failpoints import failpoint
from fedcore.secagg import (
    Effect,
    Erase,
    Fail,
    Identity,
    IntegerSource,
    Message,
    NeedInput,
    Persist,
    Policy,
    SecAggClient,
    Send,
    SessionConfig,
    encode,
)
from fedcore.secagg.messages import (
    MaskRequest,
    Roster,
    Survivors,
    UnmaskRequest,
    UploadChunk,
    UploadHeader,
)

if TYPE_CHECKING:
    from fedcore.federated.task import Task

__all__ = ["Aggregation"]

_PREKEY_LIFE_S: Final = 7 * 86_400


class Aggregation:
    """The one `SecAggClient` of a device, over `state`. Made anew after a start of the program.

    Raises: ClientStateError if records are damaged.
    """

    def __init__(self, identity: Identity, policy: Policy, *, state: State) -> None:
        self._state = state
        self._client = SecAggClient(identity, policy)
        self.failed: list[FedcoreError] = []
        restored = self._client.restore(state.records(), now=_now())
        for effect in restored:
            if isinstance(effect, Fail):
                self.failed.append(effect.error)
            elif isinstance(effect, Persist | Erase):
                self._keep(effect)

    def advertise(self) -> bytes:
        """A prekey bundle for one attempt, made and kept: the message that posts it.

        Keys are never older than the attempt that they serve.
        """
        keys_last = _now() + _PREKEY_LIFE_S
        [message] = [
            effect.message
            for effect in self._perform(self._client.offer(1, expires=keys_last))
            if isinstance(effect, Send)
        ]
        return encode(message)

    def hear(
        self, message: Message, *, task: Task, assignment: OpenAssignment
    ) -> Iterator[Send | NeedInput]:
        """Takes a message of the server for an assignment: what is to be sent and given, in order.

        Each is due before the next is asked for. Raises: a SecAggError; for a message of another
        session or with other terms than the task's ConsistencyError.
        """
        _check_terms(message, task, assignment)
        for effect in self._perform(self._client.handle(message, now=_now())):
            assert isinstance(effect, Send | NeedInput)
            yield effect

    def commit(self, sid: bytes, blocks: Sequence[IntegerSource]) -> None:
        """Binds the session to one vector, which must have been kept. Raises: a SecAggError."""
        for _ in self._perform(self._client.commit(sid, blocks)):
            raise AssertionError("a commitment sends nothing")

    def header(self, sid: bytes, blocks: Sequence[IntegerSource]) -> bytes:
        """What precedes the masked update."""
        header = next(iter(self._client.upload(sid, blocks)))
        assert isinstance(header, UploadHeader)
        return encode(header)

    def masked(self, sid: bytes, blocks: Sequence[IntegerSource]) -> Iterator[tuple[int, bytes]]:
        """The masked update as (offset, bytes); the same at every call."""
        for message in self._client.upload(sid, blocks):
            if isinstance(message, UploadChunk):
                yield message.offset, message.data

    def finish(self, sid: bytes, *, opened: bool) -> None:
        """Ends a session: its sum was opened, or never will be; its secrets are erased."""
        if sid:
            effects = [*self._client.settle(sid)] if opened else []
            for _ in self._perform([*self._client.abandon(sid), *effects]):
                pass
        for _ in self._perform(self._client.expire(_now())):
            pass

    def _perform(self, effects: Iterable[Effect]) -> Iterator[Effect]:
        """Does what stays on this device, and yields the rest at its turn. Raises: what failed."""
        for effect in effects:
            match effect:
                case Persist() | Erase():
                    self._keep(effect)
                case Fail():
                    raise effect.error
                case _:
                    yield effect

    def _keep(self, effect: Persist | Erase) -> None:
        if isinstance(effect, Persist):
            self._state.persist(effect.key, effect.value)
            failpoint("client.after_persist")
        else:
            self._state.erase(effect.key)


def _check_terms(message: Message, task: Task, assignment: OpenAssignment) -> None:
    """The server may not hold another session than the one that the signed task describes."""
    sid = getattr(message, "sid", b"")
    if isinstance(message, Roster):
        config = SessionConfig.decode(message.config)
        place = (message.round, message.attempt)
        if config != task.session_config() or place != (assignment.round, assignment.attempt):
            raise _contradiction("the session has other terms than its task, or another round")
        # Noise and slots were worked out for this many, whatever smaller cohort the owner allows.
        if not task.cohort.minimum <= message.n <= task.cohort.select:
            raise _contradiction(f"a session of {message.n} clients is none of its task's")
    elif isinstance(message, MaskRequest | Survivors | UnmaskRequest) and sid != assignment.sid:
        raise _contradiction("the message is of another session than the assignment's")


def _contradiction(what: str) -> ConsistencyError:
    return ConsistencyError(
        what,
        why="what this device agreed to is the signed task",
        fix="nothing is given to this session; report it to the operator",
    )


def _now() -> int:
    return int(time.time())
