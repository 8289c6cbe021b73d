"""How a client is stopped at once, whatever it waits for: a call, a delay, a step of training."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fedcore.errors import CancelledError

__all__ = ["Stop"]


class Stop:
    """Says once, to all threads, that work ends; for which `reason`."""

    def __init__(self) -> None:
        self._event, self._lock = threading.Event(), threading.Lock()
        self._callbacks: list[Callable[[], object]] = []
        self.reason = ""

    def set(self, reason: str = "") -> None:
        """Ends what is going on; the first reason stays."""
        with self._lock:
            if not self._event.is_set():
                self.reason = reason
            self._event.set()
            callbacks = list(self._callbacks)
        for callback in callbacks:
            callback()

    def clear(self) -> None:
        """Lets work begin again."""
        self._event.clear()
        self.reason = ""

    def is_set(self) -> bool:
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Waits, and says whether it was stopped."""
        return self._event.wait(seconds)

    @contextmanager
    def calling(self, callback: Callable[[], object]) -> Iterator[None]:
        """Within, `callback` is called by `set`; at once if it was set before."""
        with self._lock:
            self._callbacks.append(callback)
        if self.is_set():
            callback()
        try:
            yield
        finally:
            with self._lock:
                self._callbacks.remove(callback)

    def check(self) -> None:
        """Raises: CancelledError if it was set."""
        if self.is_set():
            raise CancelledError(
                "the client's work was stopped",
                why=self.reason or "its owner asked for it",
                fix="run it again: it goes on where it was",
            )
