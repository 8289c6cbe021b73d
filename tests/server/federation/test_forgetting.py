"""What clients sent is on the disk as nothing but noise, and once a round is over as nothing."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
from pathlib import Path

import pytest

from fedcore.errors import StoreError
from fedcore.rounds import Phase
from fedserver.store.records import RoundRef, TaskState
from fedserver.store.sealing import Sealer, derived_key
from fedserver.upload_file import part_of
from tests.server.federation.device import Device
from tests.server.federation.test_rounds import MASKED, final_of, models_of
from tests.server.federation.world import KEY, World, task_of, world_in


class Uploads:
    """The updates that devices send; the last device waits before it sends its own."""

    def __init__(self, world: World) -> None:
        self.sent: list[bytes] = []
        self.others, self.go = asyncio.Event(), asyncio.Event()
        self._awaited = len(world.devices) - 1
        for device in world.devices:
            self._watch(device, last=device is world.devices[-1])

    def _watch(self, device: Device, *, last: bool) -> None:
        upload = device._upload

        async def watched(world, part, header, data) -> None:  # type: ignore[no-untyped-def]
            if last:
                await self.go.wait()
            await upload(world, part, header, data)
            self.sent.append(data)
            if len(self.sent) == self._awaited:
                self.others.set()

        device._upload = watched  # type: ignore[method-assign]


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def rows_of(folder: Path, table: str) -> list[sqlite3.Row]:
    with contextlib.closing(sqlite3.connect(folder / "fed.db")) as connection:
        connection.row_factory = sqlite3.Row
        return connection.execute(f"SELECT * FROM {table}").fetchall()


def opened_by(path: Path, key: bytes | None, size: int) -> bytes:
    return part_of(path, 0, size, key=key)


@pytest.mark.parametrize("secure", ["", MASKED], ids=["plain", "masked"])
async def test_updates_and_secrets_are_sealed_outlive_a_crash_and_are_lost_with_the_round(
    tmp_path: Path, secure: str
) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    task = task_of(secure=secure, rounds=1, heartbeat_s=30)
    async with world_in(folder, task) as world:
        uploads = Uploads(world)
        running = asyncio.ensure_future(world.run())
        await uploads.others.wait()
        assert world.submitted is not None
        ref = RoundRef(world.submitted.task_id, 0, 1)

        for data in uploads.sent:
            runs = [data[at : at + 24] for at in range(0, len(data) - 24, 24)]
            for held in files_of(folder).values():
                assert not any(run in held for run in runs if run.strip(b"\0"))

        # Kept aside by somebody who has the datastore keys too: for now all of it opens.
        shutil.copytree(folder / "spool", tmp_path / "spool")
        (key,) = [row["value"] for row in rows_of(folder, "attempt_key")]
        records = [tuple(row) for row in rows_of(folder, "session_record")]
        spooled = sorted((tmp_path / "spool").glob("*.*"))
        attempt_key = Sealer([KEY]).open(key, "attempt_key", str(ref), "value")
        size, spool_key = len(uploads.sent[0]), derived_key(attempt_key, b"spool")
        whole = [path for path in spooled if path.suffix != ".part"]
        assert {opened_by(path, spool_key, size) for path in whole} == set(uploads.sent)
        if secure:
            assert records

        await world.crash()
        uploads.go.set()
        assert (await running).state is TaskState.COMPLETED
        assert await final_of(world) == models_of(task, world)[-1]
        await world.eventually(Phase.SCRUBBED)

        assert not any((folder / "spool").iterdir())
        assert not rows_of(folder, "attempt_key") and not rows_of(folder, "session_record")
        for held in files_of(folder).values():
            assert key not in held and attempt_key not in held and spool_key not in held
        for _, _, _, name, value, *_ in records:
            with pytest.raises(StoreError):
                Sealer([KEY]).open(value, "session_record", f"{ref}/{name}", "value")
        for path in whole:
            for wrong in (None, KEY, derived_key(KEY, b"spool")):
                assert opened_by(path, wrong, size) not in uploads.sent
