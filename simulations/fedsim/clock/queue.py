"""What is to happen in virtual time, in an order that depends on nothing but what was pushed."""

from __future__ import annotations

import heapq
from typing import Generic, TypeVar

__all__ = ["EventQueue"]

T = TypeVar("T")


class EventQueue(Generic[T]):
    """Events by their time, in milliseconds; of one moment in the order in which they were pushed.

    Time passes by popping: nobody waits, and no clock of the machine is read.

    >>> queue = EventQueue[str](now=0)
    >>> queue.push(20, "b"), queue.push(10, "a"), queue.push(20, "c")
    (None, None, None)
    >>> [queue.pop() for _ in range(3)], queue.now
    (['a', 'b', 'c'], 20)
    """

    def __init__(self, *, now: int) -> None:
        self.now = now
        self._heap: list[tuple[int, int, T]] = []
        self._pushed = 0

    def push(self, at: int, event: T) -> None:
        """Lets something happen at that time, which is not past."""
        assert at >= self.now, "time does not run backwards"
        heapq.heappush(self._heap, (at, self._pushed, event))
        self._pushed += 1

    def pop(self) -> T:
        """What happens next; it is then `now`."""
        self.now, _, event = heapq.heappop(self._heap)
        return event

    @property
    def next_at(self) -> int | None:
        """When something happens next, or None if nothing ever does."""
        return self._heap[0][0] if self._heap else None

    def peek(self) -> T | None:
        """What happens next, without its happening; None if nothing ever does."""
        return self._heap[0][2] if self._heap else None
