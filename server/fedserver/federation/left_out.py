"""The clients that a task does without: some for good, some for a while.

One that refused the task would refuse its next attempt too, and each would be lost with it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Final

__all__ = ["LeftOut"]

_REFUSAL_S: Final = 900.0  # its owner may install what was missing, or allow what was forbidden


class LeftOut:
    """Whom one task does not ask. `clock`: seconds that never run backwards."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._for_good: set[bytes] = set()
        self._refused: dict[bytes, tuple[float, str]] = {}

    def __contains__(self, client: bytes) -> bool:
        until, _ = self._refused.get(client, (0.0, ""))
        return client in self._for_good or until > self._clock()

    @property
    def refusals(self) -> dict[str, int]:
        """How many clients have refused the task lately, by why, the most frequent first."""
        now = self._clock()
        found = Counter(why for until, why in self._refused.values() if until > now)
        return dict(found.most_common())

    def bar(self, client: bytes) -> bool:
        """Leaves a client out for good; whether it was not before."""
        known = client in self._for_good
        self._for_good.add(client)
        return not known

    def refused(self, client: bytes, why: str) -> None:
        """Leaves a client out for a quarter of an hour. `why`: in a word."""
        self._refused[client] = self._clock() + _REFUSAL_S, why
