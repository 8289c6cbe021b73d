"""One accumulator per round takes every upload, so that memory never grows with the clients.

It lives in memory only and is a function of the set of uploads in it: after a crash it is made anew
from what the spool has sealed, and nothing durable is ever added to twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, overload

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import ConsistencyError, MessageError, ReuseError
from fedcore.failpoints import failpoint
from fedcore.secagg import Layout, UnmaskPlan, accumulate, new_accumulator
from fedcore.secagg.loopback import unmask_in_threads
from fedcore.secagg.packing import unpack
from fedserver.disk import in_thread
from fedserver.spool import SealedUpload, Spool

__all__ = ["Accumulation", "Totals", "accumulation_of"]

_PIECE_WORDS: Final = 1 << 16


class Totals(Sequence[NDArray[np.int64]]):
    """The sums of an unmasked accumulator, for each block an array (length,) int64.

    They are decoded when they are asked for, since decoded they take up to 64 times the memory of
    the accumulator: whoever can, asks for `pieces`.
    """

    def __init__(self, accumulator: NDArray[np.uint64], layout: Layout) -> None:
        self._layout, self._words, first = layout, [], 0
        for block in layout.blocks:
            self._words.append(accumulator[first : first + block.words])
            first += block.words

    def __len__(self) -> int:
        return len(self._words)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.int64]: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[NDArray[np.int64]]: ...

    def __getitem__(self, index: int | slice) -> NDArray[np.int64] | Sequence[NDArray[np.int64]]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return unpack(self._layout.blocks[index], self._words[index])

    def pieces(self, index: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """A block as (first coordinate, sums from there on), each once, in no order."""
        block, words = self._layout.blocks[index], self._words[index]
        for begin in range(0, block.words, _PIECE_WORDS):
            some = words[begin : begin + _PIECE_WORDS]
            # As a block of their own: each slot holds neighbours, `block.words` from the next's.
            decoded = unpack(replace(block, length=block.slots * len(some)), some)
            for slot, part in enumerate(decoded.reshape(block.slots, len(some))):
                first = slot * block.words + begin
                if first < block.length:
                    yield first, part[: block.length - first]


class Accumulation:
    """The sum of the uploads of one attempt of a round, masked or not; for one event loop.

    Work runs in worker threads, one upload at a time, to its end even when cancelled.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._accumulator = new_accumulator(layout)
        self._included: set[bytes] = set()
        self._turn = asyncio.Lock()
        self._broken = self._unmasked = False

    @property
    def included(self) -> frozenset[bytes]:
        """The clients whose uploads are in the sum."""
        return frozenset(self._included)

    async def add(self, client: bytes, frames: Iterable[tuple[int, bytes]]) -> bool:
        """Add a client's sealed upload, as `Spool.read_frames` gives it, unless it is in already.

        Whether it was added now. Raises: MessageError if the frames are not all of the layout's,
        and what `frames` raises: then half an upload may be in the sum, and only a new
        accumulation gives one (`accumulation_of`). ReuseError once the masks are off, or after
        such an error.
        """
        async with self._turn:
            if client in self._included:
                return False
            self._require_open()
            await in_thread(self._add, client, frames)
            return True

    async def total(
        self, members: frozenset[bytes], *, plan: UnmaskPlan | None = None, threads: int = 1
    ) -> Totals:
        """The sums of exactly the uploads of `members`, which share the memory of this object.

        `plan` takes the masks off, each of the `threads` on a range of its own; without it the
        uploads were not masked. It may be asked again, with the same members and plan.
        Raises: ConsistencyError if other uploads than those of `members` are in the sum;
        ReuseError after an `add` that failed.
        """
        async with self._turn:
            if members != self._included:
                raise ConsistencyError(
                    f"a sum of {len(self._included)} uploads is asked for {len(members)} clients",
                    why="another set of uploads is in it than the round has fixed",
                    fix="add exactly the uploads of the frozen set, then ask again",
                )
            if self._broken:
                raise _not_whole()
            return await in_thread(self._total, plan, threads)

    def _require_open(self) -> None:
        if self._broken or self._unmasked:
            raise (
                _not_whole()
                if self._broken
                else ReuseError(
                    "an upload comes after the masks were taken off the sum",
                    why="the set of a round's uploads is fixed before",
                    fix="leave it out; it belongs to no later round",
                )
            )

    def _add(self, client: bytes, frames: Iterable[tuple[int, bytes]]) -> None:
        expected = self._layout.frame_at
        middle = list(expected)[len(expected) // 2]
        self._broken = True  # until all of it is in
        places = iter(expected)
        for offset, data in frames:
            if offset != next(places, None):
                raise _not_the_frames()
            if offset == middle:
                failpoint("aggregate.midway")
            accumulate(self._accumulator, self._layout, offset, data)
        if next(places, None) is not None:
            raise _not_the_frames()
        self._included.add(client)
        self._broken = False

    def _total(self, plan: UnmaskPlan | None, threads: int) -> Totals:
        if plan is not None and not self._unmasked:
            self._broken = True  # until all masks are off
            unmask_in_threads(self._accumulator, plan, threads=threads)
            self._broken = False
        self._unmasked = True
        return Totals(self._accumulator, self._layout)


async def accumulation_of(
    layout: Layout,
    spool: Spool,
    uploads: Mapping[bytes, SealedUpload],
    *,
    key: bytes | None = None,
) -> Accumulation:
    """The sum of the sealed `uploads`, by client, made anew as after a restart.

    `key`: under which they are encrypted, if they are. Raises: as `Accumulation.add`, and as
    `Spool.read_frames` for one that is not sealed, or not as it was.
    """
    made = Accumulation(layout)
    for client in sorted(uploads):
        await made.add(client, spool.read_frames(uploads[client], layout, key=key))
    return made


def _not_whole() -> ReuseError:
    return ReuseError(
        "a sum that an error interrupted is asked for more",
        why="half an upload may be in it, or half of the masks off",
        fix="make the accumulation again from the sealed uploads",
    )


def _not_the_frames() -> MessageError:
    return MessageError(
        "an upload's frames are not those of its layout, each once and in order",
        why="a part of the vector would be missing in the sum, or be in it twice",
        fix="pass what Spool.read_frames gives",
    )
