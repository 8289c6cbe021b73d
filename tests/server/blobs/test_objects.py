"""Blobs in an object store: what fails there has a remedy, and acknowledges nothing."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from fedcore.errors import BlobError, InstallError
from fedserver.blobs import LocalBlobStore, digest_name
from fedserver.config import Config
from fedserver.doctor import examine
from fedserver.object_blobs import ObjectBlobStore
from fedserver.objects import ObjectAddress, Objects
from tests.server.object_store import ObjectStore, refusing

DATA = os.urandom(1000)
DIGEST = hashlib.sha256(DATA).digest()


class Failing:
    """A file system of which the method `fails` does, before its work or after it."""

    def __init__(self, system: Any, fails: str, error: Exception, *, after: bool) -> None:
        self._system, self.fails, self._error, self._after = system, fails, error, after

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._system, name)

        def call(*given: Any, **named: Any) -> Any:
            if name == self.fails and not self._after:
                raise self._error
            answer = method(*given, **named)
            if name == self.fails:
                raise self._error
            return answer

        return call


@pytest.fixture
def memory() -> Any:
    return pytest.importorskip("fsspec.implementations.memory").MemoryFileSystem()


def blobs_in(folder: Path, objects: Objects) -> ObjectBlobStore:
    return ObjectBlobStore(objects, LocalBlobStore(folder / f"copies-{uuid4().hex}"))


def copy_in(copies: LocalBlobStore) -> Path:
    """The file in which the blob of these tests is kept."""
    return Path(copies.path(DIGEST))


def damage(copy: Path) -> None:
    copy.write_bytes(b"of a bad disk")


def files_in(folder: Path, name: str) -> list[Path]:
    """All files in folders of that name."""
    return [path for path in folder.rglob(f"{name}/*") if path.is_file()]


@pytest.mark.parametrize(
    ("url", "endpoint", "said"),
    [
        ("s3://", "", "s3://bucket/prefix"),
        ("gs://bucket/x", "", "s3://bucket/prefix"),
        ("s3://bucket/x?versionId=1", "", "s3://bucket/prefix"),
        ("s3://key:secret@bucket/x", "", "secret"),
        ("s3://bucket/x", "https://key:secret@store:9000", "secret"),
        ("s3://bucket/x", "store:9000", "https://"),
    ],
)
def test_what_is_no_address_or_has_a_secret_in_it_is_refused(
    url: str, endpoint: str, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        ObjectAddress(url, endpoint)


def test_without_the_extra_the_remedy_is_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InstallError) as caught:
        Objects.connected(ObjectAddress("s3://models"))
    assert "[s3]" in caught.value.fix


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (TimeoutError("no answer"), "tried again"),
        (PermissionError("Forbidden"), "list, read, write and delete"),
        (FileNotFoundError("no bucket"), "server.blobs_url"),
        (OSError(121, "InternalError"), "tried again"),
        (ValueError("of some library"), "tried again"),
    ],
)
async def test_a_put_that_fails_acknowledges_nothing_and_can_be_repeated(
    memory: Any, tmp_path: Path, error: Exception, remedy: str, after: bool
) -> None:
    system = Failing(memory, "put_file", error, after=after)
    objects = Objects(system, uuid4().hex)
    with pytest.raises(BlobError, match=type(error).__name__) as caught:
        await blobs_in(tmp_path, objects).put_bytes(DATA)
    assert caught.value.code == "FED-2203" and remedy in caught.value.fix
    if not after:  # else it is there, and nobody was told
        assert objects.names() == []
    system.fails = ""
    assert await blobs_in(tmp_path, objects).put_bytes(DATA) == DIGEST
    await blobs_in(tmp_path, objects).verify(DIGEST)


@pytest.mark.parametrize("method", ["size", "get_file", "find", "modified", "rm_file"])
async def test_whatever_fails_is_an_error_with_a_remedy_and_harms_no_blob(
    memory: Any, tmp_path: Path, method: str
) -> None:
    root = uuid4().hex
    await blobs_in(tmp_path, Objects(memory, root)).put_bytes(DATA)
    system = Failing(memory, method, TimeoutError("no answer"), after=False)
    blobs = blobs_in(tmp_path, Objects(system, root))
    with pytest.raises(BlobError, match="TimeoutError"):
        await blobs.verify(DIGEST)
        await blobs.collect((), older_than_s=-60)
    system.fails = ""
    await blobs.verify(DIGEST)
    assert files_in(tmp_path, "incoming") == []


async def test_a_damaged_copy_is_made_anew(memory: Any, tmp_path: Path) -> None:
    copies = LocalBlobStore(tmp_path / "copies")
    blobs = ObjectBlobStore(Objects(memory, uuid4().hex), copies)
    await blobs.put_bytes(DATA)
    damage(copy_in(copies))
    await blobs.verify(DIGEST)
    assert await asyncio.to_thread(copy_in(copies).read_bytes) == DATA


async def test_what_is_read_often_is_fetched_once(memory: Any, tmp_path: Path) -> None:
    root = uuid4().hex
    await blobs_in(tmp_path, Objects(memory, root)).put_bytes(DATA)
    system = Failing(memory, "", OSError(), after=False)
    blobs = blobs_in(tmp_path, Objects(system, root))
    assert await blobs.read(DIGEST, 0, 10) == DATA[:10]
    system.fails = "get_file"
    assert await blobs.read(DIGEST, 10, 10) == DATA[10:20]
    assert await blobs.size(DIGEST) == len(DATA)


async def test_an_object_without_room_for_its_copy_is_not_fetched(
    memory: Any, tmp_path: Path
) -> None:
    objects = Objects(memory, uuid4().hex)
    await blobs_in(tmp_path, objects).put_bytes(DATA)
    full = LocalBlobStore(tmp_path / "full", reserve_bytes=1 << 60)
    with pytest.raises(BlobError, match="ENOSPC"):
        await ObjectBlobStore(objects, full).read(DIGEST, 0, 1)


async def test_objects_that_are_no_blobs_are_left_alone(memory: Any, tmp_path: Path) -> None:
    objects = Objects(memory, uuid4().hex)
    (tmp_path / "notes").write_bytes(b"an operator's")
    names = ["ab/cd/notes.txt", f"00/11/{DIGEST.hex()}", "README"]
    for name in names:
        objects.put(name, tmp_path / "notes")
    blobs = blobs_in(tmp_path, objects)
    assert await blobs.orphans([], older_than_s=-60) == []
    assert await blobs.collect([], older_than_s=-60) == 0
    assert objects.names() == sorted(names)


async def test_what_another_server_deleted_while_it_was_put_is_put_again(
    memory: Any, tmp_path: Path
) -> None:
    objects = Objects(memory, uuid4().hex)
    mine, theirs = blobs_in(tmp_path, objects), blobs_in(tmp_path, objects)
    await theirs.put_bytes(DATA)  # long ago, and no row names it any more
    known: list[bytes] = []
    older, put = theirs._older, threading.Event()

    def older_then_put_again(name: str, seconds: float) -> bool:
        found = older(name, seconds)
        if name == digest_name(DIGEST) and not put.is_set():
            put.set()
            asyncio.run(mine.put_bytes(DATA))
            known.append(DIGEST)
        return found

    theirs._older = older_then_put_again  # type: ignore[method-assign]
    assert await theirs.collect([], older_than_s=-60) == 1
    assert put.is_set() and objects.names() == []
    assert await mine.collect(known) == 0
    await blobs_in(tmp_path, objects).verify(DIGEST)


async def test_a_damaged_copy_is_never_put_again_and_told_once(memory: Any, tmp_path: Path) -> None:
    objects, copies = Objects(memory, uuid4().hex), LocalBlobStore(tmp_path / "copies")
    blobs = ObjectBlobStore(objects, copies)
    await blobs.put_bytes(DATA)
    objects.delete(digest_name(DIGEST))
    damage(copy_in(copies))
    with pytest.raises(BlobError, match="damaged"):
        await blobs.collect([DIGEST])
    assert objects.names() == []
    assert await blobs.collect([DIGEST]) == 0  # the rest is not kept from being collected
    with pytest.raises(BlobError):
        await blobs.verify(DIGEST)


async def test_the_check_leaves_nothing(memory: Any, tmp_path: Path) -> None:
    objects = Objects(memory, uuid4().hex)
    await blobs_in(tmp_path, objects).check()
    assert objects.names() == []


async def test_files_of_a_local_store_are_blobs_once_they_are_copied(
    memory: Any, tmp_path: Path
) -> None:
    await LocalBlobStore(tmp_path / "blobs").put_bytes(DATA)
    objects = Objects(memory, uuid4().hex)
    for path in (tmp_path / "blobs").rglob("??/??/*"):
        objects.put(str(path.relative_to(tmp_path / "blobs")), path)
    await blobs_in(tmp_path, objects).verify(DIGEST)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "reason", "remedy"),
    [
        (b"403 Access Denied", "PermissionError", "list, read, write and delete"),
        (b"404 No Such Bucket", "FileNotFoundError", "server.blobs_url"),
        (b"500 Internal Error", "Errno 121", "tried again"),
        (b"503 Slow Down", "OSError", "tried again"),
        (b"", "Error", "tried again"),
    ],
)
async def test_what_s3_answers_is_told_with_a_remedy(
    s3: ObjectStore, address: ObjectAddress, tmp_path: Path, status: bytes, reason: str, remedy: str
) -> None:
    objects = Objects.connected(address)
    with s3.failing(refusing("PUT", status)), pytest.raises(BlobError) as caught:
        await blobs_in(tmp_path, objects).put_bytes(DATA)
    assert reason in caught.value.why and remedy in caught.value.fix
    assert objects.names() == []
    await blobs_in(tmp_path, objects).put_bytes(DATA)
    await blobs_in(tmp_path, objects).verify(DIGEST)


@pytest.mark.slow
async def test_what_s3_refuses_once_is_asked_again_at_once(
    s3: ObjectStore, address: ObjectAddress, tmp_path: Path
) -> None:
    blobs = blobs_in(tmp_path, Objects.connected(address))
    for status in (b"500 Internal Error", b"503 Slow Down", b""):
        with s3.failing(refusing("PUT", status, times=2)):
            assert await blobs.put_bytes(DATA) == DIGEST


@pytest.mark.slow
async def test_a_store_that_does_not_answer_is_given_up(
    s3: ObjectStore, address: ObjectAddress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedserver.objects._ANSWER_S", 0.2)
    monkeypatch.setattr("fedserver.objects._CONNECT_S", 1)
    released = threading.Event()

    def silent(environ: dict[str, Any]) -> bytes:
        assert released.wait(600), "nothing else ends the call"
        return b""

    try:
        with s3.failing(silent), pytest.raises(BlobError, match="Timeout"):
            await blobs_in(tmp_path, Objects.connected(address)).put_bytes(DATA)
    finally:
        released.set()


@pytest.mark.slow
async def test_an_object_of_many_parts_is_whole_or_absent(
    s3: ObjectStore, address: ObjectAddress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedserver.objects._PART_BYTES", 5 << 20)  # S3's least
    objects = Objects.connected(address)
    data = os.urandom(13 << 20)

    def third_part(environ: dict[str, Any]) -> bytes | None:
        return b"500 Internal Error" if "partNumber=3" in environ["QUERY_STRING"] else None

    with s3.failing(third_part), pytest.raises(BlobError, match="Errno 121"):
        await blobs_in(tmp_path, objects).put_bytes(data)
    assert objects.names() == []
    digest = await blobs_in(tmp_path, objects).put_bytes(data)
    await blobs_in(tmp_path, objects).verify(digest)
    assert objects.names() == [digest_name(digest)]


@pytest.mark.slow
async def test_a_bucket_that_is_not_there_is_found_out_at_once(
    s3: ObjectStore, tmp_path: Path
) -> None:
    objects = Objects.connected(ObjectAddress("s3://nobodys/models", s3.endpoint))
    with pytest.raises(BlobError, match="bucket") as caught:
        await blobs_in(tmp_path, objects).check()
    assert "server.blobs_url" in caught.value.fix


@pytest.mark.slow
def test_the_doctor_says_whether_the_store_answers(
    s3: ObjectStore, address: ObjectAddress, tmp_path: Path
) -> None:
    server = {"state_directory": str(tmp_path), "blobs_url": address.url}

    def finding() -> tuple[str, str]:
        config = Config.of({"server": {**server, "blobs_endpoint": s3.endpoint}})
        [found] = [one for one in examine(config) if one.check == "models"]
        return found.level, found.detail + found.fix

    assert finding() == ("ok", f"{address.root} answers, and holds 0 objects")
    with s3.failing(refusing("GET", b"403 Access Denied")):
        level, said = finding()
    assert level == "error" and "list, read, write and delete" in said
    assert [one for one in examine(Config.of({})) if one.check == "models"] == []
