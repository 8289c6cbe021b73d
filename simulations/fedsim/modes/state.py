"""What goes from one round to the next, and what a kind of rounds is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedsim.clock import ClockState
from fedsim.engine import ClientReport
from fedsim.modes.passed import Passed

__all__ = ["Done", "Rounds", "State", "Vector"]

Vector: TypeAlias = NDArray[np.float32]


def _nothing_yet() -> ClockState:
    return ClockState()


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """All that the next round depends on.

    `theta` (D,): the model. `arrays`: what the server keeps beside it, by name. `clock`: where
    virtual time stands. `texts`: what else there is, by name.
    """

    theta: Vector
    arrays: Mapping[str, Vector] = field(default_factory=dict)
    clock: ClockState = field(default_factory=_nothing_yet)
    texts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Done:
    """A round that is over: the state after it, how it went, and who reported what.

    `loss`: the mean over what clients trained on; None where nobody may know.
    """

    state: State
    passed: Passed
    reports: tuple[ClientReport, ...]
    loss: float | None


class Rounds(Protocol):
    """Rounds of one kind, one after the other."""

    def start(self) -> State:
        """The state before the first round."""
        ...

    def begin(self, number: int) -> None:
        """The next round will be this one: what clients kept later than that counts for nothing."""
        ...

    def round(self, number: int, before: State) -> Done:
        """A round from the state before it.

        Raises: BudgetError where privacy pays for no more; RoundOverError after the last attempt.
        """
        ...

    def kept(self, number: int) -> None:
        """The state after this round is durable: nobody will begin with an earlier one."""
        ...
