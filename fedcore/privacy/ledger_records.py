"""What a ledger's lines say: records, each chained by its hash to all that stand before it.

One line is canonical JSON, a space, and the hexadecimal SHA-256 of the digest before it and of that
JSON. Whoever changes, drops, repeats or reorders a line breaks the chain; whoever cuts off its end
does not, and only a `Head` kept elsewhere shows that.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from fedcore.errors import LedgerError
from fedcore.privacy.codec import from_json, to_json
from fedcore.privacy.events import Event
from fedcore.privacy.plan import PrivacyPlan

__all__ = [
    "VERSION",
    "Chain",
    "Close",
    "Head",
    "Migrate",
    "Open",
    "Part",
    "Record",
    "Release",
    "Reserve",
    "Void",
    "encode",
    "read_blocks",
    "read_chain",
]

VERSION = 1
"""Of the format of a ledger's lines."""

_LONGEST_LINE = 2**26
_GENESIS = hashlib.sha256(b"fedcore privacy ledger 1").digest()
_WHOLE = re.compile(rb"(\{.*\}) ([0-9a-f]{64})")
_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Head:
    """The last record of a ledger: its number, and the digest of the chain up to it (32 bytes).

    A checkpoint carries it: a ledger that does not hold it is older than the checkpoint.

    >>> Head.from_json(Head(3, bytes(32)).to_json()) == Head(3, bytes(32))
    True
    """

    seq: int
    digest: bytes

    def to_json(self) -> dict[str, Any]:
        """The head as JSON values."""
        return {"seq": self.seq, "digest": self.digest.hex()}

    @classmethod
    def from_json(cls, data: object) -> Head:
        """The head that `to_json` wrote. Raises: LedgerError for anything else."""
        if isinstance(data, dict) and set(data) == {"seq", "digest"}:
            seq, text = data["seq"], data["digest"]
            if type(seq) is int and seq >= 0 and isinstance(text, str) and _DIGEST.fullmatch(text):
                return cls(seq, bytes.fromhex(text))
        raise LedgerError(
            "the ledger head of a checkpoint cannot be read",
            why='it is an object {"seq": a number, "digest": 64 hexadecimal digits}',
            fix="pass what Head.to_json() returned; of a text, what json.loads() makes of it",
        )


@dataclass(frozen=True)
class Open:
    """The first record. `order`: the one Rényi order that counts, or None: the best of all.

    `later_order`: the order that counts from a change of plan on. It is settled at the start, for
    an order that is picked after outputs were seen proves nothing. `key_check`: tells the
    participation key from others; "" where there is none.
    """

    version: int
    software: str
    accountant: str
    order: int | None
    later_order: int
    key_check: str
    plan: PrivacyPlan


@dataclass(frozen=True)
class Migrate:
    """From here on another plan holds; what was spent stays spent."""

    plan: PrivacyPlan


@dataclass(frozen=True)
class Reserve:
    """`event` is paid for `round`, and for those after it that the plan lets one entry pay for.

    The record's number is the reservation's.
    """

    round: int
    event: Event


@dataclass(frozen=True)
class Part:
    """Who takes part in the next release: sealed, and of a length that does not tell how many."""

    reservation: int
    sealed: str


@dataclass(frozen=True)
class Void:
    """What was reserved is not spent after all: no noise was drawn."""

    reservation: int
    reason: str


@dataclass(frozen=True)
class Release:
    """The payload of this SHA-256, in hexadecimal, is durable and may be published.

    Of the rounds that a reservation pays for, the first that was not released yet.
    """

    reservation: int
    payload: str


@dataclass(frozen=True)
class Close:
    """Nothing follows."""


Record: TypeAlias = Open | Migrate | Reserve | Part | Void | Release | Close


@dataclass(frozen=True)
class Chain:
    """The records of a file, and the digest of the chain after each.

    `tail`: where the last line begins; `end`: where it ends. `unended`: it lacks its newline.
    `torn`: more follows, the beginning of a line that was never finished.
    """

    records: tuple[Record, ...]
    digests: tuple[bytes, ...]
    tail: int
    end: int
    unended: bool
    torn: bool

    @property
    def head(self) -> Head | None:
        """The last record; None where there is none."""
        return Head(len(self.digests) - 1, self.digests[-1]) if self.digests else None


def encode(record: Record, head: Head | None) -> tuple[bytes, Head]:
    """The line that follows `head` (None: the first one), and the head that it makes.

    Raises: LedgerError for a record that could not be read again, or is longer than 64 MiB.
    """
    seq = 0 if head is None else head.seq + 1
    data = to_json(record)
    from_json(data, Record)
    text = _canonical({"record": data, "seq": seq})
    if len(text) > _LONGEST_LINE - 66:
        raise LedgerError(
            f"a record takes {len(text)} bytes",
            why="a line of the ledger has at most 64 MiB, so that it is known when one never ends",
            fix="name those who take part in several calls of participate()",
        )
    digest = hashlib.sha256((_GENESIS if head is None else head.digest) + text).digest()
    return text + b" " + digest.hex().encode() + b"\n", Head(seq, digest)


def read_chain(data: bytes) -> Chain:
    """The records that a ledger file of these bytes holds; see `read_blocks`."""
    return read_blocks([data])


def read_blocks(blocks: Iterable[bytes]) -> Chain:
    """The records that a ledger file of these pieces holds, which are taken as long as they fit.

    A line that was being written when power failed is a beginning of it, perhaps followed by zeros
    where a file system never put the data: it stands last and is dropped, for nothing is done
    before its record is durable. A last line that lacks nothing but its newline counts.

    Raises: LedgerError for anything else.
    """
    records: list[Record] = []
    digests: list[bytes] = []
    size = tail = end = 0
    rest = b""  # of the line that was not finished yet
    for block in blocks:
        size += len(block)
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            _read_line(line, records, digests)
            tail, end = end, end + len(line) + 1
        if len(rest) > _LONGEST_LINE:
            raise _broken(len(records), "it is longer than any that is written")
    rest = rest.rstrip(b"\0")
    if unended := _WHOLE.fullmatch(rest) is not None:
        _read_line(rest, records, digests)
        tail, end = end, end + len(rest)
    elif _WHOLE.fullmatch(rest[:-1]) or b"\0" in rest:
        # Not the beginning of any line: the newline was changed after it was written.
        raise _broken(len(records), "it is followed by something other than a newline")
    return Chain(
        records=tuple(records),
        digests=tuple(digests),
        tail=tail,
        end=end,
        unended=unended,
        torn=end < size,
    )


def _read_line(line: bytes, records: list[Record], digests: list[bytes]) -> None:
    seq = len(records)
    found = _WHOLE.fullmatch(line)
    if found is None:
        raise _broken(seq, "it is not a line of JSON and its hash")
    text, stated = found.groups()
    digest = hashlib.sha256((digests[-1] if digests else _GENESIS) + text).digest()
    if digest.hex().encode() != stated:
        raise _broken(seq, "its hash does not follow from it and the records before it")
    try:
        parsed = json.loads(text, parse_float=_refuse, parse_constant=_refuse)
        if _canonical(parsed) != text or set(parsed) != {"record", "seq"} or parsed["seq"] != seq:
            raise ValueError("it is not in the one form in which records are written")
        records.append(from_json(parsed["record"], Record))
    except (ValueError, RecursionError) as error:  # LedgerError is a ValueError
        why = error.why if isinstance(error, LedgerError) else str(error)
        raise _broken(seq, why) from error
    digests.append(digest)


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _refuse(number: str) -> Any:
    raise ValueError("it holds a number that is not an integer")


def _broken(seq: int, why: str) -> LedgerError:
    return LedgerError(
        f"record {seq} of the ledger is not what was written",
        why=why,
        fix="restore the file from a backup that is no older than the last checkpoint; where there "
        "is none, take the whole budget as spent",
    )
