"""However many uploads there are, what they have on their way fits into a bound."""

from __future__ import annotations

from hypothesis import given, strategies as st

from fedcore.wire.transfer import CHUNK_BYTES, WINDOW
from fedserver.services.windows import Windows


@given(count=st.integers(1, 300))
def test_a_window_is_of_the_protocol_and_a_share_of_the_whole(count: int) -> None:
    windows = Windows(now_s=lambda: 0.0, together=16 * CHUNK_BYTES)
    for index in range(count):
        found = windows.of(index.to_bytes(2, "big"))
        assert 1 <= found.pieces <= WINDOW
        assert CHUNK_BYTES // 2 <= found.chunk_bytes <= CHUNK_BYTES
    if count <= 32:
        assert found.pieces * found.chunk_bytes * count <= 16 * CHUNK_BYTES


def test_one_upload_alone_has_the_whole_window() -> None:
    assert Windows(now_s=lambda: 0.0).of(b"a") == (WINDOW, CHUNK_BYTES)


def test_who_ended_or_fell_silent_takes_no_share() -> None:
    now = [0.0]
    windows = Windows(now_s=lambda: now[0], together=4 * CHUNK_BYTES, alive_s=30.0)
    windows.of(b"a")
    assert windows.of(b"b").pieces == 2
    windows.end(b"a")
    assert windows.of(b"b").pieces == 4
    windows.of(b"a")
    now[0] = 20.0
    windows.hear(b"b")
    now[0] = 40.0
    assert windows.of(b"b").pieces == 4
