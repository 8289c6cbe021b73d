"""A store that fails says so with a code, has changed nothing, and then goes on or refuses to (R6).

The whole contract suite runs over such a store too, as the slow implementation `failing`.
"""

from __future__ import annotations

import ast
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from fedcore.errors import StoreError
from fedserver.store.records import AuditEntry
from fedserver.store.sqlite import SqliteStore
from tests.server.databases import empty_database
from tests.server.store.conftest import KEY, FakeClock, World
from tests.server.store.failing import FAULTS, METHODS, FailingStore, Faults, digest_of
from tests.server.store.story import a_round

WITHOUT_STATEMENTS = {"now_ms", "size"}


def test_every_method_is_asked_for_something_by_the_contract_suite() -> None:
    asked = {
        node.func.attr
        for path in Path(__file__).parent.glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    assert not METHODS - asked, "these never fail: a test of the contract has to call them"


def has_no_room(database: Path, *, free: int) -> None:
    """Makes a database on a disk of its own with so many bytes left; what is raised says so."""
    script = f"""
import os, sys
from pathlib import Path
from fedcore.errors import StoreError
from fedserver.disk import MAKE_ROOM
from fedserver.store.migrating import prepare, upgrade
folder = Path({str(database.parent)!r})
disk = os.statvfs(folder)
filling = folder / "filling"
filling.write_bytes(bytes(disk.f_bavail * disk.f_frsize - {free}))
try:
    prepare(folder / {database.name!r})
except StoreError as error:
    assert error.fix == MAKE_ROOM, (error.what, error.why, error.fix)
else:
    raise AssertionError("there was room")
filling.unlink()
prepare(folder / {database.name!r})  # what was left behind does not keep anybody from it
"""
    disk = f"mount -t tmpfs -o size=4m none {database.parent}"
    words = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*words, disk], check=False).returncode:
        pytest.skip("this machine lets nobody mount a disk of his own")
    tried = subprocess.run(
        [*words, f'{disk} && exec "$0" -c "$1"', sys.executable, script],
        capture_output=True,
        text=True,
        check=False,
    )
    assert tried.returncode == 0, tried.stderr


@pytest.mark.parametrize("free", [0, 4096, 8192, 20480, 40960])
def test_a_first_start_on_a_full_disk_says_to_make_room(tmp_path: Path, free: int) -> None:
    has_no_room(tmp_path / "server.db", free=free)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "server.db"
    path.write_bytes(empty_database())
    return path


async def test_a_round_whose_every_call_fails_first_ends_like_any_other(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()

    async def opened() -> SqliteStore:
        return await SqliteStore.open(database, keys=[KEY], clock=clock)

    faults = Faults(set(), faults=FAULTS[2::2])  # all of them in the slow suite
    faults.watch(monkeypatch)
    store = FailingStore(await opened(), database, faults, opened)
    await a_round(World(store, clock, opened))  # type: ignore[arg-type]
    assert (await store.task("task-1")).rounds_completed == 1
    assert await store.integrity() == ()
    await store.close()
    failed = {method for method, *_ in faults.tried}
    assert len(failed) > 12
    for method in failed:
        ways = {name for tried, _, _, name in faults.tried if tried == method}
        assert ways == {fault.name for fault in faults.faults}


async def test_a_store_that_cannot_be_opened_says_so_and_can_be_opened_afterwards(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults, failures = Faults(set()), 0
    faults.watch(monkeypatch)
    before = ""
    while True:
        faults.arm("open")
        try:
            store = await SqliteStore.open(database, keys=[KEY])
            break
        except StoreError as error:
            assert error.code.startswith("FED-2")
            failures += 1
        finally:
            faults.method = ""
        assert before in ("", digest_of(database))
        before = digest_of(database)
    assert failures > 5 * len(FAULTS)
    await store.append_audit(AuditEntry("somebody", "goes.on", ""))
    await store.close()


async def test_a_store_that_cannot_be_closed_well_lets_go_and_has_lost_nothing(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults, failed, entries = Faults(set()), True, 0
    faults.watch(monkeypatch)
    while failed:
        store = await SqliteStore.open(database, keys=[KEY])
        await store.append_audit(AuditEntry("somebody", "acts", ""))
        entries += 1
        before = digest_of(database)
        faults.arm("close")
        try:
            await store.close()
            failed = False
        except StoreError:
            pass
        finally:
            faults.method = ""
        assert digest_of(database) == before
    store = await SqliteStore.open(database, keys=[KEY])
    assert (await store.audit_head()).sequence == entries > len(FAULTS)
    await store.close()


def test_sqlites_own_errors_are_those_that_are_played() -> None:
    """Of a database that is really full, and of one that is really locked."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("PRAGMA max_page_count = 2")
    with pytest.raises(sqlite3.OperationalError) as full:
        for number in range(100):
            connection.execute(f"CREATE TABLE t{number} (x)")
    connection.close()
    assert full.value.sqlite_errorcode == sqlite3.SQLITE_FULL
    assert str(full.value) in {fault.name for fault in FAULTS}
