"""A client's vector, packed, masked and sent frame by frame, in memory for one frame.

Before the first byte leaves, the digest of every packed frame is durable; and each frame is checked
against it again before it is masked. So a vector that changed, between the two passes or between
two runs of the program, never goes out under masks that another one used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from fedcore.errors import PackingError, ReuseError
from fedcore.secagg.keys import Prekey
from fedcore.secagg.messages import UploadChunk, UploadTrailer
from fedcore.secagg.packing import IntegerSource, Layout, pack, to_wire
from fedcore.secagg.prg import Prg, Stream, apply_streams
from fedcore.secagg.roster import RosterView
from fedcore.secagg.transcript import entry

__all__ = ["FRAME_DIGEST_BYTES", "check_blocks", "frame_digests", "mask_streams", "masked_frames"]

FRAME_DIGEST_BYTES = 32


def frame_digests(layout: Layout, blocks: Sequence[IntegerSource]) -> bytes:
    """SHA-256 of each packed frame of the vector, one after the other.

    Raises: PackingError if a block does not fit the layout.
    """
    check_blocks(layout, blocks)
    return b"".join(hashlib.sha256(words.data).digest() for words in _packed(layout, blocks))


def check_blocks(layout: Layout, blocks: Sequence[IntegerSource]) -> None:
    """Raises: PackingError unless there are as many blocks as the layout has."""
    if len(blocks) != len(layout.blocks):
        raise PackingError(
            f"the vector has {len(blocks)} blocks",
            why=f"the session's layout has {len(layout.blocks)}",
            fix="give one array of integers for each block",
            stage="R2",
        )


def mask_streams(
    view: RosterView, prekey: Prekey, uploaders: npt.NDArray[np.bool_]
) -> list[Stream]:
    """The self mask, and one stream for EVERY neighbour among `uploaders`.

    Also for one whose share was missing or bad: leaving it out would leave its mask in the sum.
    """
    schedule, me = view.schedule, view.index
    streams = [Stream(schedule.self_seed(prekey.b, me), negative=False)]
    for j in view.neighbours_in(uploaders):
        seed = schedule.pair_seed(prekey.mask_private, view.bundles[j].mask_key, me, j)
        streams.append(Stream(seed, negative=me > j))
    return streams


def masked_frames(
    sid: bytes,
    layout: Layout,
    blocks: Sequence[IntegerSource],
    digests: bytes,
    streams: Sequence[Stream],
    *,
    prg: Prg,
) -> Iterator[UploadChunk | UploadTrailer]:
    """The masked chunks of the vector, then the trailer; `digests` as `frame_digests` gave them.

    Raises: ReuseError before a frame is sent that is not the one that was committed.
    """
    sent = hashlib.sha256()
    for place, (frame, words) in enumerate(
        zip(layout.frames(), _packed(layout, blocks), strict=True)
    ):
        committed = entry(digests, FRAME_DIGEST_BYTES, place)
        if hashlib.sha256(words.data).digest() != committed:
            raise ReuseError(
                "the vector is not the one that was committed",
                why="a second vector under the same masks would give away the difference of both",
                fix="leave the session, or compute the same vector again",
                stage="R2",
            )
        apply_streams(words, streams, prg=prg, offset=frame.word)
        data = to_wire(words, frame.word_bytes)
        sent.update(data)
        yield UploadChunk(sid, frame.byte, data)
    yield UploadTrailer(sid, sent.digest())


def _packed(layout: Layout, blocks: Sequence[IntegerSource]) -> Iterator[npt.NDArray[np.uint64]]:
    for frame in layout.frames():
        yield pack(layout.blocks[frame.block], blocks[frame.block], frame.start, frame.words)
