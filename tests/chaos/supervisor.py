"""What a service manager does: a program that was killed is started again, until it is enough."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Self

from tests.chaos.programs import Program, until

__all__ = ["Supervisor"]

_LOOK_S = 0.05


class Supervisor:
    """Keeps a program running while it is entered, armed with one failpoint after the other.

    `start(failpoints)`: starts it anew. `points`: like "upload.after_seal=kill@2"; with the first
    it is started, and with the next whenever it was killed; after the last with none.
    """

    def __init__(self, start: Callable[[str], Program], points: Sequence[str]) -> None:
        self._start, self._points = start, deque(points)
        self._armed = ""
        self.killed: list[str] = []
        self._over = threading.Event()
        self._failed: list[BaseException] = []
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    def __enter__(self) -> Self:
        self._program = self._next()
        self._thread.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self._over.set()
        self._thread.join()
        if self._failed:
            raise self._failed[0]

    def wait_for_kills(self) -> None:
        """Returns when it has been killed at every point, and runs again."""
        until(lambda: self._failed or self.settled, "it is killed everywhere", timeout_s=90)

    @property
    def settled(self) -> bool:
        """Whether all points are behind it."""
        return not self._armed and not self._points

    def _next(self) -> Program:
        self._armed = self._points.popleft() if self._points else ""
        return self._start(self._armed)

    def _watch(self) -> None:
        try:
            while not self._over.wait(_LOOK_S):
                if self._program.was_killed:
                    self.killed.append(self._armed)
                    self._program = self._next()
                elif self._program.code is not None:
                    raise AssertionError(f"it ended by itself: {self._program.complaints}")
        except BaseException as error:
            self._failed.append(error)
