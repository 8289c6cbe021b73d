"""Blobs: named by their digest, whole or absent after a cut anywhere, collected when unknown."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import stat
import threading
import time
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from fedcore.errors import ArgumentError, BlobError
from fedcore.failpoints import arm, disarm
from fedserver.blobs import LocalBlobStore
from fedserver.disk import FilePath, FsOps
from fedserver.spool import Spool
from tests.server.lossy_disk import LossyDisk, every_cut


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


@pytest.fixture
def store(tmp_path: Path) -> LocalBlobStore:
    return LocalBlobStore(tmp_path / "blobs")


class Failing(FsOps):
    """A disk of which one method fails."""

    def __init__(self, method: str, code: int) -> None:
        self.armed = False

        def fail(*given: object) -> object:
            if self.armed:
                raise OSError(code, os.strerror(code))
            return getattr(super(Failing, self), method)(*given)

        setattr(self, method, fail)


async def test_what_is_put_in_any_way_has_the_digest_of_its_bytes(
    store: LocalBlobStore, tmp_path: Path
) -> None:
    data = os.urandom(3 << 20)
    (tmp_path / "finished").write_bytes(data)
    assert await store.put_bytes(data) == sha(data)
    assert await store.put_file(tmp_path / "finished") == sha(data)
    async with store.writer() as writer:
        for start in range(0, len(data), 999_999):
            await writer.write(memoryview(data)[start : start + 999_999])
        assert await writer.commit() == sha(data)
    assert not (tmp_path / "finished").exists()
    assert await store.size(sha(data)) == len(data)
    with await store.open_read(sha(data)) as file:
        assert file.read() == data
    assert [path.name for path in files(tmp_path)] == [sha(data).hex()]


async def test_who_is_cancelled_while_a_blob_is_opened_leaves_no_file_open(
    store: LocalBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = await store.put_bytes(b"mine")
    entered, go_on, found = threading.Event(), threading.Event(), list[Any]()

    def slow(path: FilePath, *given: Any, **named: Any) -> Any:
        entered.set()
        assert go_on.wait(5.0)
        found.append(open(path, *given, **named))  # noqa: SIM115
        return found[0]

    monkeypatch.setattr("fedserver.disk.open", slow, raising=False)
    reading = asyncio.ensure_future(store.open_read(digest))
    await asyncio.to_thread(entered.wait, 5.0)
    reading.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert found[0].closed


async def test_a_folder_may_be_named_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = LocalBlobStore(Path("blobs"))
    digest = await store.put_bytes(b"mine")
    assert await store.read(digest, 0, 9) == b"mine"
    await store.delete(digest)
    spool = Spool(Path("spool"))
    await spool.open(b"id", 4)
    await spool.put(b"id", 0, zlib.crc32(b"mine"), b"mine")
    await spool.seal(b"id", 4, sha(b"mine"))
    await spool.discard(b"id")
    assert [path.name for path in files(tmp_path)] == []


async def test_files_are_their_owners_alone_two_folders_deep(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path / "blobs")
    (tmp_path / "open").write_bytes(b"for all")
    (tmp_path / "open").chmod(0o666)
    for digest in (await store.put_bytes(b"mine"), await store.put_file(tmp_path / "open")):
        name = digest.hex()
        path = tmp_path / "blobs" / name[:2] / name[2:4] / name
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        for folder in list(path.parents)[:3]:
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@given(data=st.binary(max_size=50), offset=st.integers(0, 60), length=st.integers(0, 60))
def test_a_part_is_what_a_slice_of_the_bytes_is(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, offset: int, length: int
) -> None:
    async def part() -> bytes:
        store = LocalBlobStore(tmp_path_factory.getbasetemp() / "parts")
        return await store.read(await store.put_bytes(data), offset, length)

    assert asyncio.run(part()) == data[offset : offset + length]


async def test_asking_for_more_than_there_is_allocates_nothing(store: LocalBlobStore) -> None:
    assert await store.read(await store.put_bytes(b"small"), 2, 1 << 60) == b"all"


@pytest.mark.parametrize("digest", [b"", bytes(31), bytes(33), b"../../etc/passwd"])
async def test_what_is_no_digest_names_no_blob(store: LocalBlobStore, digest: bytes) -> None:
    with pytest.raises(ArgumentError, match="names no blob"):
        await store.read(digest, 0, 1)


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, -1)])
async def test_a_negative_part_is_refused(store: LocalBlobStore, offset: int, length: int) -> None:
    with pytest.raises(ArgumentError, match="no part"):
        await store.read(bytes(32), offset, length)


async def test_a_missing_blob_is_said_to_be_missing(store: LocalBlobStore) -> None:
    for ask in (store.size(bytes(32)), store.read(bytes(32), 0, 1), store.verify(bytes(32))):
        with pytest.raises(BlobError, match="ENOENT") as caught:
            await ask
        assert caught.value.fix


async def test_a_damaged_blob_is_told_from_a_whole_one(
    store: LocalBlobStore, tmp_path: Path
) -> None:
    digest = await store.put_bytes(b"0123456789")
    await store.verify(digest)
    files(tmp_path)[0].write_bytes(b"0123456780")
    with pytest.raises(BlobError, match="damaged"):
        await store.verify(digest)
    await store.put_bytes(b"0123456789")  # the same bytes, put again, heal it
    await store.verify(digest)


async def test_what_is_not_committed_leaves_nothing(store: LocalBlobStore, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="changed my mind"):
        async with store.writer() as writer:
            await writer.write(b"half")
            raise RuntimeError("changed my mind")
    assert files(tmp_path) == []


async def test_deleting_twice_is_deleting_once(store: LocalBlobStore, tmp_path: Path) -> None:
    digest = await store.put_bytes(b"gone")
    await store.delete(digest)
    await store.delete(digest)
    assert files(tmp_path) == []


@pytest.mark.parametrize("method", ["create", "pwrite", "fsync", "rename", "fsync_folder"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
async def test_a_disk_that_fails_gives_an_error_with_a_remedy_and_no_blob(
    tmp_path: Path, method: str, code: int
) -> None:
    disk = Failing(method, code)
    store = LocalBlobStore(tmp_path / "blobs", disk=disk)
    disk.armed = True
    with pytest.raises(BlobError, match=errno.errorcode[code]) as caught:
        await store.put_bytes(b"never kept")
    assert ("room" if code == errno.ENOSPC else "kernel") in caught.value.fix
    disk.armed = False
    assert await store.put_bytes(b"never kept") == sha(b"never kept")


async def test_a_blob_that_would_take_the_reserved_space_is_refused(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path / "blobs", reserve_bytes=1 << 60)
    with pytest.raises(BlobError, match="ENOSPC"):
        await store.put_bytes(b"x")
    assert files(tmp_path) == []


async def test_a_failpoint_before_the_rename_leaves_no_blob(
    store: LocalBlobStore, tmp_path: Path
) -> None:
    arm("blob.before_rename=error", test_mode=True)
    try:
        with pytest.raises(BlobError, match=r"blob\.before_rename"):
            await store.put_bytes(b"x")
    finally:
        disarm()
    assert files(tmp_path) == []


async def test_only_old_and_unknown_blobs_are_orphans(
    store: LocalBlobStore, tmp_path: Path
) -> None:
    kept, old, young = [await store.put_bytes(data) for data in (b"kept", b"old", b"young")]
    half = tmp_path / "blobs" / "incoming" / ("5a" * 16)
    half.write_bytes(b"of a crash")
    two_days_ago = time.time() - 2 * 86_400
    for path in files(tmp_path):
        if path.name in (kept.hex(), old.hex(), half.name):
            os.utime(path, (two_days_ago, two_days_ago))
    assert await store.orphans([kept], older_than_s=86_400) == [old]
    assert await store.collect([kept]) == 2
    assert {path.name for path in files(tmp_path)} == {kept.hex(), young.hex()}


async def test_files_that_are_no_blobs_are_left_alone(
    store: LocalBlobStore, tmp_path: Path
) -> None:
    for name in ("ab/cd/notes.txt", "incoming/README"):
        path = tmp_path / "blobs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"an operator's")
        os.utime(path, (0, 0))
    assert await store.orphans([], older_than_s=0) == []
    assert await store.collect([], older_than_s=0) == 0


async def test_a_blob_that_is_put_again_is_young_again(store: LocalBlobStore) -> None:
    digest = await store.put_bytes(b"again")
    path = files(store._root)[0]
    os.utime(path, (0, 0))
    await store.put_bytes(b"again")
    assert await store.collect([]) == 0
    await store.verify(digest)


async def test_a_file_that_was_finished_long_ago_is_a_young_blob(
    store: LocalBlobStore, tmp_path: Path
) -> None:
    (tmp_path / "finished").write_bytes(b"old")
    os.utime(tmp_path / "finished", (0, 0))
    await store.put_file(tmp_path / "finished")
    assert await store.collect([]) == 0


async def test_a_cancelled_put_comes_to_its_end_and_leaves_the_folder_clean(
    tmp_path: Path,
) -> None:
    store = LocalBlobStore(tmp_path / "blobs")
    for turns in range(12):
        task = asyncio.ensure_future(store.put_bytes(b"x" * 100_000))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert [path for path in files(tmp_path) if path.parent.name == "incoming"] == []


async def put_three(disk: LossyDisk, acknowledged: set[bytes]) -> None:
    """What a server does to its blobs, and which of them it could have told others of."""
    store = LocalBlobStore(disk.root / "state" / "blobs", disk=disk)
    acknowledged.add(await store.put_bytes(b"a" * 10))
    async with store.writer() as writer:
        await writer.write(b"b" * 10)
        await writer.write(b"c" * 10)
        acknowledged.add(await writer.commit())
    acknowledged.add(await store.put_bytes(b"a" * 10))
    finished = disk.root / "state" / "finished"
    finished.write_bytes(b"d" * 20)
    acknowledged.add(await store.put_file(finished))
    acknowledged.discard(sha(b"a" * 10))
    await store.delete(sha(b"a" * 10))


def whole(root: Path) -> set[bytes]:
    """The digests that name a blob, each of which has to be whole."""
    found = set()
    for path in (root / "state" / "blobs").glob("??/??/*"):
        assert sha(path.read_bytes()).hex() == path.name
        found.add(bytes.fromhex(path.name))
    return found


async def acknowledged_and_left(
    tmp_path: Path, kind: type[LossyDisk]
) -> AsyncIterator[tuple[set[bytes], Path]]:
    told: dict[LossyDisk, set[bytes]] = {}

    async def story(disk: LossyDisk) -> None:
        (disk.root / "state").mkdir()
        disk._folders.add(disk.root / "state")  # the operator's folder is on the disk already
        told[disk] = set()
        await put_three(disk, told[disk])

    async for disk, _, left in every_cut(tmp_path, story, kind=kind):
        yield told[disk], left


async def test_after_a_cut_anywhere_every_blob_is_whole_and_none_that_was_told_of_is_missing(
    tmp_path: Path,
) -> None:
    cuts = 0
    async for told, left in acknowledged_and_left(tmp_path, LossyDisk):
        cuts += 1
        assert told <= whole(left)
        store = LocalBlobStore(left / "state" / "blobs")
        await store.collect(told, older_than_s=-1)
        assert whole(left) == told
        assert await store.put_bytes(b"life goes on") == sha(b"life goes on")
    assert cuts > 60


class WithoutFileSync(LossyDisk):
    def fsync(self, file: int) -> None:
        self._step()


class WithoutFolderSync(LossyDisk):
    def fsync_folder(self, path: Path) -> None:
        self._step()


@pytest.mark.parametrize("kind", [WithoutFileSync, WithoutFolderSync])
async def test_a_cut_finds_a_store_that_leaves_out_a_sync(
    tmp_path: Path, kind: type[LossyDisk]
) -> None:
    def broken(told: set[bytes], left: Path) -> bool:
        try:
            return not told <= whole(left)
        except AssertionError:
            return True

    async for told, left in acknowledged_and_left(tmp_path, kind):
        if broken(told, left):
            return
    pytest.fail("no cut shows what is wrong")
