"""Models and updates travel in pieces that may be lost, repeated and asked for again.

Every piece is a unary call with an offset, because gRPC retries no stream that broke. TLS guards
what comes from outside; the CRC-32 finds our own mistakes, and the SHA-256 of the whole decides.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Final, Protocol, TypeVar

from fedcore.errors import TransferError

__all__ = ["CHUNK_BYTES", "WINDOW", "check_chunk", "crc32", "pieces", "windowed"]

# Measured over mTLS on 2 cores: 1 MiB × 4 gave 384 MB/s, pieces of 4 MiB gave 172 to 188.
CHUNK_BYTES: Final = 1 << 20
WINDOW: Final = 4


class _Call(Protocol):
    def cancel(self) -> object: ...


_Piece = TypeVar("_Piece")
_Answer = TypeVar("_Answer", bound=_Call)


def crc32(data: bytes | memoryview) -> int:
    """CRC-32 of ISO 3309, 32 bits without a sign.

    >>> hex(crc32(b"123456789"))
    '0xcbf43926'
    """
    return zlib.crc32(data)


def check_chunk(
    data: bytes | memoryview, *, crc32: int, offset: int, size: int, chunk_bytes: int = CHUNK_BYTES
) -> None:
    """Raises TransferError unless `data` is undamaged and lies, not empty, within `size` bytes."""
    if not 0 < len(data) <= chunk_bytes or offset < 0 or offset + len(data) > size:
        raise TransferError(
            f"{len(data)} bytes at {offset} are no piece of {size} bytes",
            why=f"a piece has 1 to {chunk_bytes} bytes and ends within the whole",
            fix="cut the bytes as fedcore.wire.transfer.pieces does",
        )
    if zlib.crc32(data) != crc32:
        raise TransferError(
            f"the {len(data)} bytes at {offset} were changed on their way",
            why="their CRC-32 is another than the sender's",
            fix="send the piece again",
        )


def pieces(
    size: int, *, start: int = 0, chunk_bytes: int = CHUNK_BYTES
) -> Iterator[tuple[int, int]]:
    """(offset, length) of each piece of `size` bytes from `start` on.

    >>> list(pieces(10, start=2, chunk_bytes=4))
    [(2, 4), (6, 4)]
    """
    for offset in range(start, size, chunk_bytes):
        yield offset, min(chunk_bytes, size - offset)


@contextmanager
def windowed(
    calls: Iterable[tuple[_Piece, _Answer]], *, window: int = WINDOW
) -> Iterator[Iterator[tuple[_Piece, _Answer]]]:
    """The calls, each of which begins as it is drawn from `calls`, the oldest first.

    At most `window` are under way, the one that was given out last among them. Those that nobody
    took are cancelled at the end of the block.
    """
    with closing(_ahead(calls, window)) as ahead:
        yield ahead


def _ahead(
    calls: Iterable[tuple[_Piece, _Answer]], window: int
) -> Generator[tuple[_Piece, _Answer], None, None]:
    going: deque[tuple[_Piece, _Answer]] = deque()
    try:
        for call in calls:
            going.append(call)
            if len(going) >= window:
                yield going.popleft()
        while going:
            yield going.popleft()
    finally:
        for _, answer in going:
            answer.cancel()
