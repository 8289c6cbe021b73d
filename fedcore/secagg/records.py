"""The names of a client's durable records, and what it remembers of a closed session."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from fedcore.errors import MessageError
from fedcore.secagg.keys import Prekey
from fedcore.secagg.messages import UnmaskAnswer, decode_as, encode

__all__ = [
    "STEPS",
    "Stored",
    "Tombstone",
    "prekey_key",
    "release_key",
    "step_key",
    "tombstone_key",
]

STEPS: Final = ("roster", "shares", "mask-request", "masking", "confirmation")
_SID_BYTES = 32
_TOMBSTONE = struct.Struct("<16sQ32s32s")


def prekey_key(pid: bytes) -> str:
    """A prekey with its private parts, until its session is over."""
    return f"prekey/{pid.hex()}"


def step_key(sid: bytes, step: str) -> str:
    """What a session took or gave at one of STEPS, until it is over."""
    return f"session/{sid.hex()}/{step}"


def release_key(task: bytes, round: int) -> str:
    """The sessions of one round of a task to which this client gave a vector; never erased."""
    return f"release/{task.hex()}/{round}"


def tombstone_key(sid: bytes) -> str:
    """That a session is closed for ever, and what was revealed in it, to be sent again."""
    return f"tombstone/{sid.hex()}"


@dataclass(frozen=True, slots=True, repr=False)
class Tombstone:
    """A session in which this client will never act again.

    `pid`: the prekey that served it, and serves nothing more, be it erased yet or not; `expires`:
    Unix seconds, when it does. `context`: H_ctx, and `survivors_digest`: T of the set that it
    helped to open; zeros if it opened none. `answer`: what it revealed of that set, in the same
    record, so that no crash can part what was revealed from what it was for.
    """

    pid: bytes
    expires: int
    context: bytes = bytes(32)
    survivors_digest: bytes = bytes(32)
    answer: UnmaskAnswer | None = None

    def encode(self) -> bytes:
        """88 bytes, and the answer if there is one."""
        answer = b"" if self.answer is None else encode(self.answer)
        return _TOMBSTONE.pack(self.pid, self.expires, self.context, self.survivors_digest) + answer

    @classmethod
    def decode(cls, data: bytes) -> Tombstone:
        """What `encode` gave. Raises: MessageError."""
        if len(data) < _TOMBSTONE.size:
            raise MessageError(
                f"the record of a closed session has {len(data)} bytes",
                why=f"it is written with {_TOMBSTONE.size} and more",
                fix="restore the client's records from where they were written last",
            )
        head, rest = data[: _TOMBSTONE.size], data[_TOMBSTONE.size :]
        pid, expires, context, digest = _TOMBSTONE.unpack(head)
        return cls(pid, expires, context, digest, decode_as(rest, UnmaskAnswer) if rest else None)


@dataclass(frozen=True, repr=False)
class Stored:
    """A client's records, read: `steps` are what its open sessions took and gave, by their sid."""

    prekeys: dict[bytes, Prekey]
    closed: dict[bytes, Tombstone]
    charged: dict[str, frozenset[bytes]]
    steps: dict[bytes, dict[str, bytes]] = field(default_factory=dict)

    @classmethod
    def read(cls, records: Mapping[str, bytes]) -> Stored:
        """Raises: MessageError if a record is damaged; what it was is not known then."""
        stored = cls(
            prekeys={_name(rest): Prekey.decode(value) for rest, value in _of(records, "prekey")},
            closed={
                _name(rest): Tombstone.decode(value) for rest, value in _of(records, "tombstone")
            },
            charged={f"release/{rest}": _charges(value) for rest, value in _of(records, "release")},
        )
        for rest, value in _of(records, "session"):
            sid, _, step = rest.partition("/")
            stored.steps.setdefault(_name(sid), {})[step] = value
        return stored


def _of(records: Mapping[str, bytes], kind: str) -> Iterator[tuple[str, bytes]]:
    """The records of one kind in order: what follows the kind in the key, and the value."""
    for key in sorted(records):
        head, _, rest = key.partition("/")
        if head == kind:
            yield rest, records[key]


def _charges(value: bytes) -> frozenset[bytes]:
    if not value or len(value) % _SID_BYTES:
        raise MessageError(
            f"the record of a round's sessions has {len(value)} bytes",
            why=f"it names one session or more, with {_SID_BYTES} bytes each",
            fix="restore the client's records from where they were written last",
        )
    return frozenset(value[i : i + _SID_BYTES] for i in range(0, len(value), _SID_BYTES))


def _name(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise MessageError(
            f"a record is named {text!r}",
            why="names are the hexadecimal digits of a prekey's or a session's name",
            fix="restore the client's records from where they were written last",
        ) from None
