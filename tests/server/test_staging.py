"""First models that wait for their tasks: each its sender's alone, few, and not for long."""

from __future__ import annotations

import hashlib
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

from fedcore.errors import (
    BlobError,
    ConflictError,
    FedcoreError,
    NotFoundError,
    OverloadedError,
    UploadError,
)
from fedcore.failpoints import arm, disarm
from fedcore.wire.transfer import crc32
from fedserver.authorisation import Caller
from fedserver.disk import FsOps
from fedserver.staging import Staging
from tests.server.lossy_disk import LossyDisk, every_cut
from tests.server.uploads import sha, small

DATA = random.Random(1).randbytes(200)
ADA = Caller("user", name="ada", tenant="one", role="researcher")
OTHERS = (replace(ADA, name="bob"), replace(ADA, tenant="two"))


def staging_in(root: Path, *, each: int = 2, disk: FsOps | None = None) -> Staging:
    return Staging(small(root, disk=disk), largest_bytes=200, each=each)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "staging"


async def send(staging: Staging, data: bytes, *, caller: Caller = ADA) -> None:
    """All that is missing of a file, from where the server says."""
    begun = await staging.begin(caller, sha(data), len(data))
    for offset in range(begun.committed_offset, len(data), 32):
        await put(staging, data, offset, caller=caller)


async def put(staging: Staging, data: bytes, offset: int, *, caller: Caller = ADA) -> int:
    piece = data[offset : offset + 32]
    check = crc32(piece)
    return await staging.put(caller, sha(data), offset=offset, crc32=check, data=piece)


async def content(staging: Staging, data: bytes, *, caller: Caller = ADA) -> bytes:
    file, size = await staging.open_read(caller, sha(data))
    with file:
        return file.read(size)


def let_age(root: Path, hours: float) -> None:
    for path in root.iterdir():
        then = path.stat().st_mtime - 3600 * hours
        os.utime(path, (then, then))


async def test_what_was_sealed_is_there_for_its_sender_alone_also_after_a_restart(
    root: Path,
) -> None:
    staging = staging_in(root)
    await send(staging, DATA)
    await staging.seal(ADA, sha(DATA), 200)
    for after in (staging, staging_in(root)):
        assert await content(after, DATA) == DATA
        assert (await after.begin(ADA, sha(DATA), 200)).sealed
        await after.seal(ADA, sha(DATA), 200)
        for other in OTHERS:
            with pytest.raises(NotFoundError, match="no such first model"):
                await content(after, DATA, caller=other)


async def test_what_nobody_began_or_another_did_takes_no_chunk_and_no_seal(root: Path) -> None:
    staging = staging_in(root)
    await send(staging, DATA)
    for caller, data in ((ADA, DATA[1:]), *((other, DATA) for other in OTHERS)):
        with pytest.raises(NotFoundError):
            await put(staging, data, 0, caller=caller)
        with pytest.raises(NotFoundError):
            await staging.seal(caller, sha(data), len(data))
        with pytest.raises(NotFoundError):
            await content(staging, data, caller=caller)
    assert len(os.listdir(root)) == 1


async def test_a_file_that_is_not_sealed_is_not_there(root: Path) -> None:
    staging = staging_in(root)
    await send(staging, DATA)
    with pytest.raises(NotFoundError):
        await content(staging, DATA)


async def test_a_file_that_is_too_large_is_refused_before_anything_is_made(root: Path) -> None:
    staging = staging_in(root)
    with pytest.raises(UploadError, match="too large") as found:
        await staging.begin(ADA, sha(DATA), 201)
    assert found.value.retry is None
    assert os.listdir(root) == []
    await staging.begin(ADA, sha(DATA), 200)


async def test_bytes_of_another_digest_are_not_sealed_and_begin_again(root: Path) -> None:
    staging, wrong = staging_in(root), sha(b"another")
    await staging.begin(ADA, wrong, 32)
    await staging.put(ADA, wrong, offset=0, crc32=crc32(DATA[:32]), data=DATA[:32])
    with pytest.raises(UploadError, match="another digest"):
        await staging.seal(ADA, wrong, 32)
    assert os.listdir(root) == []
    assert (await staging.begin(ADA, wrong, 32)).committed_offset == 0


async def test_a_file_has_one_size(root: Path) -> None:
    staging = staging_in(root)
    await staging.begin(ADA, sha(DATA), 200)
    with pytest.raises(ConflictError):
        await staging.begin(ADA, sha(DATA), 199)


async def test_a_tenant_has_few_and_one_that_was_left_alone_gives_way(root: Path) -> None:
    staging, files = staging_in(root), [bytes([n]) * 40 for n in range(4)]
    for data, caller in zip(files[:2], (ADA, OTHERS[0]), strict=True):
        await send(staging, data, caller=caller)
    await staging.seal(ADA, sha(files[0]), 40)  # it waits for its task, and counts as well
    for again in (staging, staging_in(root)):
        with pytest.raises(OverloadedError, match="wait for their tasks") as found:
            await again.begin(ADA, sha(files[2]), 40)
        assert found.value.retry is not None
        await again.begin(ADA, sha(files[0]), 40)  # what is there is no new one
    await send(staging, files[3], caller=OTHERS[1])  # of another tenant
    let_age(root, 0.9)
    with pytest.raises(OverloadedError):
        await staging.begin(ADA, sha(files[2]), 40)
    let_age(root, 0.2)
    await staging.discard(ADA, sha(files[0]))
    await send(staging, files[2])
    await send(staging, files[0])  # in the place of Bob's, the oldest
    with pytest.raises(NotFoundError):
        await put(staging, files[1], 0, caller=OTHERS[0])
    await put(staging, files[3], 0, caller=OTHERS[1])


async def test_what_nobody_wrote_to_for_a_day_is_collected_open_or_sealed(root: Path) -> None:
    staging, files = staging_in(root, each=3), [bytes([n]) * 40 for n in range(3)]
    for data in files:
        await send(staging, data)
    await staging.seal(ADA, sha(files[0]), 40)
    let_age(root, 23)
    assert await staging.collect() == 0
    let_age(root, 2)
    await send(staging, files[2])
    assert await staging.collect() == 2
    assert len(os.listdir(root)) == 1
    with pytest.raises(NotFoundError):
        await content(staging, files[0])


@pytest.mark.parametrize("name", ["upload.after_chunk", "upload.before_seal", "upload.after_seal"])
async def test_a_server_that_dies_on_the_way_has_a_whole_file_or_none(
    root: Path, name: str
) -> None:
    staging = staging_in(root)
    arm(f"{name}=error@2" if name == "upload.after_chunk" else f"{name}=error", test_mode=True)
    try:
        with pytest.raises((OSError, FedcoreError)):
            await send(staging, DATA)
            await staging.seal(ADA, sha(DATA), 200)
    finally:
        disarm()
    restarted = staging_in(root)
    if name != "upload.after_seal":
        with pytest.raises(NotFoundError):
            await content(restarted, DATA)
    await send(restarted, DATA)
    await restarted.seal(ADA, sha(DATA), 200)
    assert await content(restarted, DATA) == DATA
    assert len(os.listdir(root)) == 1


async def test_after_a_power_cut_anywhere_what_can_be_read_is_the_file(tmp_path: Path) -> None:
    data = DATA[:70]
    told: dict[LossyDisk, bool] = {}
    (tmp_path / "before" / "state").mkdir(parents=True)

    async def story(disk: LossyDisk) -> None:
        staging = staging_in(disk.root / "state" / "staging", disk=disk)
        await send(staging, data)
        await staging.seal(ADA, sha(data), 70)
        told[disk] = True

    async for disk, _, left in every_cut(tmp_path, story, start=tmp_path / "before"):
        staging = staging_in(left / "state" / "staging")
        try:
            found = await content(staging, data)
        except NotFoundError:
            assert not told.get(disk)
            await send(staging, data)
            await staging.seal(ADA, sha(data), 70)
            found = await content(staging, data)
        assert hashlib.sha256(found).digest() == sha(data)


async def test_a_file_that_vanished_behind_the_servers_back_is_a_fault_of_the_disk(
    root: Path,
) -> None:
    staging = staging_in(root)
    await send(staging, DATA)
    await staging.seal(ADA, sha(DATA), 200)
    for name in os.listdir(root):
        os.unlink(root / name)
    with pytest.raises(BlobError):
        await content(staging, DATA)
