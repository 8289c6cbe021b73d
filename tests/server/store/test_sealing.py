"""What is sealed opens with a key of the list, in its place, unchanged; and in no other way."""

from __future__ import annotations

import contextlib
import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from fedcore.errors import ArgumentError, StoreError
from fedserver.store import backup
from fedserver.store.backup import back_up
from fedserver.store.records import RoundRef
from fedserver.store.sealing import Sealer, derived_key
from fedserver.store.sqlite import store as sqlite_store
from tests.server.store.conftest import KEY, sqlite_only

PLACE = ("session_record", "task/1/1/share/3", "value")
OLD, NEW = bytes(32), bytes([1]) * 32


@given(st.binary(max_size=200), st.lists(st.binary(min_size=32, max_size=32), max_size=3))
def test_every_key_of_the_list_opens_what_it_sealed(plain: bytes, others: list[bytes]) -> None:
    sealed = Sealer([OLD]).seal(plain, *PLACE)
    assert Sealer([*others, OLD]).open(sealed, *PLACE) == plain


def test_the_first_key_seals() -> None:
    sealed = Sealer([NEW, OLD]).seal(b"share", *PLACE)
    assert Sealer([NEW]).open(sealed, *PLACE) == b"share"
    with pytest.raises(StoreError, match="not in the list"):
        Sealer([OLD]).open(sealed, *PLACE)


@given(st.data())
def test_any_changed_bit_and_any_other_place_is_noticed(data: st.DataObject) -> None:
    sealed = bytearray(Sealer([OLD]).seal(b"share", *PLACE))
    bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(StoreError):
        Sealer([OLD]).open(bytes(sealed), *PLACE)


@pytest.mark.parametrize("part", range(3))
def test_a_value_cannot_be_moved(part: int) -> None:
    place = [*PLACE]
    place[part] += "x"
    with pytest.raises(StoreError, match="moved"):
        Sealer([OLD]).open(Sealer([OLD]).seal(b"share", *PLACE), *place)


def test_parts_of_a_place_do_not_run_into_each_other() -> None:
    sealed = Sealer([OLD]).seal(b"share", "ab", "c", "d")
    with pytest.raises(StoreError):
        Sealer([OLD]).open(sealed, "a", "bc", "d")


@given(st.binary(max_size=40))
def test_bytes_that_were_never_sealed_are_refused(text: bytes) -> None:
    with pytest.raises(StoreError):
        Sealer([OLD]).open(text, *PLACE)


def test_keys_must_be_keys() -> None:
    for keys in ([], [b"short"], [OLD, b""]):
        with pytest.raises(ArgumentError):
            Sealer(keys)


@sqlite_only
async def test_the_database_shows_nothing_of_a_session_or_of_an_answer(world, tmp_path) -> None:
    ref = await world.round(await world.task())
    secret = b"a share that nobody may read"
    await world.store.put_session(ref, {"share/1": secret})
    await world.store.checkpoint()
    files = [path.read_bytes() for path in tmp_path.iterdir() if path.is_file()]
    assert any(b"share/1" in data for data in files)
    assert not any(secret in data for data in files)
    assert await world.store.session(ref) == {"share/1": secret}


async def test_without_its_key_a_session_is_unreadable_and_the_rest_is_there(world) -> None:
    ref = await world.round(await world.task())
    await world.store.put_session(ref, {"share/1": b"secret"})
    await world.store.close()
    stranger = await world.ground.open(keys=[NEW], clock=None)
    assert (await stranger.round(ref)).phase == "SELECTING"
    with pytest.raises(StoreError, match="not in the list"):
        await stranger.session(ref)
    await stranger.close()


async def test_records_of_two_rounds_cannot_be_exchanged(world) -> None:
    ref = await world.round(await world.task())
    await world.store.put_session(ref, {"a": b"1", "b": b"2"})
    await world.store.close()
    world.ground.execute(
        "UPDATE session_record SET value ="
        " (SELECT value FROM session_record WHERE name = 'b') WHERE name = 'a'"
    )
    with pytest.raises(StoreError, match="moved"):
        await (await world.reopen()).session(ref)


def column(path: Path, table: str) -> list[bytes]:
    """What a table has sealed."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute(f"SELECT value FROM {table}")]


def holds(folder: Path, wanted: bytes) -> bool:
    """Whether any file of the database has these bytes."""
    return any(wanted in path.read_bytes() for path in folder.iterdir() if path.is_file())


async def test_an_attempt_is_sealed_under_a_key_of_its_own_which_a_restart_finds(world) -> None:
    ref = await world.round(await world.task())
    await world.store.put_session(ref, {"share/1": b"secret"})
    uploads = await world.store.upload_key(ref)
    ((record,),) = world.ground.execute("SELECT value FROM session_record")
    with pytest.raises(StoreError, match="not in the list"):
        Sealer([KEY]).open(record, "session_record", f"{ref}/share/1", "value")
    await world.reopen()
    assert await world.store.session(ref) == {"share/1": b"secret"}
    assert await world.store.upload_key(ref) == uploads
    await world.go(ref, "ABANDONED")
    other = await world.round((await world.store.head("task-1")).digest, attempt=2)
    assert await world.store.upload_key(other) not in (uploads, None)


async def test_what_is_scrubbed_is_in_no_row_any_more(world) -> None:
    ref = await world.round(await world.task())
    await world.store.put_session(ref, {"share/1": b"secret"})
    await world.go(ref, "ABANDONED")
    await world.store.scrub_round(ref)
    for table in ("session_record", "attempt_key"):
        assert world.ground.execute(f"SELECT * FROM {table}") == []
    assert await world.store.upload_key(ref) is None


@sqlite_only
async def test_what_was_kept_aside_opens_until_its_attempt_is_scrubbed(world, tmp_path) -> None:
    ref = await world.round(await world.task())
    await world.store.put_session(ref, {"share/1": b"secret"})
    path = tmp_path / "server.db"
    (record,), (key,) = column(path, "session_record"), column(path, "attempt_key")
    place = ("session_record", f"{ref}/share/1", "value")
    # The key is all that is needed, and it is there:
    opened = Sealer([KEY]).open(key, "attempt_key", str(ref), "value")
    assert Sealer([opened]).open(record, *place) == b"secret"
    assert derived_key(opened, b"spool") == await world.store.upload_key(ref)
    assert holds(tmp_path, key)
    await world.go(ref, "ABANDONED")
    await world.store.scrub_round(ref)
    assert not holds(tmp_path, key) and not holds(tmp_path, record)
    assert await world.store.upload_key(ref) is None
    with pytest.raises(StoreError):
        Sealer([KEY]).open(record, *place)
    await world.reopen()
    assert not holds(tmp_path, key) and not holds(tmp_path, record)


@sqlite_only
async def test_a_scrub_waits_for_whoever_reads_the_log_and_is_repeated(
    world, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(sqlite_store, "_BUSY_S", 0.0)
    ref = await world.round(await world.task())
    (key,) = column(tmp_path / "server.db", "attempt_key")
    await world.go(ref, "ABANDONED")
    with contextlib.closing(sqlite3.connect(tmp_path / "server.db")) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT * FROM round").fetchall()
        with pytest.raises(StoreError, match="reading the database"):
            await world.store.scrub_round(ref)
        assert holds(tmp_path, key)
    assert await world.store.scrub_round(ref) == ()
    assert not holds(tmp_path, key)


@sqlite_only
async def test_nothing_of_a_key_is_left_whatever_else_comes_and_goes(world, tmp_path) -> None:
    chance, base = random.Random(1), await world.task()
    for number in range(2, 31):
        task, model = world.new_task(f"task-{number}")
        await world.store.add_task(task, model)
    forgotten: list[bytes] = []
    opened = {}
    for number in range(90):
        task_id = f"task-{chance.randrange(30) + 1}"
        lease = await world.store.acquire_lease(task_id, "driver", 60_000)
        world.lease = lease
        if (ref := opened.pop(task_id, None)) is None:
            ref = opened[task_id] = RoundRef(task_id, number, 1)
            before = set(column(tmp_path / "server.db", "attempt_key"))
            await world.store.open_round(
                ref,
                phase="SELECTING",
                state={},
                base_model=base,
                deadline_ms=0,
                lease_token=lease.token,
            )
            await world.store.put_session(ref, {"a": bytes(chance.randrange(3000))})
            assert len(set(column(tmp_path / "server.db", "attempt_key")) - before) == 1
            continue
        before = set(column(tmp_path / "server.db", "attempt_key"))
        await world.go(ref, "ABANDONED")
        await world.store.scrub_round(ref)
        forgotten += before - set(column(tmp_path / "server.db", "attempt_key"))
        assert not any(holds(tmp_path, key) for key in forgotten)
    assert len(forgotten) > 20


@sqlite_only
async def test_a_backup_never_holds_the_key_of_an_attempt(world, tmp_path) -> None:
    ref = await world.round(await world.task())
    await world.store.put_session(ref, {"share/1": b"secret"})
    (key,) = column(tmp_path / "server.db", "attempt_key")
    (tmp_path / "elsewhere").mkdir()
    back_up(tmp_path / "server.db", tmp_path / "elsewhere" / "monday.db")
    assert column(tmp_path / "elsewhere" / "monday.db", "session_record")
    assert not holds(tmp_path / "elsewhere", key)
    assert await world.store.session(ref) == {"share/1": b"secret"}


@sqlite_only
async def test_a_backup_that_is_killed_or_fails_leaves_no_key(world, tmp_path, monkeypatch) -> None:
    """After each statement the folder is looked at, as a kill would leave it."""
    await world.round(await world.task())
    (key,) = column(tmp_path / "server.db", "attempt_key")
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    sizes = set()

    class Full(sqlite3.Connection):
        """A copy on a disk that has no room for an end."""

        def execute(self, sql: str, *values: object) -> sqlite3.Cursor:
            done = super().execute(sql, *values)
            assert not holds(folder, key)
            sizes.add(sum(path.stat().st_size for path in folder.iterdir()))
            if sql == "COMMIT":
                raise sqlite3.OperationalError("database or disk is full")
            return done

    def full(path: Path) -> sqlite3.Connection:
        return sqlite3.connect(path, isolation_level=None, factory=Full)

    monkeypatch.setattr(backup, "_fresh", full)
    with pytest.raises(StoreError, match="full"):
        back_up(tmp_path / "server.db", folder / "monday.db")
    assert list(folder.iterdir()) == [] and max(sizes) > 0


@sqlite_only
async def test_a_backup_has_every_other_row_and_all_of_the_schema(world, tmp_path) -> None:
    ref = await world.round(await world.task())
    await world.store.put_session(ref, {"share/1": b"secret"})
    back_up(tmp_path / "server.db", tmp_path / "monday.db")
    found = [dumped(tmp_path / name) for name in ("server.db", "monday.db")]
    assert found[0].pop("attempt_key") and not found[1].pop("attempt_key")
    assert found[0] == found[1] and len(found[0]["audit_log"]) > 0


def dumped(path: Path) -> dict[str, list[Any]]:
    """The rows of every table, and under "" what was said to make tables, indexes and triggers."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        made = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
        tables = [name for kind, name, *_ in made if kind == "table"]
        rows = {name: connection.execute(f'SELECT * FROM "{name}"').fetchall() for name in tables}
    return {"": sorted(made, key=repr)} | {name: sorted(r, key=repr) for name, r in rows.items()}


@sqlite_only
async def test_what_is_scrubbed_is_overwritten_in_the_file(world, tmp_path) -> None:
    ref = await world.round(await world.task())
    await world.store.put_session(ref, {"share/very-recognisable": b"secret" * 100})
    await world.go(ref, "ABANDONED")
    await world.store.scrub_round(ref)
    await world.store.checkpoint()
    for path in tmp_path.iterdir():
        assert b"very-recognisable" not in path.read_bytes()
