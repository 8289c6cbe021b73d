"""How much each upload may have on its way, so that all of them together stay small.

A piece that has arrived and waits for the disk is memory, three times its size while it is taken
apart. A disk is kept busy by some; what goes beyond them only waits. So one upload has all that the
protocol allows, and a hundred at once have one piece each, of half the size.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from fedcore.wire.transfer import CHUNK_BYTES, WINDOW

__all__ = ["Window", "Windows"]

_LEAST_BYTES: Final = CHUNK_BYTES // 2  # of a piece: half as large is one and a half times the work


class Window(NamedTuple):
    """`pieces` may be on their way, each of at most `chunk_bytes`."""

    pieces: int
    chunk_bytes: int


class Windows:
    """Shares out `together` bytes among the uploads that were heard of for `alive_s` seconds.

    `now_s`: any clock that never goes back.

    >>> windows = Windows(now_s=lambda: 0.0, together=3 << 20)
    >>> [windows.of(bytes([upload])) for upload in range(4)][1:]  # doctest: +NORMALIZE_WHITESPACE
    [Window(pieces=1, chunk_bytes=1048576), Window(pieces=1, chunk_bytes=1048576),
     Window(pieces=1, chunk_bytes=786432)]
    """

    def __init__(
        self, *, now_s: Callable[[], float], together: int = 16 << 20, alive_s: float = 30.0
    ) -> None:
        self._now_s, self._together, self._alive_s = now_s, together, alive_s
        self._heard: OrderedDict[bytes, float] = OrderedDict()  # the longest silent first

    def of(self, upload_id: bytes) -> Window:
        """What an upload that begins now, or again, may have on its way."""
        self.hear(upload_id)
        since = self._now_s() - self._alive_s
        while next(iter(self._heard.values())) < since:
            self._heard.popitem(last=False)
        share = max(_LEAST_BYTES, self._together // len(self._heard))
        return Window(
            pieces=max(1, min(WINDOW, share // CHUNK_BYTES)), chunk_bytes=min(share, CHUNK_BYTES)
        )

    def hear(self, upload_id: bytes) -> None:
        """Notes a piece."""
        self._heard[upload_id] = self._now_s()
        self._heard.move_to_end(upload_id)

    def end(self, upload_id: bytes) -> None:
        """Forgets an upload that is whole."""
        self._heard.pop(upload_id, None)
