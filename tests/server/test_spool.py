"""The spool: whatever the order, the repeats and the crashes, an upload is its bytes or nothing."""

from __future__ import annotations

import asyncio
import os
import random
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from fedcore.errors import (
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    UploadError,
)
from fedcore.secagg import Block, Layout
from fedserver.spool import SealedUpload, Spool, SpoolProgress
from tests.server.uploads import ID, put, sealed, send, sha, small


@pytest.fixture
def data() -> bytes:
    return random.Random(1).randbytes(200)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def spool(root: Path) -> Spool:
    return small(root)


async def test_an_upload_in_order_is_sealed_as_its_bytes(
    spool: Spool, root: Path, data: bytes
) -> None:
    assert await spool.open(ID, 200) == SpoolProgress(0, sealed=False)
    await send(spool, data)
    await spool.seal(ID, 200, sha(data))
    assert sealed(root, data) == data
    assert await spool.open(ID, 200) == SpoolProgress(200, sealed=True)
    assert [(root / name).stat().st_mode & 0o777 for name in os.listdir(root)] == [0o600]


async def test_only_what_is_durable_is_said_to_be(spool: Spool, data: bytes) -> None:
    await spool.open(ID, 200)
    offsets = [await put(spool, at, data[at : at + 32]) for at in range(0, 200, 32)]
    assert offsets == [0, 0, 0, 64, 64, 128, 128]
    assert (await spool.open(ID, 200)).committed_offset == 200


ranges = st.lists(st.tuples(st.integers(0, 199), st.integers(1, 32)), max_size=40)


@given(ranges=ranges, seed=st.integers(0, 99), restarts=st.sets(st.integers(0, 40), max_size=3))
def test_any_order_with_repeats_overlaps_and_restarts_gives_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory,
    ranges: Sequence[tuple[int, int]],
    seed: int,
    restarts: set[int],
) -> None:
    root, data = tmp_path_factory.mktemp("spool"), random.Random(seed).randbytes(200)

    async def story() -> None:
        spool = small(root)
        await spool.open(ID, 200)
        for turn, (offset, length) in enumerate(ranges):
            if turn in restarts:
                before = (await spool.open(ID, 200)).committed_offset
                spool = small(root)
                assert (await spool.open(ID, 200)).committed_offset <= before
            try:
                await put(spool, offset, data[offset : offset + length])
            except UploadError as error:
                assert "too far ahead" in str(error)
        await send(spool, data)
        assert spool.in_flight == 0
        await spool.seal(ID, 200, sha(data))

    asyncio.run(story())
    assert sealed(root, data) == data


@given(seed=st.integers(0, 999))
def test_a_window_of_chunks_at_once_never_runs_too_far_ahead(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    root, data, draw = tmp_path_factory.mktemp("spool"), bytes(range(200)), random.Random(seed)

    async def story() -> None:
        spool = small(root)
        await spool.open(ID, 200)
        waiting = list(range(0, 200, 32))
        while waiting:
            # Never further than four chunks beyond the oldest one that is not answered.
            offset = draw.choice([at for at in waiting if at <= waiting[0] + 128])
            await put(spool, offset, data[offset : offset + 32])
            waiting.remove(offset)
        await spool.seal(ID, 200, sha(data))

    asyncio.run(story())


async def test_chunks_that_are_sent_at_once_are_taken_each_in_its_turn(
    spool: Spool, root: Path, data: bytes
) -> None:
    await spool.open(ID, 200)
    for start in (0, 128):
        chunks = range(start, min(start + 128, 200), 32)
        await asyncio.gather(*(put(spool, at, data[at : at + 32]) for at in reversed(chunks)))
    await asyncio.gather(*(spool.seal(ID, 200, sha(data)) for _ in range(3)))
    assert sealed(root, data) == data


async def test_what_another_process_went_on_with_is_found_on_the_disk(
    root: Path, data: bytes
) -> None:
    """Two spools in one folder, as of servers that drive a task one after the other."""
    one, other = (Spool(root, chunk_bytes=32, window=4) for _ in range(2))
    await one.open(ID, 200)
    await put(one, 0, data[:32])
    await put(one, 64, data[64:96])  # waits in memory for the bytes before it
    await other.look_again([ID])
    durable = (await other.open(ID, 200)).committed_offset
    assert durable <= 32
    for at in range(durable, 200, 32):
        await put(other, at, data[at : at + 32])
    await other.seal(ID, 200, sha(data))
    await one.look_again([ID])
    assert one.in_flight == 0
    assert (await one.open(ID, 200)).sealed
    with (await one.open_read(ID))[0] as file:
        assert file.read(200) == data
    late = Spool(root, chunk_bytes=32)
    third = bytes(reversed(ID))
    await other.open(third, 32)
    await other.put(third, 0, zlib.crc32(data[:32]), data[:32])
    await other.seal(third, 32, sha(data[:32]))
    with pytest.raises(NotFoundError):
        await late.open_read(third)
    await late.learn([third])
    (await late.open_read(third))[0].close()


@pytest.mark.parametrize("offset", [0, 16, 32, 64])
async def test_a_repeat_with_other_bytes_is_refused(spool: Spool, data: bytes, offset: int) -> None:
    await spool.open(ID, 200)
    await put(spool, 0, data[:32])
    await put(spool, 64, data[64:96])
    changed = bytearray(data[offset : offset + 32])
    changed[0] ^= 1
    if offset == 32:  # takes up with the chunk at 64, which overlaps in nothing
        await put(spool, 32, bytes(changed))
        return
    with pytest.raises(UploadError, match="another than before"):
        await put(spool, offset, bytes(changed))


async def test_a_waiting_chunk_that_contradicts_what_comes_before_is_dropped(
    spool: Spool, root: Path, data: bytes
) -> None:
    await spool.open(ID, 200)
    await put(spool, 40, bytes(32))
    await put(spool, 0, data[:32])
    with pytest.raises(UploadError, match="another than before"):
        await put(spool, 32, data[32:64])
    assert spool.in_flight == 0
    await send(spool, data)
    await spool.seal(ID, 200, sha(data))
    assert sealed(root, data) == data


async def test_a_damaged_chunk_is_refused_before_anything_else(spool: Spool, data: bytes) -> None:
    with pytest.raises(UploadError, match="damaged"):
        await spool.put(b"unknown", 0, zlib.crc32(data[:32]) ^ 1, data[:32])


@pytest.mark.parametrize(("offset", "size"), [(0, 0), (0, 33), (-1, 32), (192, 32), (1 << 62, 8)])
async def test_a_chunk_outside_the_bounds_is_refused(spool: Spool, offset: int, size: int) -> None:
    await spool.open(ID, 200)
    with pytest.raises(UploadError):
        await put(spool, offset, bytes(size))


async def test_a_chunk_too_far_ahead_is_told_where_to_go_on(spool: Spool, data: bytes) -> None:
    await spool.open(ID, 1_000)
    await put(spool, 0, data[:32])
    await put(spool, 160, bytes(32))  # 32 + 4 chunks
    with pytest.raises(UploadError, match="go on from byte 32") as caught:
        await put(spool, 161, bytes(32))
    assert caught.value.retry is not None


async def test_an_upload_that_is_not_open_is_not_found(spool: Spool, data: bytes) -> None:
    with pytest.raises(NotFoundError):
        await put(spool, 0, data[:32])
    with pytest.raises(NotFoundError):
        await spool.seal(ID, 200, sha(data))
    with pytest.raises(NotFoundError):
        next(spool.read_frames(SealedUpload(ID, sha(data)), Layout((Block(8, 64, 1),))))


@pytest.mark.parametrize(
    ("upload", "size"), [(b"", 1), (bytes(65), 1), (ID, 0), (ID, -1), (ID, 1 << 40)]
)
async def test_an_upload_without_a_name_or_a_size_is_refused(
    spool: Spool, upload: bytes, size: int
) -> None:
    with pytest.raises(InvalidRequestError):
        await spool.open(upload, size)


async def test_an_upload_keeps_the_size_with_which_it_began(spool: Spool, data: bytes) -> None:
    await spool.open(ID, 200)
    with pytest.raises(ConflictError):
        await spool.open(ID, 201)
    await send(spool, data)
    await spool.seal(ID, 200, sha(data))
    with pytest.raises(ConflictError):
        await spool.open(ID, 199)


async def test_an_incomplete_upload_is_not_sealed_but_told_where_to_go_on(
    spool: Spool, data: bytes
) -> None:
    await spool.open(ID, 200)
    await send(spool, data[:96])
    for size in (200, 96):
        with pytest.raises(UploadError, match="go on from byte 96"):
            await spool.seal(ID, size, sha(data[:96]))


async def test_an_upload_that_is_not_what_was_sealed_begins_again(
    spool: Spool, root: Path, data: bytes
) -> None:
    await spool.open(ID, 200)
    await send(spool, bytes(200))
    with pytest.raises(UploadError, match="from byte 0"):
        await spool.seal(ID, 200, sha(data))
    assert os.listdir(root) == []
    assert await spool.open(ID, 200) == SpoolProgress(0, sealed=False)
    await send(spool, data)
    await spool.seal(ID, 200, sha(data))


async def test_a_seal_can_be_repeated_but_not_changed(
    spool: Spool, root: Path, data: bytes
) -> None:
    await spool.open(ID, 200)
    await send(spool, data)
    for restarted in (False, False, True):
        again = small(root) if restarted else spool
        await again.open(ID, 200)
        await again.seal(ID, 200, sha(data))
        with pytest.raises(ConflictError):
            await again.seal(ID, 200, sha(b""))
        with pytest.raises(ConflictError):
            await again.seal(ID, 199, sha(data))
    with pytest.raises(InvalidRequestError):
        await spool.seal(ID, 200, sha(data)[:31])


async def test_a_chunk_that_comes_after_the_seal_is_answered_as_a_repeat(
    spool: Spool, data: bytes
) -> None:
    await spool.open(ID, 200)
    await send(spool, data)
    await spool.seal(ID, 200, sha(data))
    assert await put(spool, 32, data[32:64]) == 200
    with pytest.raises(UploadError, match="another than before"):
        await put(spool, 32, bytes(32))
    with pytest.raises(UploadError, match="another than before"):
        await put(spool, 192, data[192:] + b"more")


async def test_uploads_do_not_touch_each_other_and_leave_when_discarded(
    spool: Spool, root: Path, data: bytes
) -> None:
    for upload in (b"a", b"b", b"c"):
        await spool.open(upload, 200)
    for offset in range(0, 200, 32):
        await put(spool, offset, data[offset : offset + 32], b"a")
        await put(spool, offset, bytes(min(32, 200 - offset)), b"b")
    await put(spool, 64, bytes(32), b"c")
    await spool.seal(b"a", 200, sha(data))
    assert await spool.stored() == {b"a", b"b", b"c"}
    for upload in (b"c", b"b", b"nobody", b"b"):
        await spool.discard(upload)
    assert spool.in_flight == 0
    assert await spool.stored() == {b"a"}
    assert sealed(root, data, b"a") == data
    await spool.discard(b"a")
    assert os.listdir(root) == []
    with pytest.raises(NotFoundError):
        await spool.seal(b"a", 200, sha(data))


async def test_a_restart_can_discard_what_nobody_knows(root: Path, data: bytes) -> None:
    spool = small(root)
    await spool.open(b"part", 200)
    await spool.open(ID, 200)
    await send(spool, data)
    await spool.seal(ID, 200, sha(data))
    after = small(root)
    for upload in await after.stored():
        await after.discard(upload)
    assert os.listdir(root) == []


async def test_files_that_are_no_uploads_are_left_alone(root: Path) -> None:
    os.mkdir(root)
    for name in ("lost+found", "notes.txt", "abc.part", "ab.cd"):
        (root / name).write_bytes(b"an operator's")
    assert await small(root).stored() == frozenset()


async def test_memory_for_chunks_is_bounded_and_waiting_ones_leave_room(root: Path) -> None:
    spool = small(root, in_flight_bytes=128)
    for upload in (b"a", b"b"):
        await spool.open(upload, 200)
    for upload in (b"a", b"b"):
        await put(spool, 64, bytes(32), upload)
    with pytest.raises(OverloadedError) as caught:
        await put(spool, 96, bytes(32), b"a")
    assert caught.value.retry is not None
    assert spool.in_flight == 64
    await put(spool, 0, bytes(32), b"a")  # what comes in its turn always finds room
    outcomes = await asyncio.gather(
        *(put(spool, 0, bytes(32), b"a") for _ in range(5)), return_exceptions=True
    )
    assert sum(isinstance(outcome, OverloadedError) for outcome in outcomes) == 3
    assert spool.in_flight == 64
    await put(spool, 32, bytes(32), b"a")
    assert spool.in_flight == 32


async def test_a_full_disk_refuses_with_a_pause_before_anything_is_made(root: Path) -> None:
    spool = small(root, reserve_bytes=1 << 60)
    with pytest.raises(OverloadedError, match="full") as caught:
        await spool.open(ID, 200)
    assert caught.value.retry is not None
    assert os.listdir(root) == []


async def test_space_is_promised_once(root: Path) -> None:
    status = os.statvfs(root.parent)
    free = status.f_bavail * status.f_frsize
    spool = small(root)
    await spool.open(b"large", free * 2 // 3)
    with pytest.raises(OverloadedError):
        await spool.open(b"as large", free * 2 // 3)
    await spool.discard(b"large")
    await spool.open(b"as large", free * 2 // 3)


async def test_an_upload_that_the_disk_refused_promises_no_room_and_leaves_nothing(
    root: Path,
) -> None:
    status = os.statvfs(root.parent)
    spool = small(root)
    for size in (3, 2):
        with pytest.raises(OverloadedError):
            await spool.open(bytes([size]), size * status.f_bavail * status.f_frsize)
    assert await spool.open(ID, 200) == SpoolProgress(0, sealed=False)


async def test_a_cancelled_chunk_is_taken_all_the_same(
    spool: Spool, root: Path, data: bytes
) -> None:
    await spool.open(ID, 200)
    for offset in range(0, 200, 32):
        task = asyncio.ensure_future(put(spool, offset, data[offset : offset + 32]))
        for _ in range(offset // 32):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
    await send(spool, data)
    await spool.seal(ID, 200, sha(data))
    assert sealed(root, data) == data


async def test_frames_are_those_of_the_layout_and_of_no_other(root: Path) -> None:
    layout = Layout((Block(300_000, 56, 1), Block(3, 64, 1)))
    data = random.Random(2).randbytes(layout.upload_bytes)
    spool = Spool(root)
    await spool.open(ID, len(data))
    for offset in range(0, len(data), 1 << 20):
        await put(spool, offset, data[offset : offset + (1 << 20)])
    await spool.seal(ID, len(data), sha(data))
    upload = SealedUpload(ID, sha(data))
    frames = list(spool.read_frames(upload, layout))
    assert b"".join(frame for _, frame in frames) == data
    assert [offset for offset, _ in frames] == list(layout.frame_at)
    with pytest.raises(UploadError, match="an update of this task has"):
        next(spool.read_frames(upload, Layout((Block(4, 64, 1),))))
