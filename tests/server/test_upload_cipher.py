"""What lies in the spool is nothing without its key, and no keystream ever meets two texts."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from fedcore.errors import UploadError
from fedserver.upload_cipher import TABLE_BYTES, UploadCipher
from fedserver.upload_file import part_of
from tests.server.uploads import ID, KEY, put, sealed, send, sha, small

SIZE = 200
DATA, OTHER = random.Random(1).randbytes(SIZE), random.Random(2).randbytes(SIZE)


def stored(root: Path) -> bytes:
    """The upload's bytes as they lie on the disk."""
    (path,) = root.iterdir()
    return path.read_bytes()[:SIZE]


def xored(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def meet(ours: bytes, theirs: bytes, first: bytes, second: bytes) -> list[int]:
    """The places of blocks where two texts were encrypted by the same keystream."""
    streams = zip(xored(ours, first), xored(theirs, second), strict=True)
    same = [a == b for a, b in streams]
    return [at for at in range(0, SIZE - 15) if all(same[at : at + 16])]


@given(
    st.lists(st.integers(1, 99), unique=True, max_size=15).map(sorted),
    st.lists(st.integers(1, 99), unique=True).map(sorted),
    st.lists(st.integers(1, 99), unique=True).map(sorted),
)
def test_bytes_come_back_however_they_were_cut_and_however_often_it_was_opened(
    opened: list[int], written: list[int], read: list[int]
) -> None:
    text, table = random.Random(1).randbytes(100), bytearray(TABLE_BYTES)
    kept = bytearray()
    for begin, end in pairwise([0, *opened, 100]):
        cipher = UploadCipher(KEY)
        assert cipher.load(bytes(table), before=begin) == (begin > 0)
        place, entries = cipher.begin(begin)
        table[place:] = entries
        cuts = [begin, *(cut for cut in written if begin < cut < end), end]
        for first, last in pairwise(cuts):
            kept += cipher.apply(text[first:last], first)
    assert len(kept) == 100 and len(table) == TABLE_BYTES
    reader = UploadCipher(KEY)
    assert reader.load(bytes(table), before=100)
    for first, last in pairwise([0, *read, 100]):
        assert reader.apply(bytes(kept[first:last]), first) == text[first:last]


def test_a_counter_at_the_end_of_its_range_begins_again_at_zero(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.urandom", lambda size: b"\xff" * size)
    cipher = UploadCipher(KEY)
    cipher.begin(0)
    whole = cipher.apply(bytes(64), 0)
    assert whole == b"".join(cipher.apply(bytes(8), at) for at in range(0, 64, 8))


async def test_no_run_of_an_upload_stands_in_the_spool_and_its_key_brings_it_back(
    tmp_path: Path,
) -> None:
    root, text = tmp_path / "spool", b"a very recognisable run of bytes" * 6 + b"the end."
    spool = small(root)
    await spool.open(ID, SIZE, key=KEY)
    await send(spool, text)
    assert b"recognisable" not in stored(root)
    await spool.seal(ID, SIZE, sha(text))
    assert b"recognisable" not in stored(root)
    assert sealed(root, text, key=KEY) == text
    (path,) = root.iterdir()
    assert b"recognisable" not in part_of(path, 0, SIZE, key=bytes(32))


async def test_other_bytes_after_a_crash_meet_another_keystream(tmp_path: Path) -> None:
    root = tmp_path / "spool"
    spool = small(root)
    await spool.open(ID, SIZE, key=KEY)
    await send(spool, DATA)
    before = stored(root)
    again = small(root)
    progress = await again.open(ID, SIZE, key=KEY)
    durable = progress.committed_offset
    assert 0 < durable < SIZE - 16  # what lies behind it is written a second time
    text = DATA[:durable] + OTHER[durable:]
    await send(again, text, durable)
    assert not [at for at in meet(before, stored(root), DATA, text) if at >= durable]
    assert meet(before, before, DATA, DATA)  # as it would be seen
    await again.seal(ID, SIZE, sha(text))
    assert sealed(root, text, key=KEY) == text


async def test_an_upload_that_begins_again_meets_another_keystream(tmp_path: Path) -> None:
    root = tmp_path / "spool"
    spool = small(root)
    await spool.open(ID, SIZE, key=KEY)
    await send(spool, DATA)
    before = stored(root)
    with pytest.raises(UploadError, match="digest"):
        await spool.seal(ID, SIZE, sha(OTHER))
    await spool.open(ID, SIZE, key=KEY)
    await send(spool, OTHER)
    assert not meet(before, stored(root), DATA, OTHER)


async def test_a_late_repeat_is_compared_with_what_was_sent_not_with_what_is_stored(
    tmp_path: Path,
) -> None:
    spool = small(tmp_path / "spool")
    await spool.open(ID, SIZE, key=KEY)
    await send(spool, DATA)
    await put(spool, 32, DATA[32:64])
    with pytest.raises(UploadError, match="another than before"):
        await put(spool, 32, OTHER[32:64])
    await spool.seal(ID, SIZE, sha(DATA))
    assert await put(spool, 32, DATA[32:64]) == SIZE
    with pytest.raises(UploadError, match="another than before"):
        await put(spool, 32, OTHER[32:64])
