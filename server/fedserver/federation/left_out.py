"""The clients that a task does without: some for good, some for a while.

One that refused the task would refuse its next attempt too, and each would be lost with it. It is
offered the task again once its owner has changed what may change the answer, and at the latest
after a quarter of an hour.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

__all__ = ["LeftOut", "Refusal"]

_REFUSAL_S: Final = 900.0  # not all that may change the answer shows in the terms of a client


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a client refused the task, in a word, and for how long yet it is not offered again."""

    why: str
    left_s: float


class LeftOut:
    """Whom one task does not ask. `clock`: seconds that never run backwards."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._for_good: set[bytes] = set()
        self._refused: dict[bytes, tuple[float, str, bytes]] = {}

    def __contains__(self, client: bytes) -> bool:
        return client in self._for_good or self.refusal(client) is not None

    @property
    def refusals(self) -> dict[str, int]:
        """How many clients have refused the task lately, by why, the most frequent first."""
        now = self._clock()
        found = Counter(why for until, why, _ in self._refused.values() if until > now)
        return dict(found.most_common())

    @property
    def longest_s(self) -> float:
        """After so many seconds everybody who refused the task is offered it again."""
        ends = (until for until, _, _ in self._refused.values())
        return max(0.0, max(ends, default=0.0) - self._clock())

    def refusal(self, client: bytes) -> Refusal | None:
        """For what the client is left out for a while."""
        until, why, _ = self._refused.get(client, (0.0, "", b""))
        left_s = until - self._clock()
        return Refusal(why, left_s) if left_s > 0 and client not in self._for_good else None

    def bar(self, client: bytes) -> bool:
        """Leaves a client out for good; whether it was not before."""
        known = client in self._for_good
        self._for_good.add(client)
        return not known

    def refused(self, client: bytes, why: str, *, terms: bytes = b"") -> None:
        """Leaves a client out for a quarter of an hour, or until it comes with other terms."""
        self._refused[client] = self._clock() + _REFUSAL_S, why, terms

    def comes(self, client: bytes, *, terms: bytes) -> None:
        """Forgets what the client refused under other terms."""
        found = self._refused.get(client)
        if found is not None and found[2] != terms:
            del self._refused[client]
