"""Who takes part in simulated sessions: clients with certified keys, each behind a real machine."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache, partial
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedcore.entropy import Entropy
from fedcore.errors import SecAggError
from fedcore.federated.task import Task
from fedcore.secagg import (
    LARGEST_SESSION,
    Certificate,
    CertificateAuthority,
    Effect,
    Fail,
    Identity,
    Message,
    NeedInput,
    Policy,
    SecAggClient,
    Send,
    SessionConfig,
    TrustStore,
    UploadChunk,
    UploadTrailer,
    decode,
    encode,
)
from fedcore.secagg.identity import ID_BYTES
from fedcore.secagg.messages import UploadHeader

__all__ = ["NOW", "Blocks", "Device", "Parties", "Upload"]

Blocks: TypeAlias = tuple[NDArray[np.int64], ...]

NOW: Final = 0
"""The Unix second in which all of it happens; nothing expires meanwhile."""

_EXPIRES: Final = 2**40
_IDENTITIES: Final = 4 * LARGEST_SESSION


class Parties:
    """The clients of one task, by their places in the population; `names`: as they are enrolled.

    A client is enrolled when it first takes part; of so many as four of the largest sessions hold,
    the keys are kept, and who comes back after that is enrolled anew.
    """

    def __init__(
        self, task: Task, config: SessionConfig, names: Sequence[str], *, entropy: Entropy
    ) -> None:
        self._names, self._entropy = names, entropy
        self._authority = CertificateAuthority.generate(entropy)
        self._policy = _policy_of(task, config, self._authority.public_key)
        self._identity = lru_cache(_IDENTITIES)(self._enrolled)
        self.trust = TrustStore(self._policy.roots, remember_signatures=True)

    def devices(self, places: Sequence[int], *, model_digest: bytes) -> list[Device]:
        """The devices of clients that are to train the model with this digest, for one session."""
        policy = replace(self._policy, models=frozenset({model_digest}))
        return [self._device(place, policy) for place in places]

    def _device(self, place: int, policy: Policy) -> Device:
        identity = self._identity(place)
        client = SecAggClient(identity, policy, entropy=self._entropy, trust=self.trust)
        return Device(place, identity.id, client)

    def _enrolled(self, place: int) -> Identity:
        client_id = hashlib.sha256(self._names[place].encode()).digest()[:ID_BYTES]
        certify = partial(_certified, self._authority, client_id)
        return Identity.generate(self._entropy, certify=certify)


@dataclass(frozen=True, slots=True, eq=False)
class Upload:
    """A masked vector on its way; without a trailer it was cut off before its end."""

    device: Device
    header: bytes
    chunks: tuple[UploadChunk, ...]
    trailer: UploadTrailer | None


class Device:
    """A client's program for one session. What its machine asks to be kept is not: nothing crashes.

    `wanted`: whether the machine has asked for the client's vector. `failure`: with what it refused
    the session, or the server what it said; from then on it is silent.
    """

    def __init__(self, place: int, client_id: bytes, client: SecAggClient) -> None:
        self.place, self.id, self._client = place, client_id, client
        self._unheard: list[Message] = []
        self._sid = b""
        self.wanted = False
        self.failure: SecAggError | None = None

    def offer(self) -> list[bytes]:
        """A new prekey: the messages that post it."""
        return self._sent(self._client.offer(1, expires=_EXPIRES))

    def tell(self, message: Message) -> None:
        """Puts a message of the server into the inbox; it is heard when the device next does so."""
        self._unheard.append(message)

    def hear(self) -> list[bytes]:
        """Takes the messages of the server: the answers to the last, for others it is too late."""
        answers: list[bytes] = []
        if self.failure is not None:
            return answers
        try:
            for message in self._unheard:
                arrived = decode(encode(message))
                answers = self._sent(self._client.handle(arrived, now=NOW))
        except SecAggError as error:
            return self._fail(error)
        finally:
            self._unheard.clear()
        return [] if self.failure else answers

    def upload(self, blocks: Blocks, *, whole: bool) -> Upload | None:
        """Gives the vector, and masks it; None if the machine refuses it. `whole`: to its end.

        Memory: an upload beside `blocks`.
        """
        try:
            self._sent(self._client.commit(self._sid, blocks))
            return self._uploaded(self._client.upload(self._sid, blocks), whole)
        except SecAggError as error:
            self._fail(error)
            return None

    def _uploaded(
        self, messages: Iterator[UploadHeader | UploadChunk | UploadTrailer], whole: bool
    ) -> Upload:
        header, *chunks, trailer = messages
        assert isinstance(header, UploadHeader) and isinstance(trailer, UploadTrailer)
        parts = tuple(chunk for chunk in chunks if isinstance(chunk, UploadChunk))
        return Upload(self, encode(header), parts, trailer if whole else None)

    def _sent(self, effects: Sequence[Effect]) -> list[bytes]:
        messages = []
        for effect in effects:
            match effect:
                case Send():
                    messages.append(encode(effect.message))
                case NeedInput():
                    self._sid, self.wanted = effect.sid, True
                case Fail():
                    self.failure = effect.error
        return messages

    def _fail(self, error: SecAggError) -> list[bytes]:
        self.failure = error
        return []


def _policy_of(task: Task, config: SessionConfig, root: bytes) -> Policy:
    """What a device agrees to that has the task before it: its own terms, and nothing weaker."""
    widths = [block.slot_bits for block in config.layout.blocks]
    return Policy(
        roots=(root,),
        smallest_cohort=task.cohort.minimum,
        profile=config.profile,
        gamma_floor=Fraction(config.gamma),
        sigma_floor=config.sigma,
        delta_ceiling=Fraction(config.delta),
        prgs=frozenset({config.prg}),
        slot_bits=(min(widths), max(widths)),
        wrapping_slots=any(block.wraps for block in config.layout.blocks),
        largest_upload=config.layout.upload_bytes,
        clipping_ceiling=config.clipping_norm or math.inf,
        noise_floor=config.noise_multiplier,
        attempts=task.rounds.max_attempts,
        tasks=frozenset({config.task}),
    )


def _certified(authority: CertificateAuthority, client_id: bytes, key: bytes) -> Certificate:
    return authority.issue(client_id, key, expires=_EXPIRES)
