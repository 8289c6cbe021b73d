"""What a state machine asks of whoever drives it, in the order in which it must be done.

A driver may start an effect only when every `Persist` before it is durable: whatever must not
happen twice is on disk before a byte is sent. `Erase` may be late, never early.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from fedcore.errors import SecAggError
from fedcore.secagg.messages import Message
from fedcore.secagg.packing import Layout

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

    `context`: the digest of all that the vector will be masked under. `committed`: a vector was
    committed before a crash; only that one may be given now.
    """

    sid: bytes
    model_digest: bytes
    context: bytes
    layout: Layout
    committed: bool = False


@dataclass(frozen=True, slots=True)
class Fail:
    """The session is over without a sum, for this reason."""

    error: SecAggError


Effect: TypeAlias = Persist | Erase | Send | NeedInput | Fail
