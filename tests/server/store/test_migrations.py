"""The schema's history leads to what the program expects, there and back, on filled tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedcore.errors import SchemaError, StoreError
from fedserver.store import migrating
from fedserver.store.audit import verify
from fedserver.store.records import (
    AuditEntry,
    Idempotency,
    OutboxMessage,
    RoundRef,
    TaskState,
    TokenRecord,
)
from fedserver.store.schema import metadata
from fedserver.store.sealing import Sealer
from fedserver.store.sqlite import SqliteStore
from tests.server.store.conftest import KEY, FakeClock, Ground
from tests.server.store.story import a_round

REF = RoundRef("task-1", 2, 1)
ASKED = Idempotency("user:ada", "CreateToken", bytes(16), bytes(32), b"the answer")


def rows_of(ground: Ground) -> dict[str, list[tuple[object, ...]]]:
    """Everything that the tables hold."""
    return {
        name: sorted(ground.execute(f"SELECT * FROM {name}"), key=repr)
        for name in sorted(ground.tables() - {"alembic_version"})
    }


@pytest.fixture
async def newest(world) -> Ground:
    """A database that was in use: every table has rows, of a round that is over and an open one."""
    store = world.store
    await a_round(world)
    ref = await world.round(world.digest("second"), 2)
    first, second = world.client_id(0), world.client_id(1)
    part = world.assignment(ref, first)
    after = OutboxMessage("scrub", f"{ref}".encode())
    await world.go(ref, "COLLECTING", assignments=(part,), outbox=(after,))
    await store.begin_upload(part.assignment_id, b"u", size=1)
    await store.put_session(ref, {"a": b"secret"})
    await store.check_in(second, bytes(16), wanted="", task_id="task-1", offer={"datasets": ["d"]})
    [certificate] = await store.certificates(second)
    await store.revoke_certificate(certificate.fingerprint, reason="lost")
    await store.create_token(
        TokenRecord(world.digest("other"), "acme", 2, world.clock.now + 1000, {"site": "b"}),
        audit=AuditEntry("user:ada", "token.create", "other"),
        idempotency=ASKED,
    )
    await store.node_heartbeat("here:1", version="0.1.0", draining=False)
    await store.bar_client("task-1", second, reason="bad shares", lease_token=world.held)
    await store.close()
    return world.ground


@pytest.fixture
def filled(newest: Ground) -> Ground:
    """The same, as if the first program had opened the round: without keys and barred clients."""
    sealed = Sealer([KEY]).seal(b"secret", "session_record", f"{REF}/a", "value")
    newest.execute("DELETE FROM attempt_key")
    newest.execute("DELETE FROM barred_client")
    newest.execute("UPDATE session_record SET value = ?", sealed)
    return newest


def test_the_database_that_is_migrated_has_rows_in_every_table(newest: Ground) -> None:
    assert {name for name, rows in rows_of(newest).items() if not rows} == set()


async def test_what_was_there_before_is_there_after_the_way_back_and_forth(filled: Ground) -> None:
    migrating.downgrade(filled.database, migrating.known()[0])
    migrating.upgrade(filled.database)
    store = await filled.open(keys=[KEY], clock=FakeClock())
    assert await store.integrity() == ()
    audit = await store.audit_entries()
    assert audit and verify(audit) == await store.audit_head()
    done, open_ = RoundRef("task-1", 1, 1), await store.round(REF)
    assert (await store.metrics(done)).keys() == {"loss"}
    assert [event.to_phase for event in await store.round_events(done)][-1] == "COMPLETED"
    assert open_ is not None and open_.phase == "COLLECTING"
    assert [upload.upload_id for upload in await store.uploads(REF)] == [b"u"]
    assert await store.recall(ASKED) is not None
    assert [len(model.digest) for model in await store.models("task-1")] == [32, 32]
    assert [node.version for node in await store.nodes()] == ["0.1.0"]
    assert len(await store.revoked_fingerprints()) == len(await store.waiting("task-1")) == 1
    assert [entry.topic for entry in await store.outbox_pending()] == ["scrub"]
    await store.set_task_state("task-1", TaskState.CANCELLED, reason="the end")  # life goes on
    await store.close()


def test_the_steps_make_exactly_the_tables_that_the_program_expects(ground: Ground) -> None:
    migrating.upgrade(ground.database)
    migrating.check(ground.database)
    assert set(rows_of(ground)) == set(metadata.tables)
    assert migrating.known()[-1] == migrating.HEAD


def test_a_difference_between_tables_and_program_is_noticed(ground: Ground) -> None:
    migrating.upgrade(ground.database)
    ground.execute("DROP INDEX ix_round_phase")
    with pytest.raises(SchemaError):
        migrating.check(ground.database)


def test_a_filled_database_goes_back_a_step_and_forward_again_unchanged(filled: Ground) -> None:
    before, objects = rows_of(filled), filled.objects()
    assert before["round_event"] and before["upload"] and before["session_record"]
    for step in migrating.known()[-2::-1]:
        migrating.downgrade(filled.database, step)
        left = rows_of(filled)
        assert left.keys() >= before.keys() - {"attempt_key", "barred_client"}
        assert all(before.get(name, []) == rows for name, rows in left.items())
    migrating.upgrade(filled.database)
    assert rows_of(filled) == before
    assert filled.objects() == objects


async def test_a_round_that_an_older_program_opened_goes_on_after_the_upgrade(
    filled: Ground,
) -> None:
    migrating.downgrade(filled.database, "0002")
    migrating.upgrade(filled.database)
    store = await filled.open(keys=[KEY], clock=None)
    assert await store.session(REF) == {"a": b"secret"}
    assert await store.upload_key(REF) is None
    await store.put_session(REF, {"b": b"more"})
    assert await store.session(REF) == {"a": b"secret", "b": b"more"}
    await store.close()


@pytest.mark.parametrize("left", ["upload", "session_record"])
def test_no_way_leads_back_while_an_attempt_needs_its_key(newest: Ground, left: str) -> None:
    (other,) = {"upload", "session_record"} - {left}
    newest.execute(f"DELETE FROM {other}")
    before = rows_of(newest)
    with pytest.raises(SchemaError, match="middle of a round"):
        migrating.downgrade(newest.database, "0002")
    assert rows_of(newest) == before
    newest.execute(f"DELETE FROM {left}")
    migrating.downgrade(newest.database, "0002")


def test_all_the_way_back_nothing_is_left_and_a_new_start_is_like_the_first(filled: Ground) -> None:
    objects = filled.objects()
    migrating.downgrade(filled.database, "base")
    assert filled.tables() == {"alembic_version"}
    assert set(filled.objects()) <= {"alembic_version"}
    migrating.upgrade(filled.database)
    assert filled.objects() == objects


@pytest.mark.parametrize("version", ["9999", "0001"])
async def test_a_database_of_another_schema_is_refused_with_the_way_out(
    filled: Ground, version: str
) -> None:
    filled.execute("UPDATE alembic_version SET version_num = ?", version)
    before = rows_of(filled)
    with pytest.raises(SchemaError, match=version) as caught:
        await filled.open(keys=[bytes(32)], clock=None)
    is_file = isinstance(filled.database, Path)
    where = f"--database {filled.database}" if is_file else "--config"
    command = f"fed db upgrade {where}"
    assert (command in caught.value.fix) == (version in migrating.known())
    assert rows_of(filled) == before


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "server.db"
    path.write_bytes(b"this is a text" * 1000)
    with pytest.raises(StoreError):
        await SqliteStore.open(path, keys=[bytes(32)])


async def test_a_database_that_was_never_finished_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "server.db"
    path.touch()
    store = await SqliteStore.open(path, keys=[bytes(32)])
    assert (await store.statistics()).schema == migrating.HEAD
    await store.close()


async def test_one_database_serves_one_process(tmp_path: Path) -> None:
    path = tmp_path / "server.db"
    store = await SqliteStore.open(path, keys=[bytes(32)])
    with pytest.raises(StoreError, match="in use"):
        await SqliteStore.open(path, keys=[bytes(32)])
    await store.close()
    again = await SqliteStore.open(path, keys=[bytes(32)])
    await again.close()
