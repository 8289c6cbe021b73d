"""A power cut at any sync of a whole task's writes takes nothing that was acknowledged (R3).

A real federation carries a private task out; all that it does to its disk is recorded: database,
blobs, uploads, ledger. After each cut a server starts on what the disk still holds.
"""

from __future__ import annotations

import asyncio
import copy
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from fedcore.errors import FedcoreError
from fedcore.federated.task import Task
from fedcore.privacy import verify
from fedserver.blobs import LocalBlobStore
from fedserver.metrics import Metrics
from fedserver.spool import Spool
from fedserver.store.audit import verify as verify_audit
from fedserver.store.records import TaskRecord, TaskState, UploadState
from fedserver.store.sqlite import SqliteStore
from tests.chaos.disk_log import DiskLog, Sync, SyncFolder
from tests.chaos.power_cut import Cut, digest_of, every_cut, tables_after
from tests.server.databases import empty_database
from tests.server.federation.test_rounds import CLIENTS, MASKED, SAMPLED
from tests.server.federation.world import KEY, World, task_of

PRIVATE, SHARED = CLIENTS.format(noise="central"), CLIENTS.format(noise="shares")
_NAMES = ["masked", "central", "shares", "sampled"]
_OVER = ("COMPLETED", "SCRUBBED")


@dataclass
class Recorded:
    """A task from the server's first start to its end. `empty`: the database as it was before."""

    world: World
    log: DiskLog
    empty: Path

    def cut_everywhere(self, folder: Path, check: Callable[[Cut], None]) -> int:
        """Calls `check` at every sync; how many there are."""
        folder.mkdir()
        database = folder / "fed.db"
        shutil.copyfile(self.empty, database)
        return every_cut(self.log.events, self.world.folder, database, check)


def recorded(folder: Path, task: Task, *, clients: int) -> Recorded:
    """What a server does to its disk for a whole task."""
    root, empty = folder / "disk", folder / "empty.db"
    root.mkdir(parents=True)
    for path in (empty, root / "fed.db"):
        path.write_bytes(empty_database())
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    log, world = DiskLog(root), World(root, task, clients=clients)

    async def tell() -> None:
        await world.start()
        await world.enrol()
        await world.submit()
        assert (await world.run()).state is TaskState.COMPLETED
        await world.stop()

    with pytest.MonkeyPatch.context() as patch:
        log.record(patch)
        asyncio.run(tell())
    return Recorded(world, log, empty)


class Examiner:
    """Starts a server on what a cut left, and looks whether anything is missing."""

    def __init__(self, told: Recorded, folder: Path) -> None:
        self._told, self._folder = told, folder
        self._tables = tables_after(told.log.events, told.empty)
        self.images = 0

    def __call__(self, cut: Cut) -> None:
        for luck in (None, random.Random(cut.number)):
            image = self._folder / f"{cut.number}-{luck is not None}"
            cut.image(image, luck=luck)
            try:
                self._tables_are_whole(image, cut)
                asyncio.run(self._serves(image))
            except Exception as error:
                error.add_note(f"after the cut at sync {cut.number}, found in {image}")
                raise
            shutil.rmtree(image)
            self.images += 1

    def _tables_are_whole(self, image: Path, cut: Cut) -> None:
        """The acknowledged transactions are there, and at most the one that was under way."""
        copied = image.with_name(f"{image.name}-read")
        copied.mkdir()
        for path in image.glob("fed.db*"):
            shutil.copy(path, copied)
        with closing(sqlite3.connect(copied / "fed.db")) as connection:
            assert digest_of(connection) in self._tables[cut.commits : cut.commits + 2]
        shutil.rmtree(copied)

    async def _serves(self, image: Path) -> None:
        world = copy.copy(self._told.world)
        await check_everything(image, private=world.task.plan is not None)
        world.folder, world.metrics = image, Metrics()
        world._up, world._calls = asyncio.Event(), set()
        with capture_logs() as logs:
            await world.start()
            try:
                for found in await world.store.tasks(state=TaskState.RUNNING):
                    await taken_up(world, found.task_id)
            finally:
                await world.stop()
        assert not [entry for entry in logs if entry["log_level"] == "error"]


async def check_everything(image: Path, *, private: bool) -> None:
    """The database is sound, its log one chain, and all is there of which it knows."""
    store = await SqliteStore.open(image / "fed.db", keys=[KEY])
    try:
        assert await store.integrity() == ()
        entries = await store.audit_entries(limit=10**6)
        assert verify_audit(entries) == await store.audit_head()
        for found in await store.tasks():
            await check_models(store, LocalBlobStore(image / "blobs"), found)
            await check_uploads(store, Spool(image / "spool"), found.task_id)
            if private:
                await check_ledger(store, image / "ledgers" / found.task_id, found.task_id)
    finally:
        await store.close()


async def check_models(store: SqliteStore, blobs: LocalBlobStore, found: TaskRecord) -> None:
    """Models that the database names are on the disk, in one line."""
    head, models = await store.head(found.task_id), await store.models(found.task_id)
    assert head is not None
    assert [model.round for model in models] == list(range(found.rounds_completed + 1))
    assert head.digest == models[-1].digest
    for digest in (*(model.digest for model in models), head.state_digest):
        if digest:
            await blobs.verify(digest)


async def check_uploads(store: SqliteStore, spool: Spool, task_id: str) -> None:
    """What was acknowledged of updates is on the disk, while their round is open."""
    for round in await store.open_rounds(task_id):
        for upload in await store.uploads(round.ref):
            key = await store.upload_key(round.ref)
            found = await spool.open(upload.upload_id, upload.size, key=key)
            assert found.sealed or upload.state is not UploadState.SEALED
            assert found.committed_offset >= upload.committed


async def check_ledger(store: SqliteStore, folder: Path, task_id: str) -> None:
    """What was released was paid for before."""
    ledger = verify(folder)
    released = [r for r in (await store.rounds(task_id)).rounds if r.phase in _OVER]
    assert not ledger.damaged
    assert ledger.reservations - ledger.voided >= ledger.released >= len(released)
    for round in released:
        # SQLite shows a number of a statement with 15 digits.
        assert ledger.epsilon >= round.epsilon * (1 - 1e-14)


async def taken_up(world: World, task_id: str) -> None:
    """Waits until the task goes on where it stood, or ends, where that alone was left."""
    assert world.federation is not None
    async with asyncio.timeout(10):
        while (driver := world.federation._drivers.get(task_id)) is None or driver.attempt is None:
            found = await world.store.task(task_id)
            if found is None or found.state is not TaskState.RUNNING:
                return
            await asyncio.sleep(0.001)


def task(privacy: str = "", *, clients: int = 3, rounds: int = 2) -> Task:
    return task_of(secure=MASKED, privacy=privacy, clients=clients, rounds=rounds)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Two private rounds of three clients."""
    return recorded(tmp_path_factory.mktemp("told"), task(PRIVATE), clients=3)


@pytest.mark.slow
def test_after_some_cuts_a_server_finds_all_that_it_had_acknowledged(
    told: Recorded, tmp_path: Path
) -> None:
    examine = Examiner(told, tmp_path / "images")
    syncs = told.cut_everywhere(
        tmp_path / "replay", lambda cut: None if cut.number % 24 else examine(cut)
    )
    assert syncs > 120 and examine.images > 8


@pytest.mark.slow
@pytest.mark.parametrize("left_out", [Sync, SyncFolder])
def test_a_server_that_leaves_out_a_kind_of_sync_is_found_out(
    told: Recorded, tmp_path: Path, left_out: type
) -> None:
    events = [event for event in told.log.events if not isinstance(event, left_out)]
    careless = replace(told, log=replace(told.log, events=events))
    with pytest.raises((AssertionError, FedcoreError)):
        careless.cut_everywhere(tmp_path / "replay", Examiner(careless, tmp_path / "images"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_after_up_to_two_hundred_cuts_a_server_finds_all_that_it_had_acknowledged(
    tmp_path: Path,
) -> None:
    told = recorded(tmp_path / "told", task(PRIVATE, clients=5, rounds=3), clients=5)
    syncs = told.cut_everywhere(tmp_path / "count", lambda cut: None)
    assert syncs > 100  # how many there are depends on how many writes share a commit
    chosen = set(random.Random(1).sample(range(1, syncs + 1), min(200, syncs)))
    examine = Examiner(told, tmp_path / "images")
    told.cut_everywhere(
        tmp_path / "replay", lambda cut: examine(cut) if cut.number in chosen else None
    )
    assert examine.images == 2 * len(chosen)


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.timeout(0)
@pytest.mark.parametrize("privacy", ["", PRIVATE, SHARED, SAMPLED], ids=_NAMES)
def test_after_any_cut_a_server_finds_all_that_it_had_acknowledged(
    tmp_path: Path, privacy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    clients, minimum, secure = (40, 1, "") if privacy is SAMPLED else (5, 5, MASKED)
    rounds = 4 if privacy else 5  # of three a fast machine made 168 syncs: more writes share one
    whole = task_of(clients=clients, minimum=minimum, secure=secure, privacy=privacy, rounds=rounds)
    told = recorded(tmp_path / "told", whole, clients=clients)
    examine = Examiner(told, tmp_path / "images")
    syncs = told.cut_everywhere(tmp_path / "replay", examine)
    with capsys.disabled():
        print(f"\n{syncs} cuts, {examine.images} disks", flush=True)
    assert syncs > 200 and examine.images == 2 * syncs
