"""Who may be selected for an attempt, in the order in which they ask for work."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from fedcore.tensor.random import Key
from fedsim.clock.draw import Draw
from fedsim.devices import NEVER, Devices, crowd
from fedsim.devices.availability import Places

__all__ = ["Candidate", "Candidates"]

_FIRST, _LARGEST = 16, 1024  # of the blocks in which clients are looked at


class Candidate(NamedTuple):
    """A client that is there from a time on, until before another."""

    client: int
    begin: int
    until: int


class Candidates:
    """The clients that are there at `at`, in an order drawn by `key`; then those who come later.

    `among`: places that may be selected, in an order that does not depend on how they are numbered.
    Only as many are looked at as are asked for.
    """

    def __init__(self, devices: Devices, key: Key, *, at: int, among: Places) -> None:
        self._devices, self._at, self._among = devices, at, among
        self._found = self._search(Draw(key, among))
        self._looked_at: list[Candidate] = []

    def there(self, count: int) -> int:
        """How many are there at `at`, counted up to `count`."""
        missing = count - len(self._looked_at)
        self._looked_at += islice(self._found, max(0, missing))
        return sum(one.begin <= self._at for one in self._looked_at[:count])

    def first_with(self, count: int) -> tuple[int, int]:
        """When so many are there for the first time, or NEVER; and the most that ever are."""
        seen = crowd(self._devices.availability, self._among, self._at)
        return seen.first(count), seen.most

    def __iter__(self) -> Iterator[Candidate]:
        """All of them, once, in order."""
        kept, self._looked_at = self._looked_at, []
        yield from kept
        yield from self._found

    def _search(self, draw: Draw) -> Iterator[Candidate]:
        later: list[Candidate] = []
        size = _FIRST
        while len(block := draw.take(size)):
            size = min(2 * size, _LARGEST)
            begins, ends = self._devices.availability.window(block, self._at)
            for one in map(Candidate, block.tolist(), begins.tolist(), ends.tolist()):
                if one.begin <= self._at:
                    yield one
                elif one.begin < NEVER:
                    later.append(one)
        yield from sorted(later, key=lambda one: one.begin)
