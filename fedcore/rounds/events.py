"""What happens to a round, as its driver tells it, each `at` a time in Unix milliseconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import TypeAlias

from fedcore.rounds.phases import Phase

__all__ = [
    "Aggregated",
    "Arrived",
    "Cancel",
    "CannotClose",
    "CheckedIn",
    "Closed",
    "DeadlinePassed",
    "Event",
    "Lost",
    "Published",
    "Recovered",
    "Released",
    "Scrubbed",
    "Started",
]


@dataclass(frozen=True, slots=True)
class Started:
    """Let the attempt begin to look for clients; `why` for as many as the policy selects."""

    at: int
    why: str = ""


@dataclass(frozen=True, slots=True)
class CheckedIn:
    """A client asked for work and may have it; its request is durable. Repeating is harmless."""

    at: int
    client: bytes


@dataclass(frozen=True, slots=True)
class Arrived:
    """What `phase` awaits of a client is durable. Repeating is harmless."""

    at: int
    phase: Phase
    client: bytes


@dataclass(frozen=True, slots=True)
class Lost:
    """A client gives no sign of life, or reported that it failed.

    Without effect on who has arrived in this phase: tell it again in the next one.
    """

    at: int
    client: bytes
    why: str


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """The timer of a phase went off. It may be early or stale: the state knows better."""

    at: int
    phase: Phase


@dataclass(frozen=True, slots=True)
class Closed:
    """The answer to `Close`: the set of the phase is frozen, and `remaining` go on.

    Also taken unasked, as after a crash between the freezing of a set and this event.
    """

    at: int
    phase: Phase
    remaining: Set[bytes]


@dataclass(frozen=True, slots=True)
class CannotClose:
    """The attempt cannot get beyond `phase`: no session would close, a driver gave up, ..."""

    at: int
    phase: Phase
    why: str


@dataclass(frozen=True, slots=True)
class Aggregated:
    """The sum of the survivors' reports is there."""

    at: int


@dataclass(frozen=True, slots=True)
class Released:
    """The result, noised where privacy asks for it, is durable under `digest`."""

    at: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Published:
    """The next model is made of the released bytes and durable; only the head has still to move."""

    at: int


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """Updates and keys of the attempt are destroyed."""

    at: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """An operator wants no more of this round.

    Once RELEASING is durable the budget is spent, so the round completes all the same.
    """

    at: int
    why: str


@dataclass(frozen=True, slots=True)
class Recovered:
    """A driver took the attempt over, from its record.

    `arrived`: whose message of the present phase is durable, in order of arrival. `lost`: who is
    known to be lost in it, with the reason; from KEYS on, who arrived is not. A driver that finds
    the set of the phase frozen already says so afterwards, with `Closed`.
    """

    at: int
    arrived: Sequence[bytes] = ()
    lost: Mapping[bytes, str] = field(default_factory=dict)


Event: TypeAlias = (
    Started
    | CheckedIn
    | Arrived
    | Lost
    | DeadlinePassed
    | Closed
    | CannotClose
    | Aggregated
    | Released
    | Published
    | Scrubbed
    | Cancel
    | Recovered
)
