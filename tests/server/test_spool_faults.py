"""Uploads on a disk that fails, or whose power is cut: what was answered is never lost."""

from __future__ import annotations

import asyncio
import errno
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from fedcore.errors import (
    BlobError,
    ConflictError,
    OverloadedError,
    UploadError,
)
from fedcore.failpoints import arm, disarm
from fedserver.disk import FsOps
from fedserver.spool import Spool
from tests.random_examples import thorough
from tests.server.lossy_disk import Loss, LossyDisk, PowerCut, every_cut
from tests.server.uploads import ID, KEY, put, sealed, send, sha, small
from tests.variants import mostly_slow


@pytest.fixture
def data() -> bytes:
    return random.Random(1).randbytes(200)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def spool(root: Path) -> Spool:
    return small(root)


class Failing(FsOps):
    """A disk of which one method fails from the n-th time on, until it is mended."""

    def __init__(self, method: str, code: int, turn: int) -> None:
        self.method, self.turn, self.mended = method, turn, False
        original = getattr(super(), method)

        def fail(*given: object) -> object:
            self.turn -= 1
            if self.turn < 0 and not self.mended:
                raise OSError(code, os.strerror(code))
            return original(*given)

        setattr(self, method, fail)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("turn", mostly_slow(range(5), quick=2))
@pytest.mark.parametrize("method", ["create", "open", "pwrite", "fsync", "rename", "fsync_folder"])
async def test_after_a_failure_of_the_disk_an_upload_goes_on_from_what_is_durable(
    root: Path, data: bytes, method: str, turn: int, code: int
) -> None:
    disk = Failing(method, code, turn + 2 * (method == "fsync_folder"))
    spool = small(root, disk=disk)

    async def upload() -> None:
        progress = await spool.open(ID, 200, key=KEY)
        await send(spool, data, progress.committed_offset)
        await spool.seal(ID, 200, sha(data))

    kinds = (BlobError, OverloadedError) if code == errno.ENOSPC else (BlobError,)
    try:
        await upload()
    except kinds:
        disk.mended = True
        await upload()
    assert sealed(root, data, key=KEY) == data
    assert spool.in_flight == 0


@pytest.mark.parametrize("name", ["upload.before_seal", "upload.after_seal", "upload.after_chunk"])
async def test_a_failpoint_on_the_way_loses_nothing_that_was_answered(
    spool: Spool, root: Path, data: bytes, name: str
) -> None:
    await spool.open(ID, 200, key=KEY)
    await send(spool, data[:192])
    assert (await spool.open(ID, 200, key=KEY)).committed_offset == 192
    arm(f"{name}=error", test_mode=True)
    try:
        with pytest.raises(OSError, match=name.replace(".", r"\.")):
            await put(spool, 192, data[192:])
            await spool.seal(ID, 200, sha(data))
    finally:
        disarm()
    progress = await spool.open(ID, 200, key=KEY)
    assert progress.committed_offset >= 192
    await send(spool, data, progress.committed_offset)
    await spool.seal(ID, 200, sha(data))
    assert sealed(root, data, key=KEY) == data


def prepared(tmp_path: Path) -> Path:
    """A disk with the folder that an operator made."""
    (tmp_path / "before" / "state").mkdir(parents=True)
    return tmp_path / "before"


async def left_after_cuts(
    tmp_path: Path, data: bytes, kind: type[LossyDisk], key: bytes | None = KEY
) -> AsyncIterator[tuple[int, Path]]:
    """(what a client knows to be durable, its disk) for each cut; −1 once it was told of a seal."""
    told: dict[LossyDisk, int] = {}

    async def story(disk: LossyDisk) -> None:
        told[disk] = 0
        spool = small(disk.root / "state" / "spool", disk=disk)
        for first in (True, False):  # the second time as after a restart of the process
            progress = await spool.open(ID, 200, key=key)
            order = [32, 0, 96, 64] if first else range(progress.committed_offset, 200, 32)
            for at in order:
                told[disk] = await put(spool, at, data[at : at + 32])
            spool = spool if not first else small(disk.root / "state" / "spool", disk=disk)
        await spool.seal(ID, 200, sha(data))
        told[disk] = -1

    async for disk, _, left in every_cut(tmp_path, story, kind=kind, start=prepared(tmp_path)):
        yield told[disk], left


async def goes_on(told: int, left: Path, data: bytes, key: bytes | None = KEY) -> None:
    """Finish an upload after a cut, and check that nothing which was answered is lost."""
    root = left / "state" / "spool"
    spool = small(root)
    progress = await spool.open(ID, 200, key=key)
    assert progress.committed_offset >= told
    assert progress.sealed or told >= 0
    if not progress.sealed:
        await send(spool, data, progress.committed_offset)
        await spool.seal(ID, 200, sha(data))
    assert sealed(root, data, key=key) == data
    assert len(os.listdir(root)) == 1


@pytest.mark.parametrize(
    "key", [pytest.param(None, marks=pytest.mark.slow), KEY], ids=["plain", "encrypted"]
)
async def test_after_a_cut_anywhere_an_upload_goes_on_from_what_was_answered(
    tmp_path: Path, data: bytes, key: bytes | None
) -> None:
    cuts = 0
    async for told, left in left_after_cuts(tmp_path, data, LossyDisk, key):
        await goes_on(told, left, data, key)
        cuts += 1
    assert cuts > 60


async def test_a_file_that_was_opened_too_often_begins_again_whole_or_goes_on(
    tmp_path: Path, data: bytes
) -> None:
    start = prepared(tmp_path)
    for begun in range(16):  # as often as counters have room
        spool = small(start / "state" / "spool")
        progress = await spool.open(ID, 200, key=KEY)
        assert progress.committed_offset == 10 * begun
        await put(spool, 10 * begun, data[10 * begun : 10 * begun + 10])
        await spool.open(ID, 200, key=KEY)  # makes it durable
    told: dict[LossyDisk, int] = {}

    async def story(disk: LossyDisk) -> None:
        told[disk] = 0  # it begins again, so nothing that was answered before counts
        spool = small(disk.root / "state" / "spool", disk=disk)
        assert (await spool.open(ID, 200, key=KEY)).committed_offset == 0
        for at in range(0, 200, 32):
            told[disk] = await put(spool, at, data[at : at + 32])
        await spool.seal(ID, 200, sha(data))
        told[disk] = -1

    async for disk, _, left in every_cut(tmp_path / "cuts", story, start=start):
        await goes_on(told[disk], left, data)


class WithoutFileSync(LossyDisk):
    def fsync(self, file: int) -> None:
        self._step()


class WithoutFolderSync(LossyDisk):
    def fsync_folder(self, path: Path) -> None:
        self._step()


@pytest.mark.parametrize(
    "kind", [WithoutFileSync, pytest.param(WithoutFolderSync, marks=pytest.mark.slow)]
)
async def test_a_cut_finds_a_spool_that_leaves_out_a_sync(
    tmp_path: Path, data: bytes, kind: type[LossyDisk]
) -> None:
    async for told, left in left_after_cuts(tmp_path, data, kind):
        try:
            await goes_on(told, left, data)
        except (AssertionError, ConflictError, UploadError):
            return
    pytest.fail("no cut loses anything")


@settings(max_examples=thorough(20))
@given(first=st.integers(1, 40), second=st.integers(1, 40))
def test_two_cuts_are_no_worse_than_one(
    tmp_path_factory: pytest.TempPathFactory, first: int, second: int
) -> None:
    folder, data = tmp_path_factory.mktemp("twice"), bytes(range(200))

    async def story() -> None:
        left, told = prepared(folder), 0
        for life, cut_at in enumerate((first, second)):
            disk = LossyDisk(left, cut_at=cut_at)
            try:
                spool = small(disk.root / "state" / "spool", disk=disk)
                progress = await spool.open(ID, 200, key=KEY)
                for at in range(progress.committed_offset, 200, 32):
                    told = max(told, await put(spool, at, data[at : at + 32]))
            except PowerCut:
                pass
            losses = list(Loss)
            left = disk.left_over(losses[(first + second) % len(losses)], folder / f"{life}")
        await goes_on(told, left, data)

    asyncio.run(story())
