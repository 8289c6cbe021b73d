"""The accumulation: the exact sum of a set of uploads, in whatever order, and of no other set."""

from __future__ import annotations

import asyncio
import hashlib
import random
import threading
import tracemalloc
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from fedcore.errors import (
    ConsistencyError,
    DamagedUpdateError,
    MessageError,
    NotFoundError,
    ReuseError,
    UploadError,
)
from fedcore.failpoints import arm, disarm
from fedcore.secagg import Block, Layout, UnmaskPlan
from fedcore.secagg.packing import pack, to_wire
from fedcore.secagg.prg import Prg, Stream, apply_streams
from fedserver.accumulation import Accumulation, accumulation_of
from fedserver.spool import SealedUpload, Spool
from tests.random_examples import thorough

LAYOUT = Layout((Block(140_000, 56, 2**40), Block(7, 16, 100), Block(1, 64, 2**50)))
PRG = Prg.AES_128_CTR

Blocks = list[NDArray[np.int64]]


def blocks_of(seed: int, layout: Layout = LAYOUT) -> Blocks:
    draw = np.random.default_rng(seed)
    return [draw.integers(-b.limit, b.limit, b.length, endpoint=True) for b in layout.blocks]


def frames_of(
    blocks: Blocks, layout: Layout = LAYOUT, *, seed: bytes | None = None
) -> Iterator[tuple[int, bytes]]:
    """An upload as a client cuts it, masked with the stream of `seed` if there is one."""
    for frame in layout.frames():
        block = layout.blocks[frame.block]
        words = pack(block, blocks[frame.block], frame.start, frame.words)
        if seed is not None:
            apply_streams(words, [Stream(seed, negative=False)], prg=PRG, offset=frame.word)
        yield frame.byte, to_wire(words, frame.word_bytes)


def same(totals: Iterable[NDArray[np.int64]], uploads: Iterable[Blocks]) -> bool:
    sums = [sum(parts) for parts in zip(*uploads, strict=True)]
    return all(np.array_equal(*pair) for pair in zip(totals, sums, strict=True))


async def sealed(
    spool: Spool, uploads: Mapping[bytes, Blocks], *, key: bytes | None = None
) -> dict[bytes, SealedUpload]:
    """The uploads as the spool has sealed them, by client."""
    found = {}
    for client, blocks in uploads.items():
        data = b"".join(frame for _, frame in frames_of(blocks))
        await spool.open(b"of " + client, len(data), key=key)
        for offset in range(0, len(data), 1 << 20):
            chunk = data[offset : offset + (1 << 20)]
            await spool.put(b"of " + client, offset, zlib.crc32(chunk), chunk)
        found[client] = SealedUpload(b"of " + client, hashlib.sha256(data).digest())
        await spool.seal(b"of " + client, len(data), found[client].sha256)
    return found


async def test_the_total_is_the_sum_of_the_integers() -> None:
    uploads = {bytes([index]): blocks_of(index) for index in range(4)}
    made = Accumulation(LAYOUT)
    for client, blocks in uploads.items():
        assert await made.add(client, frames_of(blocks))
    assert made.included == uploads.keys()
    assert same(await made.total(made.included), uploads.values())


@settings(max_examples=thorough(20))
@given(order=st.permutations(range(4)), repeats=st.lists(st.integers(0, 3), max_size=4))
def test_neither_order_nor_repeats_change_a_bit(order: list[int], repeats: list[int]) -> None:
    layout = Layout((Block(100, 20, 1000), Block(3, 64, 2**60)))

    async def total(clients: list[int]) -> list[NDArray[np.int64]]:
        made = Accumulation(layout)
        for client in clients:
            await made.add(bytes([client]), frames_of(blocks_of(client, layout), layout))
        return list(await made.total(made.included))

    expected, found = asyncio.run(total([0, 1, 2, 3])), asyncio.run(total([*order, *repeats]))
    assert all(np.array_equal(*pair) for pair in zip(expected, found, strict=True))


async def test_a_client_is_added_once(tmp_path: Path) -> None:
    made = Accumulation(LAYOUT)
    first = blocks_of(1)
    assert await made.add(b"one", frames_of(first))
    assert not await made.add(b"one", frames_of(blocks_of(2)))
    assert same(await made.total(frozenset({b"one"})), [first])


async def test_at_once_is_as_one_after_the_other() -> None:
    uploads = {bytes([index]): blocks_of(index) for index in range(6)}
    made = Accumulation(LAYOUT)
    added = await asyncio.gather(
        *(made.add(client, frames_of(uploads[client])) for client in [*uploads, *uploads])
    )
    assert sorted(added) == [False] * 6 + [True] * 6
    assert same(await made.total(made.included), uploads.values())


@pytest.mark.parametrize("threads", [1, 2, 3])
async def test_masks_come_off_in_any_number_of_threads(threads: int) -> None:
    uploads = {bytes([index]): blocks_of(index) for index in range(3)}
    seeds = {client: hashlib.sha256(client).digest() for client in uploads}
    made = Accumulation(LAYOUT)
    for client, blocks in uploads.items():
        await made.add(client, frames_of(blocks, seed=seeds[client]))
    plan = UnmaskPlan(PRG, tuple(Stream(seed, negative=True) for seed in seeds.values()))
    for _ in range(2):  # asked again, the masks are not taken off twice
        totals = await made.total(made.included, plan=plan, threads=threads)
        assert same(totals, uploads.values())


async def test_a_restart_makes_the_same_sum_from_what_is_sealed(tmp_path: Path) -> None:
    uploads = {bytes([index]): blocks_of(index) for index in range(3)}
    ids = await sealed(Spool(tmp_path / "spool"), uploads)
    for _ in range(2):
        made = await accumulation_of(LAYOUT, Spool(tmp_path / "spool"), ids)
        assert made.included == uploads.keys()
        assert same(await made.total(made.included), uploads.values())


async def test_what_is_not_sealed_is_not_summed(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    await spool.open(b"open", LAYOUT.upload_bytes)
    with pytest.raises(NotFoundError):
        await accumulation_of(LAYOUT, spool, {b"one": SealedUpload(b"open", bytes(32))})


@pytest.mark.parametrize("key", [None, bytes(range(32))], ids=["plain", "encrypted"])
@pytest.mark.parametrize("place", [0, LAYOUT.upload_bytes - 1], ids=["first", "last"])
async def test_what_is_not_as_it_was_acknowledged_is_not_summed(
    tmp_path: Path, key: bytes | None, place: int
) -> None:
    await damaged_at(place, tmp_path, key=key)


async def test_an_upload_whose_counters_are_damaged_is_not_summed(tmp_path: Path) -> None:
    await damaged_at(LAYOUT.upload_bytes + 20, tmp_path, key=bytes(32))


async def damaged_at(place: int, folder: Path, *, key: bytes | None) -> None:
    """Checks that an upload, of whose file one bit has changed, is in no sum."""
    spool, made = Spool(folder / "spool"), Accumulation(LAYOUT)
    uploads = await sealed(spool, {b"one": blocks_of(1)}, key=key)
    [path] = (folder / "spool").iterdir()
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedUpdateError):
        await made.add(b"one", spool.read_frames(uploads[b"one"], LAYOUT, key=key))
    assert not made.included
    with pytest.raises(DamagedUpdateError):
        await accumulation_of(LAYOUT, spool, uploads, key=key)


async def test_an_upload_of_another_layout_leaves_the_sum_as_it_was(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    ids = await sealed(spool, {b"one": blocks_of(1)})
    other = Accumulation(Layout((Block(5, 64, 1),)))
    with pytest.raises(UploadError):
        await other.add(b"one", spool.read_frames(ids[b"one"], Layout((Block(5, 64, 1),))))
    assert other.included == frozenset()


def broken(frames: list[tuple[int, bytes]], how: str) -> list[tuple[int, bytes]]:
    match how:
        case "missing":
            return frames[:-1]
        case "none":
            return []
        case "twice":
            return [*frames, frames[-1]]
        case "swapped":
            return [frames[1], frames[0], *frames[2:]]
    return [(frames[0][0], frames[0][1][:-1]), *frames[1:]]


@pytest.mark.parametrize("how", ["missing", "none", "twice", "swapped", "short"])
async def test_frames_that_are_not_all_of_an_upload_spoil_the_sum_and_it_says_so(how: str) -> None:
    made = Accumulation(LAYOUT)
    await made.add(b"whole", frames_of(blocks_of(1)))
    with pytest.raises(MessageError):
        await made.add(b"broken", broken(list(frames_of(blocks_of(2))), how))
    assert made.included == {b"whole"}
    with pytest.raises(ReuseError):
        await made.add(b"next", frames_of(blocks_of(3)))
    with pytest.raises(ReuseError):
        await made.total(frozenset({b"whole"}))


async def test_an_error_midway_spoils_the_sum_and_a_new_one_is_right(tmp_path: Path) -> None:
    uploads = {bytes([index]): blocks_of(index) for index in range(3)}
    spool = Spool(tmp_path / "spool")
    ids = await sealed(spool, uploads)
    arm("aggregate.midway=error@2", test_mode=True)
    try:
        with pytest.raises(OSError, match=r"aggregate\.midway"):
            await accumulation_of(LAYOUT, spool, ids)
        made = await accumulation_of(LAYOUT, spool, ids)
    finally:
        disarm()
    assert same(await made.total(made.included), uploads.values())


async def test_only_the_fixed_set_has_a_total() -> None:
    made = Accumulation(LAYOUT)
    await made.add(b"one", frames_of(blocks_of(1)))
    for members in (set(), {b"two"}, {b"one", b"two"}):
        with pytest.raises(ConsistencyError):
            await made.total(frozenset(members))


async def test_nothing_is_added_once_the_masks_are_off() -> None:
    made = Accumulation(LAYOUT)
    await made.add(b"one", frames_of(blocks_of(1)))
    await made.total(frozenset({b"one"}))
    with pytest.raises(ReuseError):
        await made.add(b"two", frames_of(blocks_of(2)))
    assert not await made.add(b"one", frames_of(blocks_of(1)))


async def test_the_event_loop_does_none_of_the_work() -> None:
    loop, seen = threading.get_ident(), set()

    def frames() -> Iterator[tuple[int, bytes]]:
        for frame in frames_of(blocks_of(1)):
            seen.add(threading.get_ident())
            yield frame

    await Accumulation(LAYOUT).add(b"one", frames())
    assert seen
    assert loop not in seen


async def test_a_cancelled_addition_comes_to_its_end_before_the_next() -> None:
    uploads = {b"one": blocks_of(1), b"two": blocks_of(2)}
    made = Accumulation(LAYOUT)
    begun, go_on = threading.Event(), threading.Event()

    def frames() -> Iterator[tuple[int, bytes]]:
        for frame in frames_of(uploads[b"one"]):
            begun.set()
            go_on.wait(10)
            yield frame

    first = asyncio.ensure_future(made.add(b"one", frames()))
    await asyncio.to_thread(begun.wait, 10)
    first.cancel()
    second = asyncio.ensure_future(made.add(b"two", frames_of(uploads[b"two"])))
    go_on.set()
    assert await second
    with pytest.raises(asyncio.CancelledError):
        await first
    assert same(await made.total(made.included), uploads.values())


async def test_memory_does_not_grow_with_the_clients(tmp_path: Path) -> None:
    layout = Layout((Block(1 << 20, 64, 2**40),))
    data = random.Random(3).randbytes(layout.upload_bytes)
    spool = Spool(tmp_path / "spool")
    digest = hashlib.sha256(data).digest()
    ids = {bytes([index]): SealedUpload(b"upload %d" % index, digest) for index in range(6)}
    for upload in ids.values():
        await spool.open(upload.upload_id, len(data))
        for offset in range(0, len(data), 1 << 20):
            chunk = data[offset : offset + (1 << 20)]
            await spool.put(upload.upload_id, offset, zlib.crc32(chunk), chunk)
        await spool.seal(upload.upload_id, len(data), digest)
    tracemalloc.start()
    try:
        await accumulation_of(layout, spool, ids)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # One accumulator of 8 MiB, a frame that is read and the one before it, and small change.
    assert peak < layout.upload_bytes + 3 * (1 << 20)
