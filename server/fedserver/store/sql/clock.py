"""A clock that never goes back, whatever is done to the machine's."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Clock"]


class Clock:
    """Milliseconds of UTC that never go back, as `source` gives them."""

    def __init__(self, source: Callable[[], int]) -> None:
        self._source = source
        self._last = 0
        self._lock = threading.Lock()

    def __call__(self) -> int:
        with self._lock:
            self._last = max(self._last, self._source())
            return self._last
