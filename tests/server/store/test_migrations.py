"""The schema's history leads to what the program expects, there and back, on filled tables."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from fedcore.errors import SchemaError, StoreError
from fedserver.store import migrating
from fedserver.store.records import RoundRef
from fedserver.store.schema import metadata
from fedserver.store.sealing import Sealer
from fedserver.store.sqlite import SqliteStore
from tests.server.store.conftest import KEY

REF = RoundRef("task-1", 1, 1)


def rows_of(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Everything that the tables hold."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        names = [
            row[0]
            for row in connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name != 'alembic_version'"
            )
        ]
        return {
            name: sorted(connection.execute(f"SELECT * FROM {name}").fetchall(), key=repr)
            for name in sorted(names)
        }


def objects_of(path: Path) -> dict[str, str]:
    """Every table, index and trigger, by name."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
        return dict(found.fetchall())


@pytest.fixture
async def newest(world, tmp_path: Path) -> Path:
    """A database with an open round, its clients, uploads, events and audit entries."""
    clients = await world.clients(3)
    ref = await world.round(await world.task())
    part = await world.part(ref, clients[0])
    await world.store.begin_upload(part, b"u", size=1)
    await world.store.put_session(ref, {"a": b"secret"})
    await world.store.close()
    return tmp_path / "server.db"


@pytest.fixture
def filled(newest: Path) -> Path:
    """The same, as if the first program had opened the round: it has no key of its own."""
    sealed = Sealer([KEY]).seal(b"secret", "session_record", f"{REF}/a", "value")
    with contextlib.closing(sqlite3.connect(newest)) as connection, connection:
        connection.execute("DELETE FROM attempt_key")
        connection.execute("UPDATE session_record SET value = ?", (sealed,))
    return newest


def test_the_steps_make_exactly_the_tables_that_the_program_expects(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    migrating.upgrade(path)
    migrating.check(path)
    assert set(rows_of(path)) == set(metadata.tables)
    assert migrating.known()[-1] == migrating.HEAD


def test_a_difference_between_tables_and_program_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    migrating.upgrade(path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP INDEX ix_round_phase")
    with pytest.raises(SchemaError):
        migrating.check(path)


def test_a_filled_database_goes_back_a_step_and_forward_again_unchanged(filled: Path) -> None:
    before, objects = rows_of(filled), objects_of(filled)
    assert before["round_event"] and before["upload"] and before["session_record"]
    for step in migrating.known()[-2::-1]:
        migrating.downgrade(filled, step)
        left = rows_of(filled)
        assert left.keys() >= before.keys() - {"attempt_key"}
        assert all(before.get(name, []) == rows for name, rows in left.items())
    migrating.upgrade(filled)
    assert rows_of(filled) == before
    assert objects_of(filled) == objects


async def test_a_round_that_an_older_program_opened_goes_on_after_the_upgrade(filled: Path) -> None:
    migrating.downgrade(filled, "0002")
    migrating.upgrade(filled)
    store = await SqliteStore.open(filled, keys=[KEY])
    assert await store.session(REF) == {"a": b"secret"}
    assert await store.upload_key(REF) is None
    await store.put_session(REF, {"b": b"more"})
    assert await store.session(REF) == {"a": b"secret", "b": b"more"}
    await store.close()


@pytest.mark.parametrize("left", ["upload", "session_record"])
def test_no_way_leads_back_while_an_attempt_needs_its_key(newest: Path, left: str) -> None:
    (other,) = {"upload", "session_record"} - {left}
    with contextlib.closing(sqlite3.connect(newest)) as connection, connection:
        connection.execute(f"DELETE FROM {other}")
    before = rows_of(newest)
    with pytest.raises(SchemaError, match="middle of a round"):
        migrating.downgrade(newest, "0002")
    assert rows_of(newest) == before
    with contextlib.closing(sqlite3.connect(newest)) as connection, connection:
        connection.execute(f"DELETE FROM {left}")
    migrating.downgrade(newest, "0002")


def test_all_the_way_back_nothing_is_left_and_a_new_start_is_like_the_first(filled: Path) -> None:
    objects = objects_of(filled)
    migrating.downgrade(filled, "base")
    assert set(objects_of(filled)) == {"alembic_version"}
    migrating.upgrade(filled)
    assert objects_of(filled) == objects


@pytest.mark.parametrize("version", ["9999", "0001"])
async def test_a_database_of_another_schema_is_refused_with_the_way_out(
    filled: Path, version: str
) -> None:
    with contextlib.closing(sqlite3.connect(filled)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (version,))
    before = rows_of(filled)
    with pytest.raises(SchemaError, match=version) as caught:
        await SqliteStore.open(filled, keys=[bytes(32)])
    command = f"fed db upgrade --database {filled}"
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
