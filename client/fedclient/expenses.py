"""What an attempt costs is charged while it is spent, so that a client that is killed has paid.

Charged only at the end of a download, a client that dies in the middle again and again would move
bytes without end and keep within its day. To write each piece of 1 MiB down would be dear on the
flash cards of small devices: a charge is a write that is awaited, 0.3 ms on a solid-state disk and
many times that on a card. So it is done in steps.
"""

from __future__ import annotations

from typing import Final

from fedclient.assignment import OpenAssignment
from fedclient.progress import Energy
from fedclient.state import State

__all__ = ["STEP_BYTES", "Expenses"]

STEP_BYTES: Final = 8 * 2**20
"""The most that is moved before it is charged, besides the pieces on their way."""


class Expenses:
    """What one stage of the work on an assignment costs, told by one thread.

    Raises: ClientStateError.
    """

    def __init__(self, state: State, assignment: OpenAssignment) -> None:
        self._state, self._assignment = state, assignment
        self._up = self._down = 0

    def moved(self, *, up: int = 0, down: int = 0) -> None:
        """Counts bytes, and charges them once a step is full."""
        self._up, self._down = self._up + up, self._down + down
        if self._up + self._down >= STEP_BYTES:
            self.settle()

    def settle(self, *, seconds: float = 0.0, energy: Energy | None = None) -> None:
        """Charges what was counted, and what the work took besides."""
        up, down, self._up, self._down = self._up, self._down, 0, 0
        if not (up or down or seconds or energy):
            return
        self._state.spend(
            self._assignment, bytes_up=up, bytes_down=down, seconds=seconds, energy=energy
        )
