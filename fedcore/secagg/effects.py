"""What a state machine asks of whoever drives it, in the order in which it must be done.

A driver may start an effect only when every `Persist` before it is durable: whatever must not
happen twice is on disk before a byte is sent. `Erase` may be late, never early.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from fedcore.errors import SecAggError
from fedcore.secagg.config import SessionConfig
from fedcore.secagg.messages import Message

__all__ = ["Effect", "Erase", "Fail", "NeedInput", "Persist", "Send"]


@dataclass(frozen=True, slots=True)
class Persist:
    """Make `value` durable under `key`, replacing what stood there.

    A client's values hold secrets: seal them under a key of the device.
    """

    key: str
    value: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Erase:
    """Destroy what stands under `key`, if anything."""

    key: str


@dataclass(frozen=True, slots=True)
class Send:
    """Send `message`: to the client with the id `to`, or to the server if `to` is empty."""

    message: Message
    to: bytes = b""


@dataclass(frozen=True, slots=True)
class NeedInput:
    """Train on the model with this digest, then give the vector: `commit` and `upload`.

    `config` and `round`: the terms that this client agreed to; its vector has the blocks of
    `config.layout`, clipped and noised as declared. `context`: the digest of all that it will be
    masked under. `committed`: a vector was committed before a crash; only that one may be given.
    """

    sid: bytes
    config: SessionConfig
    round: int
    model_digest: bytes
    context: bytes
    committed: bool = False


@dataclass(frozen=True, slots=True)
class Fail:
    """The session is over without a sum, for this reason."""

    error: SecAggError


Effect: TypeAlias = Persist | Erase | Send | NeedInput | Fail
