"""What a round asks of its driver, in the order in which it must be done.

An effect may start only when every `Persist` before it is durable. After a crash the same effects
are asked for again, so each must be harmless when repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from fedcore.rounds.phases import Phase
from fedcore.rounds.state import Transition

__all__ = [
    "Aggregate",
    "Arm",
    "Begin",
    "Close",
    "Effect",
    "Invite",
    "Persist",
    "Publish",
    "Release",
    "Scrub",
]


@dataclass(frozen=True, slots=True)
class Persist:
    """Make a transition durable in one transaction, with the record of the state after it.

    A step asks for one at most, always first; the state that it returns is the one to record.
    The transition to COMPLETED is the transaction that moves the head of the model.
    """

    transition: Transition


@dataclass(frozen=True, slots=True)
class Invite:
    """Ask these clients for what the phase that has begun awaits of them."""

    cohort: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class Arm:
    """Send `DeadlinePassed(phase)` at `deadline`, in Unix milliseconds; at once if it is past."""

    phase: Phase
    deadline: int


@dataclass(frozen=True, slots=True)
class Close:
    """Freeze who takes part in what follows `phase`; answer with `Closed` or `CannotClose`."""

    phase: Phase


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Sum the reports of the state's `survivors`; answer with `Aggregated`."""


@dataclass(frozen=True, slots=True)
class Release:
    """Pay for the result, noise it, make its bytes durable; answer with `Released`."""


@dataclass(frozen=True, slots=True)
class Publish:
    """Make the next model of the bytes under `digest`, never of others; answer with `Published`."""

    digest: bytes


@dataclass(frozen=True, slots=True)
class Scrub:
    """Destroy updates and keys of the attempt; answer with `Scrubbed`."""


@dataclass(frozen=True, slots=True)
class Begin:
    """Open this attempt at the same round, unless it is open: fresh keys, fresh nonces."""

    attempt: int


Effect: TypeAlias = Persist | Invite | Arm | Close | Aggregate | Release | Publish | Scrub | Begin
