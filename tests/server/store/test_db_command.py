"""`fed db` copies what is durable, and restores nothing that would hide what was done since."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedcore.cli import main
from fedserver.audit_heads import AUDIT_HEAD
from fedserver.key_files import AUDIT_SIGNER
from fedserver.store import connection, migrating
from fedserver.store.audit import sign_head
from fedserver.store.backup import manifest_path
from fedserver.store.records import AssignmentState, AuditEntry, RoundRef, UploadState
from fedserver.store.sqlite.store import SqliteStore
from tests.server.store.conftest import SqliteGround

ABANDONED = "ABANDONED"


@pytest.fixture
def ground(tmp_path: Path) -> SqliteGround:
    """These commands are about files; others are in test_postgres_command.py."""
    return SqliteGround(tmp_path)


@pytest.fixture
def fed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict, str]]:
    """Runs `fed db VERB` on the database; gives the exit code, the data, and the errors."""

    def run(verb: str, *arguments: object) -> tuple[int, dict, str]:
        database = ["--database", str(tmp_path / "server.db"), "--format", "json"]
        # A command owns its process; here the test's event loop runs in this thread.
        with ThreadPoolExecutor(1) as thread:
            code = thread.submit(main, ["db", verb, *map(str, arguments), *database]).result()
        out, err = capsys.readouterr()
        return code, json.loads(out)["data"] if out else {}, err

    return run


@pytest.fixture
async def ref(world) -> RoundRef:
    """A round in the middle, with an upload and secrets."""
    clients = await world.clients(3)
    ref = await world.round(await world.task())
    part = await world.part(ref, clients[0])
    await world.store.begin_upload(part, b"u", size=1)
    await world.store.put_session(ref, {"a": b"secret"})
    return ref


async def test_a_backup_is_made_beside_a_running_server_and_is_one_whole_file(
    world, ref, fed, tmp_path
) -> None:
    code, data, _ = fed("backup", "--output", tmp_path / "copy.db")
    assert code == 0
    head = await world.store.audit_head()
    assert (data["audit_sequence"], data["audit_hash"]) == (head.sequence, head.hash.hex())
    assert data["schema"] == migrating.HEAD
    with contextlib.closing(sqlite3.connect(tmp_path / "copy.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert connection.execute("SELECT phase FROM round").fetchall() == [("COLLECTING",)]
    assert (tmp_path / "copy.db").stat().st_mode & 0o077 == 0
    code, _, err = fed("backup", "--output", tmp_path / "copy.db")
    assert (code, "already" in err) == (4, True)


async def test_a_restore_begins_an_epoch_in_which_no_attempt_is_open(
    world, ref, fed, tmp_path
) -> None:
    before = await world.store.server_identity()
    assert fed("backup", "--output", tmp_path / "copy.db")[0] == 0
    await world.store.append_audit(AuditEntry("user:eve", "forgotten", "act"))
    code, _, err = fed("restore", tmp_path / "copy.db", "--yes")
    assert (code, "in use" in err) == (1, True)
    code, _, err = fed("restore", tmp_path / "copy.db", "--dry-run")
    assert (code, "in use" in err) == (1, True)
    await world.store.close()
    code, data, _ = fed("restore", tmp_path / "copy.db", "--yes")
    assert code == 0

    store = await world.reopen()
    now = await store.server_identity()
    assert (now.server_id, now.epoch) == (before.server_id, before.epoch + 1)
    found = await store.round(ref)
    assert (found.phase, found.deadline_ms) == (ABANDONED, None)
    assert (await store.round_events(ref))[-1].to_phase == ABANDONED
    assert await store.open_rounds() == ()
    assert await store.session(ref) == {}
    (part,) = await store.assignments(ref)
    assert part.state == AssignmentState.CANCELLED
    assert [upload.state for upload in await store.uploads(ref)] == [UploadState.ABORTED]
    entries = [record.entry.action for record in await store.audit_entries()]
    assert entries[-1] == "db.restore"
    assert "forgotten" not in entries
    assert await store.acquire_lease("task-1", "another", 1000) is not None
    with contextlib.closing(sqlite3.connect(data["before"])) as connection:
        rows = connection.execute("SELECT action FROM audit_log").fetchall()
    assert ("forgotten",) in rows


async def signed_now(world, tmp_path: Path) -> list[object]:
    """Signs the head of the log as it is; gives the options that name it."""
    signer = Ed25519PrivateKey.generate()
    identity = await world.store.server_identity()
    signed = sign_head(await world.store.audit_head(), identity.server_id, signer)
    (tmp_path / "head").write_bytes(signed)
    key = tmp_path / "keys" / "signer"
    key.parent.mkdir(mode=0o700)
    key.write_text(signer.private_bytes_raw().hex() + "\n")
    key.chmod(0o400)
    return ["--signed-head", tmp_path / "head", "--signer", key]


async def test_a_backup_that_is_older_than_what_was_signed_is_restored_only_if_that_is_accepted(
    world, ref, fed, tmp_path
) -> None:
    assert fed("backup", "--output", tmp_path / "copy.db")[0] == 0
    await world.store.append_audit(AuditEntry("user:eve", "act", "object"))
    options = await signed_now(world, tmp_path)
    await world.store.close()
    before = (tmp_path / "server.db").read_bytes()
    code, _, err = fed("restore", tmp_path / "copy.db", "--yes", *options)
    assert (code, "FED-2205" in err, "--accept-rollback" in err) == (1, True, True)
    assert (tmp_path / "server.db").read_bytes() == before
    assert fed("check", *options)[1]["holds"]
    code, _, err = fed("restore", tmp_path / "copy.db", "--yes", "--accept-rollback", *options)
    assert code == 0 and "fed server start --accept-rollback" in err
    code, data, _ = fed("check", *options)
    assert (code, data["holds"]) == (1, False)


async def test_a_backup_that_reaches_the_signed_head_is_restored(world, ref, fed, tmp_path) -> None:
    options = await signed_now(world, tmp_path)
    await world.store.append_audit(AuditEntry("user:ada", "act", "object"))
    assert fed("backup", "--output", tmp_path / "copy.db")[0] == 0
    await world.store.close()
    assert fed("restore", tmp_path / "copy.db", "--yes", *options)[0] == 0
    assert fed("check", *options)[0] == 0


async def test_a_restore_asks_first_and_a_dry_run_changes_nothing(
    world, ref, fed, tmp_path, monkeypatch
) -> None:
    assert fed("backup", "--output", tmp_path / "copy.db")[0] == 0
    await world.store.close()
    before = sorted(path.name for path in tmp_path.iterdir())
    content = (tmp_path / "server.db").read_bytes()
    assert fed("restore", tmp_path / "copy.db", "--dry-run")[0] == 0
    code, _, err = fed("restore", tmp_path / "copy.db")
    assert (code, "--yes" in err) == (4, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert (tmp_path / "server.db").read_bytes() == content


@pytest.mark.parametrize("damage", ["a bit", "the end", "its manifest"])
async def test_a_damaged_backup_is_refused_and_the_database_stays(
    world, ref, fed, tmp_path, damage
) -> None:
    copy = tmp_path / "copy.db"
    assert fed("backup", "--output", copy)[0] == 0
    await world.store.close()
    content = bytearray(copy.read_bytes())
    if damage == "a bit":
        content[len(content) // 2] ^= 1
        copy.write_bytes(content)
    elif damage == "the end":
        copy.write_bytes(content[:-4096])
    else:
        manifest_path(copy).unlink()
    before = (tmp_path / "server.db").read_bytes()
    code, _, err = fed("restore", copy, "--yes")
    assert (code, "FED-2201" in err) == (1, True)
    assert damage != "its manifest" or "copy.db.json: no such file" in err
    assert (tmp_path / "server.db").read_bytes() == before


async def test_a_backup_whose_audit_log_was_edited_is_never_restored(
    world, ref, fed, tmp_path
) -> None:
    copy = tmp_path / "copy.db"
    assert fed("backup", "--output", copy)[0] == 0
    await world.store.close()
    with contextlib.closing(sqlite3.connect(copy)) as connection, connection:
        connection.execute("DROP TRIGGER audit_log_no_update")
        connection.execute("UPDATE audit_log SET actor = 'eve' WHERE sequence = 1")
    manifest = json.loads(manifest_path(copy).read_text())
    manifest["sha256"] = hashlib.sha256(copy.read_bytes()).hexdigest()
    manifest_path(copy).write_text(json.dumps(manifest))
    for options in ((), ("--accept-rollback",)):
        code, _, err = fed("restore", copy, "--yes", *options)
        assert (code, "FED-2205" in err) == (1, True)


async def test_a_database_is_restored_where_there_is_none_any_more(
    world, ref, fed, tmp_path
) -> None:
    assert fed("backup", "--output", tmp_path / "copy.db")[0] == 0
    await world.store.close()
    (tmp_path / "server.db").unlink()
    code, data, _ = fed("restore", tmp_path / "copy.db", "--yes")
    assert (code, data["before"]) == (0, None)
    assert (await (await world.reopen()).round(ref)).phase == ABANDONED


async def killed(world, tmp_path: Path) -> bytes:
    """Leaves the database as a server that is killed does; gives what its log holds then."""
    files = [tmp_path / "server.db", tmp_path / "server.db-wal"]
    left = [file.read_bytes() for file in files]
    await world.store.close()
    for file, data in zip(files, left, strict=True):
        file.write_bytes(data)
    return left[1]


async def test_a_log_that_its_database_has_left_behind_is_not_played_into_what_is_restored(
    world, ref, fed, tmp_path
) -> None:
    assert fed("backup", "--output", tmp_path / "copy.db")[0] == 0
    await world.store.append_audit(AuditEntry("user:eve", "forgotten", "act"))
    log = await killed(world, tmp_path)
    (tmp_path / "server.db").rename(tmp_path / "damaged.db")

    code, data, _ = fed("restore", tmp_path / "copy.db", "--yes")
    assert (code, data["before"]) == (0, None)
    store = await world.reopen()
    assert (await store.server_identity()).epoch == data["epoch"]
    assert (await store.round(ref)).phase == ABANDONED
    actions = [record.entry.action for record in await store.audit_entries()]
    assert (actions[-1], "forgotten" in actions) == ("db.restore", False)
    (kept,) = tmp_path.glob("server.db.before-*-wal")
    assert kept.read_bytes() == log


async def test_a_database_that_is_being_read_is_not_set_aside_without_its_log(
    world, ref, fed, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(connection, "_WRITER_WAITS_S", 0.0)
    assert fed("backup", "--output", tmp_path / "copy.db")[0] == 0
    await world.store.append_audit(AuditEntry("user:eve", "newest", "act"))
    await killed(world, tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "server.db")) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM audit_log").fetchall()
        code, _, err = fed("restore", tmp_path / "copy.db", "--yes")
        assert (code, "is being read" in err) == (1, True)
        assert not [*tmp_path.glob("server.db.before-*"), *tmp_path.glob(".server.db.restored*")]
    code, data, _ = fed("restore", tmp_path / "copy.db", "--yes")
    assert code == 0
    with contextlib.closing(sqlite3.connect(data["before"])) as old:
        assert ("newest",) in old.execute("SELECT action FROM audit_log").fetchall()


async def test_an_upgrade_says_from_where_to_where_and_refuses_an_unknown_schema(
    world, fed, tmp_path
) -> None:
    await world.store.close()
    path = tmp_path / "server.db"
    migrating.downgrade(path, "0001")
    assert fed("upgrade", "--dry-run")[1] == {"from": "0001", "to": migrating.HEAD, "done": False}
    assert fed("upgrade")[1] == {"from": "0001", "to": migrating.HEAD, "done": True}
    assert fed("check")[0] == 0
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    code, _, err = fed("upgrade")
    assert (code, "FED-2202" in err) == (1, True)


async def test_a_check_names_what_is_wrong(world, ref, fed, tmp_path) -> None:
    await world.store.close()
    path = tmp_path / "server.db"
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TRIGGER audit_log_no_update")
        connection.execute("UPDATE audit_log SET actor = 'eve' WHERE sequence = 1")
        connection.execute("DELETE FROM assignment")
        connection.execute("DROP INDEX ix_model_digest")
    code, data, _ = fed("check")
    problems = "\n".join(data["problems"])
    assert code == 1
    assert "entry 1 of the audit log is not what was written" in problems
    assert "a row of upload points to a row of assignment that is gone" in problems
    assert "migrated" in problems


def test_a_database_that_is_not_there_is_an_error(fed) -> None:
    for verb in ("upgrade", "check"):
        code, _, err = fed(verb)
        assert (code, "there is no database" in err) == (1, True)


async def test_settings_of_the_server_say_where_its_database_and_its_signer_lie(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tmp_path / "server.toml"
    settings.write_text(f'[server]\nstate_directory = "{tmp_path / "state"}"\n')
    (tmp_path / "state").mkdir()
    store = await SqliteStore.open(tmp_path / "state" / "fed.db", keys=[bytes(32)])
    await store.close()

    def check() -> int:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(main, ["db", "check", "--config", str(settings)]).result()

    assert check() == 0
    assert "verdict  holds" in capsys.readouterr().out
    (tmp_path / "state" / AUDIT_HEAD).write_text("{}")
    assert check() != 0
    assert f"authority/{AUDIT_SIGNER}" in capsys.readouterr().err.replace("\n", "")
