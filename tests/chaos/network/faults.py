"""What can befall a connection, and how it is drawn: each from a seed and the connection's number.

Delays and losses are those of TCP: what is delayed stays in order, and what is lost in a direction
is lost for good, since nobody sends it again once it was acknowledged.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = [
    "Draw",
    "Fault",
    "Way",
    "any_of",
    "constantly",
    "delayed",
    "half_open",
    "refusing",
    "resetting",
    "slow",
    "undisturbed",
]

Way: TypeAlias = Literal["up", "down"]


@dataclass(frozen=True, slots=True)
class Fault:
    """What befalls one connection, in both directions unless it says otherwise.

    `delay_s`: the least and the most that a piece is late. `bytes_per_s`: None for no limit.
    `reset_after`: bytes of both directions together, None for never. `lost`: a direction whose
    bytes vanish, the end of the connection among them, after the first `lost_after` of them.
    `refused`: it is reset before the first byte.
    """

    delay_s: tuple[float, float] = (0.0, 0.0)
    bytes_per_s: float | None = None
    reset_after: int | None = None
    lost: Way | None = None
    lost_after: int = 0
    refused: bool = False


Draw: TypeAlias = Callable[[random.Random], Fault]


def undisturbed(draw: random.Random) -> Fault:
    """Nothing happens."""
    return Fault()


def delayed(draw: random.Random) -> Fault:
    """200 ± 100 ms in each direction."""
    return Fault(delay_s=(0.1, 0.3))


def slow(draw: random.Random) -> Fault:
    """1 KiB a second in each direction."""
    return Fault(bytes_per_s=1024)


def constantly(fault: Fault) -> Draw:
    """The same for every connection."""
    return lambda draw: fault


def resetting(least: int, most: int) -> Draw:
    """A reset after so many bytes, which may be in the middle of a message."""
    return lambda draw: Fault(reset_after=draw.randint(least, most))


def half_open(least: int, most: int) -> Draw:
    """One of the directions falls silent after so many of its bytes."""

    def drawn(draw: random.Random) -> Fault:
        way: Way = draw.choice(("up", "down"))
        return Fault(lost=way, lost_after=draw.randint(least, most))

    return drawn


def refusing(share: float) -> Draw:
    """That share of the connections is refused, the others are undisturbed."""
    return lambda draw: Fault(refused=draw.random() < share)


def any_of(*draws: Draw) -> Draw:
    """One of them for each connection."""
    return lambda draw: draw.choice(draws)(draw)
