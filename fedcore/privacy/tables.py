"""One random word settles most draws at once; the rest are settled by as many bits as they need.

The unit interval is laid out anew: first, for each outcome, as many whole cells of 2^-16 as fit
into its mass, then what is left of the masses, end to end. A 16-bit word that falls into a whole
cell is an outcome by one look-up. One that falls beyond (0.4 % of words for a normal law of s = 64)
is prolonged to 64 bits and compared with the boundaries; if it equals the leading bits of one, it
is prolonged to all 192 bits of the boundary. So every outcome has exactly the mass it was given.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fedcore.errors import ArgumentError
from fedcore.privacy.csprng import Stream
from fedcore.privacy.masses import MASS_BITS

__all__ = ["CHUNK", "GUIDE_BITS", "CellTable", "Outcomes", "cell_table"]

Outcomes: TypeAlias = npt.NDArray[np.signedinteger[Any]]

GUIDE_BITS = 16

CHUNK = 2**15
"""Draws at a time, so that words, outcomes and table stay in a cache of the second level."""

_LOW_BITS = MASS_BITS - 64


@dataclass(frozen=True, eq=False)
class CellTable:
    """A law on the integers `first`, `first` + 1, ... whose masses are multiples of 2^-192.

    `guide`, shape (65536,): the outcome of each cell below `sure`, 0 from there on. `whole[i]`: how
    many of the cells belong to outcome i. `boundaries`: where outcome i ends among what is left, in
    units of 2^-192; `leading`: their first 64 bits. `fine`: outcome minus `first` of the cells of
    width 2^-`fine_bits` from `sure` on, or -1 where a boundary lies in one.
    """

    first: int
    guide: Outcomes
    sure: int
    whole: tuple[int, ...]
    boundaries: tuple[int, ...]
    leading: npt.NDArray[np.uint64]
    fine: npt.NDArray[np.int32]
    fine_bits: int

    def add(self, x: npt.NDArray[np.int64], *, stream: Stream) -> None:
        """Adds an independent outcome to each entry of `x`, shape (n,), in place."""
        words = np.empty(min(CHUNK, x.size), np.uint16)
        drawn = np.empty(words.size, self.guide.dtype)
        unsure, beyond = [], []
        for start in range(0, x.size, CHUNK):
            part = x[start : start + CHUNK]
            some, outcomes = words[: part.size], drawn[: part.size]
            stream.fill(some)
            self.guide.take(some, out=outcomes, mode="wrap")
            part += outcomes
            late = np.flatnonzero(some >= self.sure)
            unsure.append(late + start)
            beyond.append(some[late])
        if unsure:
            # All at once: each call takes microseconds for however few words.
            at = np.concatenate(unsure)
            x[at] += self.settle(np.concatenate(beyond), stream=stream) + self.first

    def settle(self, words: npt.NDArray[np.uint16], *, stream: Stream) -> npt.NDArray[np.int64]:
        """Outcomes minus `first` for words from `sure` on, which `stream` prolongs."""
        points = np.empty(words.size, np.uint64)
        stream.fill(points)
        points >>= np.uint64(16)
        points |= words.astype(np.uint64) << np.uint64(48)
        cells = points >> np.uint64(64 - self.fine_bits)
        cells -= np.uint64(self.sure << self.fine_bits >> 16)
        found = self.fine.take(cells.view(np.int64)).astype(np.int64)
        open_ = np.flatnonzero(found < 0)
        found[open_] = self.locate(points[open_], stream=stream)
        return found

    def locate(self, points: npt.NDArray[np.uint64], *, stream: Stream) -> npt.NDArray[np.int64]:
        """Outcomes minus `first` for the leading 64 bits of points among what is left."""
        found = np.searchsorted(self.leading, points)
        tied = np.flatnonzero(self.leading.take(found, mode="clip") == points)
        for i in tied:
            low = int.from_bytes(stream.bytes(_LOW_BITS // 8), "little")
            found[i] = bisect_right(self.boundaries, int(points[i]) << _LOW_BITS | low)
        return found


def cell_table(
    boundaries: Sequence[int],
    *,
    first: int,
    kept: Sequence[int] | None = None,
    guide_bits: int = GUIDE_BITS,
) -> CellTable:
    """The table of a law from the running sums of its masses, the last of them 2^192.

    Outcome `first` + i has the mass boundaries[i] - boundaries[i - 1]. `kept`: masses, not above
    the outcomes' own, of which alone whole cells are made; by default all. `guide_bits` below 16
    makes the cells larger, hence rarer, so that a test meets the slow paths.
    Raises: ArgumentError.

    >>> table = cell_table([2**191, 2**192], first=4)
    >>> table.guide[[0, 32766, 32767]], table.sure
    (array([4, 4, 5], dtype=int16), 65535)
    """
    masses = [high - low for low, high in pairwise((0, *boundaries))]
    if not masses or min(masses) < 0 or boundaries[-1] != 1 << MASS_BITS:
        raise ArgumentError(
            "boundaries are not the running sums of masses",
            why="they ascend, and the last is 2^192, which stands for 1",
            fix="pass running(weights)",
        )
    coarser = GUIDE_BITS - guide_bits
    whole = [mass >> MASS_BITS - guide_bits << coarser for mass in kept or masses]
    if sum(whole) == 1 << GUIDE_BITS:
        # Nothing is left: give a cell back, so that "beyond the last sure cell" is a 16-bit word.
        whole[max(range(len(whole)), key=whole.__getitem__)] -= 1 << coarser
    sure = sum(whole)
    last = first + len(masses) - 1
    narrow = first >= -(2**15) and last < 2**15
    guide: Outcomes = np.zeros(1 << GUIDE_BITS, np.int16 if narrow else np.int32)
    guide[:sure] = np.repeat(np.arange(first, last + 1), whole)
    cell = MASS_BITS - GUIDE_BITS
    left = [mass - (cells << cell) for mass, cells in zip(masses, whole, strict=True)]
    ends = tuple(accumulate(left, initial=sure << cell))[1:]
    leading = np.array([min(end >> _LOW_BITS, 2**64 - 1) for end in ends], np.uint64)
    # As many fine cells as the guide has, or nearly: a tenth of a percent of words get past both.
    fine_bits = 32 - coarser - (65_535 - sure).bit_length()
    return CellTable(
        first=first,
        guide=guide,
        sure=sure,
        whole=tuple(whole),
        boundaries=ends,
        leading=leading,
        fine=_fine(ends, sure, fine_bits),
        fine_bits=fine_bits,
    )


def _fine(ends: Sequence[int], sure: int, bits: int) -> npt.NDArray[np.int32]:
    """The outcome of each cell of width 2^-bits from `sure` on, -1 where a boundary lies inside."""
    start = sure << bits >> GUIDE_BITS
    count, shift = (1 << bits) - start, MASS_BITS - bits
    # The outcome at a point is the number of boundaries up to it: here up to the first point of
    # each cell, and up to its last.
    up_to_first = np.bincount([-(-end >> shift) - start for end in ends], minlength=count + 1)
    up_to_last = np.bincount([(end >> shift) - start for end in ends], minlength=count + 1)
    first, last = up_to_first.cumsum()[:count], up_to_last.cumsum()[:count]
    return np.where(first == last, first, -1).astype(np.int32)
