"""Who looks at a server from outside finds a task that cannot go on from its newest model."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from fedcore.cli import main
from fedserver.blobs import LocalBlobStore, digest_name
from fedserver.config import load
from fedserver.doctor import Finding, examine
from fedserver.newest_models import tasks_without
from fedserver.objects import ObjectAddress, Objects
from fedserver.opening import opened
from fedserver.store.records import ModelRecord, TaskRecord, TaskState

MODEL = b"a model of which a byte may be lost"


def lose(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    path.write_bytes(b"b" + path.read_bytes()[1:])


async def with_task(place: Path, name: str, *, model: bytes = MODEL) -> bytes:
    """A task that runs on the server of that place, as soon as one takes it up; its model."""
    async with opened(load(place / "server.toml")) as parts:
        digest = await LocalBlobStore(place / "state" / "blobs").put_bytes(model)
        task = TaskRecord(
            name, "default", name, b"{}", name.encode(), b"k" * 32, b"s" * 64, 5, "user:ada"
        )
        await parts.store.add_task(task, ModelRecord(digest, name, b"", 0, len(model)))
    return digest


def doctor(place: Path) -> list[Finding]:
    return [one for one in examine(load(place / "server.toml")) if one.check == "newest models"]


def check(place: Path, capsys: pytest.CaptureFixture[str], *where: str) -> tuple[int, Any]:
    """What `fed db check` ends with, and says."""
    words = ["db", "check", *(where or ("--config", f"{place}/server.toml")), "--format", "json"]
    capsys.readouterr()
    with ThreadPoolExecutor(1) as thread:  # a command owns its event loop
        code = thread.submit(main, words).result()
    return code, json.loads(capsys.readouterr().out)["data"]


@pytest.mark.parametrize("spoil", [lose, cut, flip])
async def test_a_newest_model_that_is_damaged_is_found(
    place: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], None]
) -> None:
    digest = await with_task(place, "digits-1")
    await with_task(place, "other-2", model=b"another model")
    [found] = doctor(place)
    assert (found.level, found.detail) == ("ok", "those of 2 running tasks are whole")
    code, data = check(place, capsys)
    assert (code, data["models"]) == (0, 2)

    spoil(place / "state" / "blobs" / digest_name(digest))
    [found] = doctor(place)
    assert found.level == "error" and "goes on by itself" in found.fix
    assert "newest model of task digits-1" in found.detail and digest.hex() in found.detail
    code, data = check(place, capsys)
    assert (code, data["holds"], data["problems"]) == (1, False, [found.detail])
    assert main(["server", "doctor", "--config", f"{place}/server.toml"]) == 1

    async with opened(load(place / "server.toml")) as parts:
        await parts.store.set_task_state("digits-1", TaskState.CANCELLED, reason="it is lost")
    assert [one.level for one in doctor(place)] == ["ok"]
    assert check(place, capsys)[0] == 0


async def test_of_a_copy_that_has_no_models_beside_it_none_is_missed(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await with_task(place, "digits-1")
    (tmp_path / "elsewhere").mkdir()
    copy = tmp_path / "elsewhere" / "fed.db"
    copy.write_bytes((place / "state" / "fed.db").read_bytes())
    code, data = check(place, capsys, "--database", str(copy))
    assert (code, data["models"]) == (0, None)
    (tmp_path / "elsewhere" / "blobs").mkdir()
    assert check(place, capsys, "--database", str(copy))[0] == 1


async def test_models_in_a_bucket_are_read_too(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = pytest.importorskip("fsspec.implementations.memory").MemoryFileSystem()
    objects = Objects(memory, uuid4().hex)
    monkeypatch.setattr(Objects, "connected", lambda address: objects)
    digest = await with_task(place, "digits-1")
    database, bucket = place / "state" / "fed.db", ObjectAddress("s3://models")
    running, without = tasks_without(database, bucket)
    assert running == 1 and "FileNotFoundError" in without[0].why
    objects.put(digest_name(digest), place / "state" / "blobs" / digest_name(digest))
    assert tasks_without(database, bucket) == (1, [])
    objects.put(digest_name(digest), place / "server.toml")
    _, without = tasks_without(database, bucket)
    assert "have the digest" in without[0].why
