"""What every store of blobs promises: files, objects in memory, and objects of a store like S3."""

from __future__ import annotations

import asyncio
import hashlib
import os

import pytest

from fedcore.errors import ArgumentError, BlobError
from tests.server.blobs.conftest import Kept

EVERYTHING = -3600.0  # also what is put now, by a clock that goes an hour wrong at most


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


async def test_what_is_put_in_any_way_has_the_digest_of_its_bytes(kept: Kept) -> None:
    data = os.urandom(3 << 20)
    file = kept.folder / "finished"
    file.write_bytes(data)
    assert await kept.store.put_bytes(data) == sha(data)
    assert await kept.store.put_file(file) == sha(data)
    async with kept.store.writer() as writer:
        for start in range(0, len(data), 999_999):
            await writer.write(memoryview(data)[start : start + 999_999])
        assert await writer.commit() == sha(data)
    assert not file.exists()
    for store in (kept.store, kept.opened()):
        assert await store.size(sha(data)) == len(data)
        with await store.open_read(sha(data)) as opened:
            assert opened.read() == data
        await store.verify(sha(data))
    assert await kept.store.orphans((), older_than_s=EVERYTHING) == [sha(data)]


async def test_the_same_bytes_put_at_once_are_one_blob(kept: Kept) -> None:
    found = await asyncio.gather(*(kept.store.put_bytes(b"the same") for _ in range(8)))
    assert set(found) == {sha(b"the same")}
    assert await kept.store.orphans((), older_than_s=EVERYTHING) == [sha(b"the same")]


async def test_an_empty_blob_is_one(kept: Kept) -> None:
    assert await kept.opened().size(await kept.store.put_bytes(b"")) == 0


async def test_a_part_is_what_a_slice_of_the_bytes_is(kept: Kept) -> None:
    data = os.urandom(50)
    digest = await kept.store.put_bytes(data)
    store = kept.opened()
    for offset, length in ((0, 50), (0, 0), (7, 20), (40, 1 << 60), (50, 1), (60, 5)):
        assert await store.read(digest, offset, length) == data[offset : offset + length]


@pytest.mark.parametrize("digest", [b"", bytes(31), bytes(33), b"../../etc/passwd"])
async def test_what_is_no_digest_names_no_blob(kept: Kept, digest: bytes) -> None:
    for ask in (kept.store.read(digest, 0, 1), kept.store.verify(digest)):
        with pytest.raises(ArgumentError, match="names no blob"):
            await ask
    with pytest.raises(ArgumentError, match="names no blob"):
        await kept.store.delete(digest)


async def test_a_negative_part_is_refused(kept: Kept) -> None:
    for offset, length in ((-1, 1), (0, -1)):
        with pytest.raises(ArgumentError, match="no part"):
            await kept.store.read(bytes(32), offset, length)


async def test_a_missing_blob_is_said_to_be_missing(kept: Kept) -> None:
    store = kept.store
    for ask in (
        *(store.size(bytes(32)), store.read(bytes(32), 0, 1)),
        *(store.verify(bytes(32)), store.open_read(bytes(32))),
    ):
        with pytest.raises(BlobError) as caught:
            await ask
        assert isinstance(caught.value.__cause__, FileNotFoundError)
        assert "restore" in caught.value.fix


async def test_a_damaged_blob_is_told_from_a_whole_one_and_healed_by_its_bytes(kept: Kept) -> None:
    digest = await kept.store.put_bytes(b"0123456789")
    for wrong in (b"0123456780", b"01234", b""):
        kept.spoil(digest, wrong)
        with pytest.raises(BlobError, match="damaged") as caught:
            await kept.opened().verify(digest)
        assert "restore" in caught.value.fix
    await kept.store.put_bytes(b"0123456789")
    await kept.opened().verify(digest)


async def test_what_is_not_committed_leaves_nothing(kept: Kept) -> None:
    with pytest.raises(RuntimeError, match="changed my mind"):
        async with kept.store.writer() as writer:
            await writer.write(b"half")
            raise RuntimeError("changed my mind")
    assert await kept.store.orphans((), older_than_s=EVERYTHING) == []
    assert kept.left() == []


async def test_deleting_twice_is_deleting_once(kept: Kept) -> None:
    digest = await kept.store.put_bytes(b"gone")
    await kept.store.delete(digest)
    await kept.store.delete(digest)
    for store in (kept.store, kept.opened()):
        with pytest.raises(BlobError):
            await store.size(digest)
    assert kept.left() == []


async def test_only_old_and_unknown_blobs_are_collected(kept: Kept) -> None:
    known, unknown = [await kept.store.put_bytes(data) for data in (b"known", b"unknown")]
    assert await kept.store.collect([]) == 0  # they are young
    assert await kept.store.orphans([known], older_than_s=EVERYTHING) == [unknown]
    assert await kept.store.collect([known], older_than_s=EVERYTHING) == 1
    store = kept.opened()
    await store.verify(known)
    with pytest.raises(BlobError):
        await store.verify(unknown)
    assert await kept.store.collect([known], older_than_s=EVERYTHING) == 0
    await kept.store.verify(known)  # whatever copies of it are gone


async def test_a_cancelled_put_comes_to_its_end(kept: Kept) -> None:
    for turns in range(6):
        data = bytes([turns]) * 100_000
        task = asyncio.ensure_future(kept.store.put_bytes(data))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert [path for path in kept.left() if path.parent.name == "incoming"] == []
    for digest in await kept.store.orphans((), older_than_s=EVERYTHING):
        await kept.opened().verify(digest)
