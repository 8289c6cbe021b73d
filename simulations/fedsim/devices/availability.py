"""When devices are there: windows of virtual time in which a client can take part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["NEVER", "Always", "Availability", "Crowd", "DutyCycle", "Places", "Times", "crowd"]

Places = NDArray[np.int64]
Times = NDArray[np.int64]

NEVER: Final = 2**62
"""Later than any time, in milliseconds, and far enough from the largest to add to."""


class Availability(Protocol):
    """When each client of a population is there, in milliseconds."""

    def window(self, clients: Places, at: int) -> tuple[Times, Times]:
        """The window of each client that holds `at`, or else its next one: begin and end.

        A client is there from its begin to before its end; both are NEVER where no window follows.
        Shapes: clients (n,) -> (n,), (n,).
        """
        ...

    def windows(self, clients: Places, at: int) -> tuple[Times, Times]:
        """All windows that end after `at`, of all these clients, in any order: begins and ends.

        Where they recur, those of one period or more. Shapes: clients (n,) -> (w,), (w,).
        """
        ...

    def longest(self, clients: Places) -> Times:
        """For how long each client is there at a time, at most: 0 for never, NEVER for all time.

        Shapes: clients (n,) -> (n,).
        """
        ...


class Always:
    """Everybody is there all the time."""

    def window(self, clients: Places, at: int) -> tuple[Times, Times]:
        return np.zeros(len(clients), np.int64), np.full(len(clients), NEVER)

    windows = window

    def longest(self, clients: Places) -> Times:
        return np.full(len(clients), NEVER)


class DutyCycle:
    """Each client is there for the first `length` of each `period`, by a clock of its own.

    `phases`: how far the clocks of some clients are ahead. Shapes: (n,) -> (n,).
    """

    def __init__(self, phases: Callable[[Places], Times], *, period: int, length: int) -> None:
        self._phases, self._period, self._length = phases, period, length

    def window(self, clients: Places, at: int) -> tuple[Times, Times]:
        if self._length >= self._period:
            return Always().window(clients, at)
        begins = at - (at + self._phases(clients)) % self._period
        begins += np.where(begins + self._length <= at, self._period, 0)
        return begins, begins + self._length

    def windows(self, clients: Places, at: int) -> tuple[Times, Times]:
        begins, ends = self.window(clients, at)
        if self._length >= self._period:
            return begins, ends
        both = np.concatenate([begins, begins + self._period])
        return both, both + self._length

    def longest(self, clients: Places) -> Times:
        return np.full(len(clients), NEVER if self._length >= self._period else self._length)


class Crowd:
    """How many clients are there from each time on: `counts[i]` from `times[i]` to `times[i + 1]`.

    `times` begin at the time that was asked for.
    """

    def __init__(self, times: Times, counts: Times) -> None:
        self.times, self.counts = times, counts

    def first(self, count: int) -> int:
        """When so many are there for the first time, or NEVER."""
        enough = np.flatnonzero(self.counts >= count)
        return int(self.times[enough[0]]) if len(enough) else NEVER

    @property
    def most(self) -> int:
        """The most that are ever there at once."""
        return int(self.counts.max())


def crowd(availability: Availability, clients: Places, at: int) -> Crowd:
    """How many of these clients are there from `at` on.

    >>> halves = DutyCycle(np.array([0, 40]).take, period=100, length=50)
    >>> seen = crowd(halves, np.arange(2), at=20)
    >>> seen.times[:3].tolist(), seen.counts[:3].tolist(), seen.first(2), seen.most
    ([20, 50, 60], [1, 0, 1], 100, 2)
    """
    begins, ends = availability.windows(clients, at)
    changes = np.concatenate([np.maximum(begins, at), ends])
    signs = np.repeat(np.array([1, -1]), [len(begins), len(ends)])
    times, inverse = np.unique(np.append(changes, at), return_inverse=True)
    counts = np.cumsum(np.bincount(inverse[:-1], weights=signs, minlength=len(times)))
    kept = times < NEVER
    return Crowd(times[kept], counts[kept].astype(np.int64))
