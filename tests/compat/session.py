"""A recorded session: what a device asked in its order, and what was in the answers.

Of calls that are repeated while nothing happens, one that was answered with news stands for all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Self

from google.protobuf.message import Message

from tests.compat.descriptors import RECORDED

__all__ = ["Exchange", "Session", "shape_of"]


@dataclass(frozen=True)
class Exchange:
    """`call`: like "RoundService.Next". `request`: its bytes. `heard`: the fields of its answer."""

    call: str
    request: bytes
    heard: tuple[str, ...]


@dataclass(frozen=True)
class Session:
    """From a join string to the report of one round, by a device of release `version`."""

    version: str
    exchanges: tuple[Exchange, ...]

    @classmethod
    def load(cls, name: str) -> Self:
        found = json.loads((RECORDED / f"{name}.json").read_text())
        exchanges = (
            Exchange(one["call"], bytes.fromhex(one["request"]), tuple(one["heard"]))
            for one in found["exchanges"]
        )
        return cls(found["version"], tuple(exchanges))

    def save(self, name: str) -> None:
        text = json.dumps(asdict(self), indent=1, default=bytes.hex)
        (RECORDED / f"{name}.json").write_text(text + "\n")

    def part(self, *, enrolment: bool) -> Iterator[Exchange]:
        """What goes to the enrolment port, or all else."""
        for exchange in self.exchanges:
            if exchange.call.startswith("EnrolmentService.") == enrolment:
                yield exchange


def shape_of(message: Message) -> tuple[str, ...]:
    """The paths of all fields that are set."""

    def paths(part: Message, prefix: str) -> Iterator[str]:
        for field, value in part.ListFields():
            name = f"{prefix}{field.name}"
            yield name
            inner: Any = value
            if field.message_type is not None and not field.is_repeated:
                yield from paths(inner, f"{name}.")

    return tuple(sorted(paths(message, "")))
