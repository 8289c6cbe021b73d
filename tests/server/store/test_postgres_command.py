"""`fed db` and `fed server doctor` on PostgreSQL: what they do there, and what they leave to it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest

from fedcore.cli import main
from fedserver.audit_heads import AUDIT_HEAD, AuditHeads
from fedserver.authority import Authority
from fedserver.blobs import LocalBlobStore
from fedserver.config import load
from fedserver.doctor import examine
from fedserver.key_files import AUDIT_SIGNER, DATASTORE_KEYS, PARTICIPATION_KEY, create_key
from fedserver.store import migrating
from fedserver.store.claim import claimed
from tests.postgres import Postgres
from tests.server.store.conftest import PostgresGround, World

pytestmark = pytest.mark.postgres


@pytest.fixture
def ground(postgres: Postgres, migrated: str) -> Iterator[PostgresGround]:
    made = PostgresGround(postgres, postgres.database(template=migrated))
    yield made
    made.drop()


@pytest.fixture
def fed(
    ground: PostgresGround, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, dict, str]]:
    """Runs `fed COMMAND VERB` with settings; gives the exit code, the data, and the errors."""
    Authority.create(tmp_path / "ca", trust_domain="fl.test", now=int(time.time()))
    for name in (DATASTORE_KEYS, PARTICIPATION_KEY, AUDIT_SIGNER):
        create_key(tmp_path / "ca" / name)
    (tmp_path / "state").mkdir(mode=0o700)
    config = tmp_path / "server.toml"
    config.write_text(
        f'[server]\ndatabase_url = "{ground.database.url}"\n'
        f'state_directory = "{tmp_path}/state"\nport = 0\nenrolment_port = 0\nops_port = 0\n'
        f'[authority]\ndirectory = "{tmp_path}/ca"\n[limits]\ndisk_free = 0.0\n'
    )

    def run(*words: object) -> tuple[int, dict, str]:
        arguments = [*map(str, words), "--config", str(config), "--format", "jsonl"]
        with ThreadPoolExecutor(1) as thread:
            code = thread.submit(main, arguments).result()
        out, err = capsys.readouterr()
        lines = [json.loads(line)["data"] for line in out.splitlines()]
        return code, lines[-1] if lines else {}, err

    return run


async def test_a_check_holds_schema_rows_and_audit_chain(world: World, fed, tmp_path: Path) -> None:
    digest = await world.task()
    await world.round(digest)
    blobs = LocalBlobStore(tmp_path / "state" / "blobs")
    assert await blobs.put_bytes(b"task-1 first") == digest
    code, data, _ = fed("db", "check")
    assert data["models"] == 1
    assert (code, data["holds"], data["schema"]) == (0, True, migrating.HEAD)
    assert data["audit_sequence"] == (await world.store.audit_head()).sequence
    world.ground.execute("ALTER TABLE audit_log DISABLE TRIGGER USER")
    world.ground.execute("UPDATE audit_log SET actor = 'mallory'")
    world.ground.execute("ALTER TABLE assignment DROP COLUMN reason")
    code, data, _ = fed("db", "check")
    assert (code, len(data["problems"])) == (1, 2)


async def test_an_upgrade_waits_for_no_server_and_is_refused_beside_one(ground, fed) -> None:
    migrating.downgrade(ground.database, "0001")
    with claimed(ground.database):
        code, _, err = fed("db", "upgrade")
        assert (code, "in use" in err) == (1, True)
    assert fed("db", "upgrade", "--dry-run")[1]["done"] is False
    assert fed("db", "upgrade")[1] == {"from": "0001", "to": migrating.HEAD, "done": True}


async def test_copies_are_left_to_postgresql_and_named(fed, tmp_path: Path) -> None:
    code, _, err = fed("db", "backup", "--output", tmp_path / "copy")
    assert (code, "pg_dump" in err, "--exclude-table-data=attempt_key" in err) == (4, True, True)
    code, _, err = fed("db", "restore", tmp_path / "copy")
    assert (code, "pg_restore" in err, "fed db epoch" in err) == (4, True, True)


async def test_an_epoch_ends_what_was_open_unless_the_database_is_older_than_what_was_signed(
    world: World, fed, tmp_path: Path
) -> None:
    ref = await world.round(await world.task())
    before = await world.store.server_identity()
    with claimed(world.ground.database):
        assert fed("db", "epoch")[0] == 1
    assert fed("db", "epoch")[1] == {"epoch": before.epoch + 1}
    found = await world.store.round(ref)
    assert found is not None and found.phase == "ABANDONED"
    signer = bytes.fromhex((tmp_path / "ca" / AUDIT_SIGNER).read_text().strip())
    await AuditHeads(world.store, tmp_path / "state" / AUDIT_HEAD, signer=signer).sign()
    world.ground.execute("ALTER TABLE audit_log DISABLE TRIGGER USER")
    world.ground.execute("DELETE FROM audit_log WHERE sequence > 1")
    code, _, err = fed("db", "epoch")
    assert (code, "accept-rollback" in err) == (1, True)
    assert fed("db", "epoch", "--accept-rollback")[1] == {"epoch": before.epoch + 2}


async def test_the_doctor_tells_what_would_lose_data(
    fed, postgres: Postgres, tmp_path: Path
) -> None:
    assert (await asyncio.to_thread(fed, "server", "doctor"))[0] == 0
    config = load(tmp_path / "server.toml")

    def said() -> dict:
        return next(asdict(one) for one in examine(config) if one.check == "database")

    assert (await asyncio.to_thread(said))["level"] == "ok"
    postgres.execute("ALTER SYSTEM SET fsync = off")
    postgres.execute("SELECT pg_reload_conf()")
    try:
        found = await asyncio.to_thread(eventually, said, "error")
        assert "fsync" in found["detail"] and "fsync" in found["fix"]
    finally:
        postgres.execute("ALTER SYSTEM RESET fsync")
        postgres.execute("SELECT pg_reload_conf()")
    await asyncio.to_thread(eventually, said, "ok")


def eventually(said: Callable[[], dict], level: str) -> dict:
    """What it says once the settings are read again."""
    for _ in range(100):
        if (found := said())["level"] == level:
            return found
    raise AssertionError(found)


async def test_a_database_that_is_not_there_is_an_error_with_a_remedy(fed, ground) -> None:
    ground.drop()
    code, _, err = await asyncio.to_thread(fed, "db", "check")
    assert (code, "server.database_url" in err) == (1, True)
    found = (await asyncio.to_thread(fed, "server", "doctor"))[1]
    assert (found["check"], found["level"]) == ("database", "error")
