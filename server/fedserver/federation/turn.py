"""For how long a task may keep clients waiting that others want as well.

A task that asks for more clients than there are would otherwise keep all of them for ever, and no
task behind it would begin. Its turn is over once clients have waited for it in vain for a while.
Then the others come first for four times as long, and so on, each time for twice as long: a task
whose clients are busy in a long round of another one still gets them all in the end.
"""

from __future__ import annotations

from typing import Final

__all__ = ["Turn"]

_FIRST_S: Final = 30.0  # clients that come again every quarter of a minute meet in half of one
_LONGEST_S: Final = 960.0
_OTHERS: Final = 4  # times as long, which costs them a fifth of their time at most


class Turn:
    """A task's turn; times are seconds of a clock that nobody sets."""

    def __init__(self) -> None:
        self._length_s = _FIRST_S
        self._began_s: float | None = None
        self._over_until_s = 0.0

    def begins(self, now_s: float) -> None:
        """A client waits for a selection.

        Who waits while others come first does not count, else the next turn would never come: and
        only in a turn do clients of several servers meet for sure.
        """
        if self._began_s is None and now_s >= self._over_until_s:
            self._began_s = now_s

    def selects(self) -> None:
        """A selection has begun: nobody has waited in vain."""
        self._began_s, self._length_s, self._over_until_s = None, _FIRST_S, 0.0

    def in_vain(self, now_s: float) -> None:
        """A client has waited for as long as it is held, and no selection has begun."""
        if self._began_s is not None and now_s - self._began_s >= self._length_s:
            self._over_until_s = now_s + _OTHERS * self._length_s
            self._began_s = None
            self._length_s = min(2 * self._length_s, _LONGEST_S)

    def over_until(self, now_s: float) -> float:
        """Until when others come first, 0 if they do not."""
        return self._over_until_s if now_s < self._over_until_s else 0.0
