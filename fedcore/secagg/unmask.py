"""Taking the masks off a sum: pure functions of a range of words, for any thread, in any order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fedcore.errors import MessageError
from fedcore.secagg.packing import Layout, add_wire, unpack
from fedcore.secagg.prg import Prg, Stream, apply_streams

__all__ = ["UnmaskPlan", "accumulate", "new_accumulator", "total_of", "unmask"]


@dataclass(frozen=True)
class UnmaskPlan:
    """The streams that the sum of one set of survivors is still masked with.

    `culprits`: the ids of clients who dealt shares that contradict each other; the bad ones were
    left out, and the sum is right all the same.
    """

    prg: Prg
    streams: tuple[Stream, ...] = field(repr=False)
    culprits: tuple[bytes, ...] = ()


def new_accumulator(layout: Layout) -> npt.NDArray[np.uint64]:
    """The zero sum, (words,) uint64: all that a server holds of its clients' vectors."""
    return np.zeros(layout.words, np.uint64)


def accumulate(
    accumulator: npt.NDArray[np.uint64], layout: Layout, offset: int, data: bytes
) -> None:
    """Add one chunk of an upload, which begins at byte `offset`, in place, mod 2^64.

    Only what is complete and of the right digest may be added: half an upload cannot be taken out
    again. Raises: MessageError if the chunk is not one that the layout cuts.
    """
    frame = layout.frame_at.get(offset)
    if frame is None or len(data) != frame.size:
        raise MessageError(
            f"{len(data)} bytes at offset {offset} are no chunk of the upload",
            why="chunks begin and end where the layout of the session cuts them",
            fix="send the chunks as SecAggClient.upload gives them",
            stage="R2",
        )
    add_wire(accumulator[frame.word : frame.word + frame.words], data, frame.word_bytes)


def unmask(words: npt.NDArray[np.uint64], plan: UnmaskPlan, *, offset: int = 0) -> None:
    """Take the masks off `words` in place: those of the accumulator from word `offset` on."""
    apply_streams(words, plan.streams, prg=plan.prg, offset=offset)


def total_of(
    accumulator: npt.NDArray[np.uint64], layout: Layout
) -> Sequence[npt.NDArray[np.int64]]:
    """The sums of an unmasked accumulator: for each block an array (length,) int64."""
    totals, first = [], 0
    for block in layout.blocks:
        totals.append(unpack(block, accumulator[first : first + block.words]))
        first += block.words
    return totals
