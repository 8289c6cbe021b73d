"""Names of a folder that come at once are brought onto the disk together, and none too early."""

from __future__ import annotations

import asyncio
import errno
import threading
from pathlib import Path

import pytest

from fedserver.disk import FilePath, FolderSync, FsOps
from tests.server.lossy_disk import LossyDisk


class Counting(LossyDisk):
    """Counts the syncs of folders, and fails at one of them."""

    def __init__(self, root: Path, *, fails_at: int = 0) -> None:
        super().__init__(root)
        self.syncs, self._fails_at = 0, fails_at

    def fsync_folder(self, path: FilePath) -> None:
        self.syncs += 1
        if self.syncs == self._fails_at:
            raise OSError(errno.EIO, "Input/output error")
        super().fsync_folder(path)


async def test_whoever_asked_finds_its_name_on_the_disk(tmp_path: Path) -> None:
    disk = Counting(tmp_path / "disk")
    folder = disk.root / "spool"
    folder.mkdir(parents=True)
    disk.fsync_folder(disk.root)
    sync, kept = FolderSync(folder, disk), 0

    async def one(number: int) -> None:
        nonlocal kept
        for _ in range(number % 7):
            await asyncio.sleep(0)
        disk.close(disk.create(folder / str(number)))
        await sync()
        kept += disk.keeps(folder / str(number))

    await asyncio.gather(*map(one, range(60)))
    assert kept == 60
    assert 2 <= disk.syncs < 30


async def test_one_that_began_before_a_name_does_not_count_for_it(tmp_path: Path) -> None:
    begun, goes_on = threading.Event(), threading.Event()

    class Slow(FsOps):
        syncs = 0

        def fsync_folder(self, path: FilePath) -> None:
            self.syncs += 1
            begun.set()
            assert goes_on.wait(10)

    disk = Slow()
    sync = FolderSync(tmp_path, disk)
    first = asyncio.ensure_future(sync())
    assert await asyncio.to_thread(begun.wait, 10)
    later = [asyncio.ensure_future(sync()) for _ in range(5)]
    await asyncio.sleep(0)
    assert (disk.syncs, first.done()) == (1, False)
    goes_on.set()
    await asyncio.gather(first, *later)
    assert disk.syncs == 2


async def test_a_failure_reaches_all_who_asked_and_nobody_who_asks_again(tmp_path: Path) -> None:
    disk = Counting(tmp_path, fails_at=1)
    sync = FolderSync(tmp_path, disk)
    failed = await asyncio.gather(*(sync() for _ in range(4)), return_exceptions=True)
    assert [type(error) for error in failed] == [OSError] * 4
    await sync()


async def test_who_stops_waiting_takes_nobody_with_it(tmp_path: Path) -> None:
    sync = FolderSync(tmp_path, FsOps())
    waiting = [asyncio.ensure_future(sync()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    await asyncio.gather(*waiting[1:])
