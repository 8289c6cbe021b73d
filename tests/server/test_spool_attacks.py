"""Whoever sends an upload harms that upload at most, and nobody who waits beside it."""

from __future__ import annotations

import asyncio
import os
import random
import threading
from pathlib import Path

import pytest

from fedcore.errors import BlobError, UploadError
from fedserver.disk import FilePath, FsOps
from tests.server.uploads import ID, KEY, put, sealed, send, sha, small


async def test_few_chunks_of_an_upload_wait_however_small_they_are(tmp_path: Path) -> None:
    """To take up many that waited would keep the event loop from all others."""
    root, data = tmp_path / "spool", bytes(range(250)) * 4
    spool = small(root, chunk_bytes=1000)
    await spool.open(ID, len(data))
    for at in range(1, 65):
        await put(spool, at, data[at : at + 1])
    for at in (65, 900):
        with pytest.raises(UploadError, match="go on from byte 0"):
            await put(spool, at, data[at : at + 1])
    assert spool.in_flight == 64
    await put(spool, 1, data[1:10])  # a longer one in the place of one that waits
    assert await put(spool, 0, data[:1]) == 0
    await put(spool, 65, data[65:])
    await spool.seal(ID, len(data), sha(data))
    assert sealed(root, data) == data and spool.in_flight == 0


class Late(FsOps):
    """A disk of a process that is stopped in the middle of its writes, once `stopped`."""

    def __init__(self) -> None:
        self.stopped, self._left = False, list[tuple[int, bytes, int]]()

    def pwrite(self, file: int, data: bytes | memoryview, offset: int) -> None:
        if self.stopped:
            self._left.append((os.dup(file), bytes(data), offset))
        else:
            super().pwrite(file, data, offset)

    def go_on(self) -> int:
        """Ends the writes; how many there were."""
        for file, data, offset in self._left:
            os.pwrite(file, data, offset)
            os.close(file)
        return len(self._left)


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
@pytest.mark.parametrize("small_bytes", [0, 16 << 10], ids=["in a thread", "in the loop"])
async def test_a_server_that_stood_still_changes_no_upload_of_its_successor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: bytes | None, small_bytes: int
) -> None:
    """Neither by a write that it was at nor by the pieces that still come to it."""
    monkeypatch.setattr("fedserver.open_upload._SMALL_BYTES", small_bytes)
    root, data, disk = tmp_path / "spool", random.Random(1).randbytes(400), Late()
    first, second = small(root, disk=disk), small(root)
    await first.open(ID, 400, key=key)
    await send(first, data[:160])
    disk.stopped = True
    await put(first, 160, data[160:192])

    await second.look_again([ID])
    durable = (await second.open(ID, 400, key=key)).committed_offset
    assert durable == 64
    await send(second, data[:320], durable)
    with pytest.raises(BlobError, match="another server"):
        await put(first, 192, data[192:224])
    await send(second, data, 320)
    await second.seal(ID, 400, sha(data))
    assert disk.go_on()
    assert sealed(root, data, key=key) == data


async def test_a_file_of_the_same_number_is_another_all_the_same(tmp_path: Path) -> None:
    """As a disk may give the number of a file that is gone to the next but one."""
    root, data = tmp_path / "spool", random.Random(1).randbytes(200)
    first, second = small(root), small(root)
    await first.open(ID, 200)
    await send(first, data[:100])
    part, kept = root / f"{ID.hex()}.part", tmp_path / "kept"
    os.link(part, kept)
    await second.look_again([ID])
    await second.open(ID, 200)
    kept.write_bytes(part.read_bytes())
    kept.replace(part)
    with pytest.raises(BlobError, match="another server"):
        await put(first, 100, data[100:132])


@pytest.mark.parametrize("other_digest", [False, True])
async def test_a_server_that_stood_still_seals_and_deletes_nothing_of_its_successor(
    tmp_path: Path, other_digest: bool
) -> None:
    root, data = tmp_path / "spool", random.Random(1).randbytes(200)
    first, second = small(root), small(root)
    await first.open(ID, 200, key=KEY)
    await send(first, data)
    await second.look_again([ID])
    durable = (await second.open(ID, 200, key=KEY)).committed_offset
    with pytest.raises(BlobError, match="another server"):
        await first.seal(ID, 200, bytes(32) if other_digest else sha(data))
    await send(second, data, durable)
    await second.seal(ID, 200, sha(data))
    assert sealed(root, data, key=KEY) == data
    assert len(os.listdir(root)) == 1


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
async def test_a_server_that_stood_still_before_it_renamed_seals_nothing_of_its_successor(
    tmp_path: Path, key: bytes | None
) -> None:
    """Its upload was whole and on the disk; what has its name by then is half written."""
    root, data, disk = tmp_path / "spool", random.Random(1).randbytes(200), SlowToSeal()
    first, second = small(root, disk=disk), small(root)
    await first.open(ID, 200, key=key)
    await send(first, data)
    sealing = asyncio.ensure_future(first.seal(ID, 200, sha(data)))
    assert await asyncio.to_thread(disk.begun.wait, 10)

    await second.look_again([ID])
    durable = (await second.open(ID, 200, key=key)).committed_offset
    await send(second, data[:-32], durable)
    disk.go.set()
    with pytest.raises(BlobError, match="another server"):
        await sealing
    for server in (first, second, small(root)):
        await server.look_again([ID])
        assert not (await server.open(ID, 200, key=key)).sealed
    await second.look_again([ID])
    durable = (await second.open(ID, 200, key=key)).committed_offset
    await send(second, data, durable)
    await second.seal(ID, 200, sha(data))
    assert sealed(root, data, key=key) == data


async def test_what_a_kill_leaves_of_a_new_file_goes_with_the_upload(tmp_path: Path) -> None:
    root = tmp_path / "spool"
    for _ in range(2):
        spool = small(root)
        (root / f"{ID.hex()}.copy").write_bytes(b"half")
        assert await spool.stored() == {ID}
        await spool.discard(ID)
        assert os.listdir(root) == []
        (root / f"{ID.hex()}.copy").write_bytes(b"half")
        assert not (await spool.open(ID, 200)).sealed
        assert os.listdir(root) == [f"{ID.hex()}.part"]


class SlowToSeal(FsOps):
    """A disk on which an upload gets its last name when it is let."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()

    def rename(self, source: FilePath, target: FilePath) -> None:
        if not str(target).endswith(".part"):
            self.begun.set()
            assert self.go.wait(10)
        super().rename(source, target)


@pytest.mark.parametrize("other", ["discard", "look_again"])
async def test_a_seal_beside_the_end_of_its_round_or_another_server_ends_well(
    tmp_path: Path, other: str
) -> None:
    disk, data = SlowToSeal(), b"x" * 100
    spool = small(tmp_path / "spool", disk=disk)
    await spool.open(ID, len(data))
    await send(spool, data)
    sealing = asyncio.ensure_future(spool.seal(ID, len(data), sha(data)))
    assert await asyncio.to_thread(disk.begun.wait, 10)
    beside = spool.discard(ID) if other == "discard" else spool.look_again([ID])
    ending = asyncio.ensure_future(beside)
    await asyncio.sleep(0)
    disk.go.set()
    await asyncio.gather(sealing, ending)
    assert spool.in_flight == 0
    assert await spool.stored() == (frozenset() if other == "discard" else {ID})
