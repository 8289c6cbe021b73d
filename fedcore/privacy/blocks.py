"""A wide law is a narrow one over blocks, and nearly uniform within each: the rest is rejection.

A word chooses a block by the table of blocks, further bits a member. What the table lays out in
whole cells is the part of each block that would be accepted whichever member came: there nothing
remains to be done, for 98.4 % of draws. The others are accepted against what is left of the block's
mass, in float64 where that decides beyond doubt, else in integers and with more random bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from fedcore.privacy.csprng import Stream
from fedcore.privacy.masses import MASS_BITS, Blocks, exp_interval
from fedcore.privacy.tables import CHUNK, GUIDE_BITS, CellTable, Outcomes, cell_table

__all__ = ["MARGIN_BITS", "BlockTable", "block_table"]

MARGIN_BITS = 36
"""Float64 decides if it sees a difference above 2^-36.

For |y| <= 18 s the rounding of y moves (y^2 - edge^2) / 2 s^2 by at most 324 * 2^-53 < 2^-44; the
other roundings, and an error of the exponential of up to 16 units in its last place, stay below
2^-48.
"""

_WORD = 64

_PIECE = 8192
"""Unsure draws at a time: 30 ns each, 44 in pieces of 2048, 62 of 16,384 (busy machine)."""


@dataclass(frozen=True, eq=False)
class BlockTable:
    """`blocks` made ready for drawing.

    `guide`, shape (65536,): the first member of the block of each sure cell, in the narrowest type
    that holds all members, since the addition of members of another size costs six times as much.
    `edges`, `assured` and `rest`, float64 of shape (blocks,): the least |y|; the part of the mass
    that whole cells accept already; and 1 less that.
    """

    blocks: Blocks
    cells: CellTable
    guide: Outcomes
    edges: npt.NDArray[np.float64]
    assured: npt.NDArray[np.float64]
    rest: npt.NDArray[np.float64]
    margin: float

    def add(self, x: npt.NDArray[np.int64], *, stream: Stream) -> None:
        """Adds an independent draw to each entry of `x`, shape (n,), in place."""
        unsure, words = self._add_sure(x, stream)
        rejected = []
        for start in range(0, unsure.size, _PIECE):
            at = unsure[start : start + _PIECE]
            found, accepted = self._propose(words[start : start + _PIECE], stream)
            x[at[accepted]] += found[accepted]
            rejected.append(at[~accepted])
        if rejected:
            again = np.concatenate(rejected)
            fresh = np.zeros(again.size, np.int64)
            self.add(fresh, stream=stream)
            x[again] += fresh

    def _add_sure(
        self, x: npt.NDArray[np.int64], stream: Stream
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.uint16]]:
        """Adds what whole cells settle, 0 elsewhere; the places of the others, and their words."""
        words = np.empty(min(CHUNK, x.size), np.uint16)
        drawn = np.empty(words.size, self.guide.dtype)
        members = np.empty(words.size, f"u{self.guide.itemsize}")
        unused = 8 * members.itemsize - self.blocks.shift
        unsure, beyond = [np.empty(0, np.intp)], [np.empty(0, np.uint16)]
        for start in range(0, x.size, CHUNK):
            part = x[start : start + CHUNK]
            some, outcomes, inner = words[: part.size], drawn[: part.size], members[: part.size]
            stream.fill(some)
            stream.fill(inner)
            self.guide.take(some, out=outcomes, mode="wrap")
            np.right_shift(inner, unused, out=inner)
            outcomes += inner.view(outcomes.dtype)
            late = np.flatnonzero(some >= self.cells.sure)
            outcomes[late] = 0
            part += outcomes
            unsure.append(late + start)
            beyond.append(some[late])
        return np.concatenate(unsure), np.concatenate(beyond)

    def _propose(
        self, words: npt.NDArray[np.uint16], stream: Stream
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """What words beyond the sure cells propose, and whether it is accepted."""
        block = self.cells.settle(words, stream=stream)
        bits = np.empty((3, words.size), np.uint64)
        stream.fill(bits)
        member, jitter, chance = bits
        found = (block + self.cells.first) << self.blocks.shift
        found += (member >> np.uint64(_WORD - self.blocks.shift)).view(np.int64)
        surplus = self.surplus(found, block, jitter, chance)
        accepted = surplus > 0
        for i in np.flatnonzero(np.abs(surplus) <= self.margin):
            accepted[i] = self.accepts(
                int(found[i]), int(block[i]), int(jitter[i]), int(chance[i]), stream=stream
            )
        return found, accepted

    def surplus(
        self,
        x: npt.NDArray[np.int64],
        block: npt.NDArray[np.int64],
        jitter: npt.NDArray[np.uint64],
        chance: npt.NDArray[np.uint64],
    ) -> npt.NDArray[np.float64]:
        """By how much the chance of accepting each x exceeds what is asked, within 2^-44."""
        y = np.abs(x + self.blocks.jitter * (jitter * 2.0**-_WORD - 0.5))
        edge = self.edges[block]
        exponent = (y - edge) * (y + edge) * float(-1 / (2 * self.blocks.sigma2))
        return np.exp(exponent) - (self.assured[block] + chance * 2.0**-_WORD * self.rest[block])

    def accepts(self, x: int, block: int, jitter: int, chance: int, *, stream: Stream) -> bool:
        """Whether x is accepted, for two uniform variables of which 64 bits are known.

        Both get 64 bits more until the intervals that they allow lie apart.
        """
        blocks, whole = self.blocks, self.cells.whole[block] << MASS_BITS - GUIDE_BITS
        below = blocks.boundaries[block - 1] if block else 0
        mass = blocks.boundaries[block] - below
        edge, bits = blocks.edges[block], _WORD
        while True:
            low = x + blocks.jitter * (Fraction(jitter, 1 << bits) - Fraction(1, 2))
            high = low + Fraction(blocks.jitter, 1 << bits)
            # Zero is a multiple of 2^-bits, hence never within: the ends are nearest and farthest.
            near, far = sorted((abs(low), abs(high)))
            least, _ = exp_interval((far**2 - edge**2) / (2 * blocks.sigma2), bits)
            _, most = exp_interval((near**2 - edge**2) / (2 * blocks.sigma2), bits)
            asked = (whole << bits) + chance * (mass - whole)
            if asked + (mass - whole) <= mass * least:
                return True
            if asked >= mass * most:
                return False
            jitter = jitter << _WORD | int.from_bytes(stream.bytes(_WORD // 8), "little")
            chance = chance << _WORD | int.from_bytes(stream.bytes(_WORD // 8), "little")
            bits += _WORD


def block_table(
    blocks: Blocks, *, guide_bits: int = GUIDE_BITS, margin_bits: int = MARGIN_BITS
) -> BlockTable:
    """The table of `blocks`; less `guide_bits` or `margin_bits` make a test meet the slow paths."""
    cells = cell_table(
        blocks.boundaries, first=blocks.first, kept=blocks.kept, guide_bits=guide_bits
    )
    masses = [high - low for low, high in pairwise((0, *blocks.boundaries))]
    assured = np.array(
        [
            (whole << MASS_BITS - GUIDE_BITS) / mass if whole else 0.0
            for whole, mass in zip(cells.whole, masses, strict=True)
        ]
    )
    return BlockTable(
        blocks=blocks,
        cells=cells,
        guide=cells.guide.astype(np.min_scalar_type(blocks.first << blocks.shift)) << blocks.shift,
        edges=np.array([float(edge) for edge in blocks.edges]),
        assured=assured,
        rest=1 - assured,
        margin=2.0**-margin_bits,
    )
