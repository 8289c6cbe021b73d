"""Clients in an order drawn at random, as far as somebody asks for it.

A round draws a cohort from a population that may be a thousand times larger; what is not drawn
costs nothing.
"""

from __future__ import annotations

from fedcore.tensor.random import Key
from fedsim.devices.availability import Places

__all__ = ["Draw"]


class Draw:
    """A permutation of `order`, which follows from the key, however it is asked for.

    Source: Fisher and Yates; here only the places that were exchanged are kept.

    >>> import numpy as np
    >>> whole = Draw(Key(7, "cohort"), np.arange(5)).take(9)
    >>> parts = Draw(Key(7, "cohort"), np.arange(5))
    >>> sorted(whole.tolist()), [*parts.take(2), *parts.take(3)] == whole.tolist()
    ([0, 1, 2, 3, 4], True)
    """

    def __init__(self, key: Key, order: Places) -> None:
        self._order, self._generator = order, key.generator()
        self._moved: dict[int, int] = {}
        self._taken = 0

    def take(self, count: int) -> Places:
        """The next so many clients; fewer where all others were taken."""
        first, size = self._taken, len(self._order)
        self._taken = min(first + count, size)
        found = []
        for place, u in enumerate(self._generator.random(self._taken - first).tolist(), first):
            other = place + int(u * (size - place))
            found.append(self._moved.get(other, other))
            self._moved[other] = self._moved.get(place, place)
        return self._order[found]
