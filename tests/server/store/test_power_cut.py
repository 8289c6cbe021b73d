"""A power cut at any sync takes no acknowledged act, and would, if commits were not synced (F1)."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

import fedserver.store.sqlite.store as opening
from fedserver.store.audit import verify
from fedserver.store.connection import writing
from fedserver.store.protocol import Store
from fedserver.store.records import AssignmentState, AuditEntry, ModelRecord, Transition
from fedserver.store.sqlite import SqliteStore
from tests.server.store.conftest import sqlite_only
from tests.server.store.power import replay

pytestmark = sqlite_only

KEYS = [bytes(range(32))]


async def a_round(world) -> None:
    """A round from its clients' enrolment to its end, with a checkpoint on the way."""
    store: Store = world.store
    clients = await world.clients(2)
    base = await world.task()
    ref = await world.round(base)
    parts = [world.assignment(ref, client) for client in clients]
    await world.go(ref, "COLLECTING", assignments=parts, session={"set/1": b"members"})
    await store.checkpoint()
    for number, part in enumerate(parts):
        upload = bytes([number])
        await store.begin_upload(part.assignment_id, upload, size=10)
        audit = AuditEntry("client", "upload.seal", str(number))
        await store.seal_upload(upload, world.digest(str(number)), audit=audit)
    await world.go(ref, "AGGREGATING")
    await store.complete_round(
        ref,
        Transition("AGGREGATING", "COMPLETED", 3),
        state={},
        lease_token=world.held,
        model=ModelRecord(world.digest("second"), "task-1", base, 1, 100),
        expected_parent=base,
        metrics={},
    )
    await store.checkpoint()
    await store.scrub_round(ref, audit=AuditEntry("driver", "round.scrub", str(ref)))


@pytest.fixture
async def recorded(world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sequence[str]:
    """What the writer executed for a round; the empty database stands in `empty.db`."""
    await world.store.close()
    shutil.copyfile(tmp_path / "server.db", tmp_path / "empty.db")
    statements: list[str] = []

    def watched(path: Path):  # type: ignore[no-untyped-def]
        statements.extend(pragmas)
        connection = writing(path)
        connection.set_trace_callback(statements.append)
        return connection

    pragmas = ["PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "PRAGMA secure_delete=ON"]
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
