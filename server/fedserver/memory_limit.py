"""Watches the memory of the process, so that a leak is seen before the system ends it.

A library below it may leak, as gRPC did with every stream that was cancelled (its issue 43360), or
Python 3.12 with every new name of a file (python/cpython#121780). A server that holds more than it
is allowed says so in its log and takes itself out of the balancer; what has been begun goes on, and
whoever runs it restarts it when that suits.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from fedserver.metrics import resident_bytes

__all__ = ["MemoryLimit"]

_BACK_BELOW = 0.9  # of the limit, so that a process on the edge does not come and go


class MemoryLimit:
    """Gives a reason against new work while the process holds more than `limit_bytes`; 0: never.

    >>> limit = MemoryLimit(1 << 30, resident=lambda: 1.0 * (1 << 20))
    >>> limit()
    ''
    """

    def __init__(self, limit_bytes: int, *, resident: Callable[[], float] = resident_bytes) -> None:
        self._limit, self._resident = limit_bytes, resident
        self._over = False

    def __call__(self) -> str:
        """The reason, or ""; what changes is logged."""
        if not self._limit:
            return ""
        held = self._resident()
        over = held > self._limit * (_BACK_BELOW if self._over else 1)
        if over != self._over:
            self._over = over
            log = structlog.get_logger("fedserver.memory")
            tell = log.warning if over else log.info
            tell("memory", over=over, resident_bytes=int(held), limit_bytes=self._limit)
        return "the process holds more memory than limits.memory_bytes" if over else ""
