"""The clients that a task does without: some for good, some for a while.

One that refused the task would refuse its next attempt too, and each would be lost with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

__all__ = ["LeftOut"]

_REFUSAL_S: Final = 900.0  # its owner may install what was missing, or allow what was forbidden


class LeftOut:
    """Whom one task does not ask. `clock`: seconds that never run backwards."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._for_good: set[bytes] = set()
        self._until: dict[bytes, float] = {}

    def __contains__(self, client: bytes) -> bool:
        return client in self._for_good or self._until.get(client, 0.0) > self._clock()

    @property
    def refusals(self) -> int:
        """How many clients have refused the task lately."""
        now = self._clock()
        return sum(until > now for until in self._until.values())

    def bar(self, client: bytes) -> bool:
        """Leaves a client out for good; whether it was not before."""
        known = client in self._for_good
        self._for_good.add(client)
        return not known

    def refused(self, client: bytes) -> None:
        """Leaves a client out for a quarter of an hour."""
        self._until[client] = self._clock() + _REFUSAL_S
