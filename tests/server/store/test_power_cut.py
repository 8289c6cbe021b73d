"""A power cut at any sync takes no acknowledged act, and would, if commits were not synced (F1)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import fedserver.store.connection as opening_connections
import fedserver.store.sqlite.store as opening
from fedserver.store import migrating
from fedserver.store.audit import verify
from fedserver.store.connection import writing
from fedserver.store.records import AssignmentState
from fedserver.store.sqlite import SqliteStore
from tests.server.store.conftest import Ground, SqliteGround, sqlite_only
from tests.server.store.failing import FailingStore
from tests.server.store.power import replay
from tests.server.store.story import a_round
from tests.server.store.test_migrations import rows_of

pytestmark = sqlite_only

KEYS = [bytes(range(32))]
PRAGMAS = ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "PRAGMA secure_delete=ON")


@pytest.fixture
async def recorded(world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sequence[str]:
    """What the writer executed for a round; the empty database stands in `empty.db`."""
    if isinstance(world.store, FailingStore):
        pytest.skip("what is recorded are the acts of a store that works")
    await world.store.close()
    shutil.copyfile(tmp_path / "server.db", tmp_path / "empty.db")
    statements: list[str] = []

    def watched(path: Path):  # type: ignore[no-untyped-def]
        statements.extend(PRAGMAS)
        connection = writing(path)
        connection.set_trace_callback(statements.append)
        return connection

    monkeypatch.setattr(opening, "writing", watched)
    await world.reopen()
    await a_round(world)
    await world.store.close()
    return statements


def acknowledged(statements: Sequence[str], commits: int) -> int:
    """How many audit entries stand in the first `commits` transactions."""
    entries = 0
    for statement in statements:
        if not commits:
            break
        commits -= statement == "COMMIT"
        entries += statement.startswith("INSERT INTO audit_log")
    return entries


async def found_after(folder: Path) -> int:
    """Opens what the cut left with the real server; gives how far its audit log goes."""
    store = await SqliteStore.open(folder / "server.db", keys=KEYS)
    try:
        assert await store.integrity() == ()
        head = await store.audit_head()
        assert verify(await store.audit_entries()) == head
        for task in await store.tasks():
            line = await store.models(task.task_id)
            assert len(line) == task.rounds_completed + 1
            assert (await store.head(task.task_id)).digest == line[-1].digest
            for round in (await store.rounds(task.task_id)).rounds:
                events = await store.round_events(round.ref)
                assert [event.sequence for event in events] == list(range(round.sequence + 1))
                assert events[-1].to_phase == round.phase
                parts = await store.assignments(round.ref)
                over = round.phase == "COMPLETED"
                wanted = AssignmentState.COMPLETED if over else AssignmentState.ACTIVE
                assert {part.state for part in parts} <= {wanted}
        return head.sequence
    finally:
        await store.close()


async def lost(
    statements: Sequence[str], folder: Path, cut_at: int, *, synchronous: str
) -> tuple[int, bool]:
    """How many acknowledged entries a cut at that sync takes, and whether there was a cut."""
    disk = folder / f"{synchronous}-{cut_at}"
    disk.mkdir()
    database = disk / "server.db"
    shutil.copyfile(folder / "empty.db", database)
    vfs, commits = replay(statements, database, cut_at=cut_at, synchronous=synchronous)
    image = disk / "image"
    vfs.image(image)
    return acknowledged(statements, commits) - await found_after(image), vfs.was_cut


async def test_no_cut_at_any_sync_takes_what_was_acknowledged(recorded, tmp_path) -> None:
    cut_at, going = 1, True
    while going:
        taken, going = await lost(recorded, tmp_path, cut_at, synchronous="FULL")
        assert taken <= 0, f"the cut at sync {cut_at} takes {taken} entries"
        cut_at += 1
    assert taken == 0, "without a cut, what is there is what was acknowledged"
    assert cut_at > 15, "a round is synced at each of its commits"


async def test_without_a_sync_at_each_commit_a_cut_takes_what_was_acknowledged(
    recorded, tmp_path
) -> None:
    taken = []
    for cut_at in range(1, 6):
        taken.append((await lost(recorded, tmp_path, cut_at, synchronous="NORMAL"))[0])
    assert max(taken) > 0


def statements_of(
    database: Path, act: Callable[[Path], None], patch: pytest.MonkeyPatch
) -> Sequence[str]:
    """What is executed on connections that write."""
    statements, opened = list(PRAGMAS), opening_connections._opened

    def watched(*given):  # type: ignore[no-untyped-def]
        connection = opened(*given)
        connection.set_trace_callback(statements.append)
        return connection

    with patch.context() as patched:
        patched.setattr(opening_connections, "_opened", watched)
        act(database)
    return statements


async def test_a_cut_in_the_midst_of_a_migration_leaves_the_old_schema_or_the_new_one(
    world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = await world.round(await world.task())
    await world.go(ref, "ABANDONED")
    await world.store.scrub_round(ref)
    await world.store.close()
    kept, old = SqliteGround(tmp_path), tmp_path / "old.db"
    shutil.copyfile(kept.database, old)
    migrating.downgrade(old, "0001")
    whole = tmp_path / "whole.db"
    shutil.copyfile(old, whole)
    statements = statements_of(whole, migrating.upgrade, monkeypatch)
    cut_at, found, was_cut = 1, set(), True
    while was_cut:
        disk = tmp_path / str(cut_at)
        disk.mkdir()
        shutil.copyfile(old, disk / "server.db")
        vfs, _ = replay(statements, disk / "server.db", cut_at=cut_at)
        vfs.image(disk / "image")
        left = SqliteGround(disk / "image")
        found.add(migrating.version_at(left.database))
        migrating.upgrade(left.database)
        assert rows_of(left) == rows_of(kept)
        assert left.objects() == kept.objects()
        cut_at, was_cut = cut_at + 1, vfs.was_cut
    assert found == {"0001", migrating.HEAD}


async def test_a_cut_while_a_database_is_made_keeps_no_server_from_starting(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements = statements_of(ground.database, migrating.upgrade, monkeypatch)
    cut_at, was_cut = 1, True
    while was_cut:
        disk = tmp_path / str(cut_at)
        disk.mkdir()
        (disk / "server.db").touch()
        vfs, _ = replay(statements, disk / "server.db", cut_at=cut_at)
        vfs.image(disk / "image")
        assert await found_after(disk / "image") == 0
        cut_at, was_cut = cut_at + 1, vfs.was_cut
    assert cut_at > 3
