"""The next round's timeline, found while the workers are busy with this one.

Who reports when does not depend on what is trained.
"""

from __future__ import annotations

from collections.abc import Set
from contextlib import suppress
from functools import partial

from fedcore.errors import FedcoreError
from fedsim.clock import ClockState, RoundTimeline, SynchronousClock, Work
from fedsim.engine import Engine

__all__ = ["Ahead"]


class Ahead:
    """Rounds of a clock in which everybody may take part, one found ahead while `engine` works."""

    def __init__(self, clock: SynchronousClock, work: Work, engine: Engine) -> None:
        self._clock, self._work, self._engine = clock, work, engine
        self._next: tuple[int, ClockState, RoundTimeline] | None = None

    def round(
        self, number: int, before: ClockState, *, failing: Set[int] = frozenset()
    ) -> RoundTimeline:
        """A round, by now perhaps at hand. Raises: as `SynchronousClock.round`."""
        found, self._next = self._next, None
        if found is not None and not failing and found[:2] == (number, before):
            return found[2]
        return self._clock.round(number, before, self._work, failing=failing)

    def look(self, number: int, before: ClockState) -> None:
        """Leaves it for later to find the timeline of the round that will be asked for next."""
        self._engine.meanwhile(partial(self._find, number, before))

    def _find(self, number: int, before: ClockState) -> None:
        with suppress(FedcoreError):  # whoever asks for that round will be told
            self._next = number, before, self._clock.round(number, before, self._work)
