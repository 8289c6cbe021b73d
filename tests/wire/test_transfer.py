"""Pieces cover the whole exactly once, and a damaged or misplaced piece is found."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, strategies as st

from fedcore.errors import TransferError
from fedcore.wire.transfer import CHUNK_BYTES, check_chunk, crc32, pieces, windowed


@given(st.integers(0, 200), st.integers(0, 220), st.integers(1, 50))
def test_pieces_cover_the_rest_once_and_in_order(size: int, start: int, chunk_bytes: int) -> None:
    covered = [
        at
        for offset, length in pieces(size, start=start, chunk_bytes=chunk_bytes)
        for at in range(offset, offset + length)
    ]
    assert covered == list(range(start, size))


@given(st.binary(min_size=1, max_size=64), st.data())
def test_any_changed_bit_is_found(chunk: bytes, data: st.DataObject) -> None:
    check_chunk(chunk, crc32=crc32(chunk), offset=3, size=3 + len(chunk))
    bit = data.draw(st.integers(0, 8 * len(chunk) - 1))
    changed = bytearray(chunk)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(TransferError, match="changed"):
        check_chunk(bytes(changed), crc32=crc32(chunk), offset=3, size=3 + len(chunk))


@pytest.mark.parametrize(
    ("length", "offset", "size"),
    [(0, 0, 10), (11, 0, 10), (5, 6, 10), (5, -1, 10), (CHUNK_BYTES + 1, 0, 2 * CHUNK_BYTES)],
)
def test_a_piece_outside_of_the_whole_is_refused(length: int, offset: int, size: int) -> None:
    chunk = bytes(length)
    with pytest.raises(TransferError, match="no piece"):
        check_chunk(chunk, crc32=crc32(chunk), offset=offset, size=size)


class Call:
    """One that is under way until it is done or cancelled."""

    def __init__(self, number: int, under_way: set[int]) -> None:
        self.number, self.under_way = number, under_way
        under_way.add(number)

    def cancel(self) -> None:
        self.under_way.remove(self.number)


@given(st.integers(0, 20), st.integers(1, 6), st.integers(0, 20))
def test_no_more_calls_are_under_way_than_the_window_and_none_at_the_end(
    count: int, window: int, taken: int
) -> None:
    under_way: set[int] = set()
    most, seen = 0, []

    def begun() -> Iterator[tuple[int, Call]]:
        for number in range(count):
            yield number, Call(number, under_way)

    with windowed(begun(), window=window) as calls:
        for number, call in calls:
            most = max(most, len(under_way))
            under_way.remove(call.number)
            seen.append(number)
            if len(seen) > taken:
                break
    assert seen == list(range(min(count, taken + 1)))
    assert most == min(count, window)
    assert under_way == set()
