"""`fed server doctor` finds what would keep a server from starting, and changes nothing."""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
import socket
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fedcore.cli import main
from fedcore.errors import FedcoreError
from fedserver.app import Server
from fedserver.commands.server import main as server
from fedserver.config import load
from fedserver.doctor import Finding, examine
from fedserver.doctor.finding import refused
from fedserver.key_files import AUDIT_SIGNER, DATASTORE_KEYS, keep_first_key, prepend_key
from fedserver.opening import opened
from fedserver.store.backup import back_up
from fedserver.store.records import AuditEntry, ModelRecord, RoundRef, TaskRecord
from tests.server.serving.places import SETTINGS


def found(place: Path) -> dict[str, Finding]:
    return {one.check: one for one in examine(load(place / "server.toml"))}


def test_a_sound_place_has_no_error(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert server(["doctor", "--config", f"{place}/server.toml", "--format", "json"]) == 0
    data = json.loads(capsys.readouterr().out)["data"]
    assert {one["level"] for one in data} <= {"ok", "warning"}
    assert {"python", "sqlite", "grpc", "protobuf", "disk", "keys", "database"} <= {
        one["check"] for one in data
    }
    assert not (place / "state").exists()


def test_a_key_that_others_can_read_is_an_error(place: Path) -> None:
    key = place / "ca" / "datastore.keys"
    key.chmod(0o640)
    assert found(place)["keys"].level == "error"
    assert "datastore.keys" in found(place)["keys"].detail


def test_keys_that_do_not_open_are_an_error(place: Path) -> None:
    assert found(place)["authority"].level == "ok"
    text = (place / "server.toml").read_text()
    (place / "server.toml").write_text(
        text.replace("[authority]", '[authority]\npassphrase_file = "env:NO_SUCH_VARIABLE"')
    )
    told = found(place)["authority"]
    assert told.level == "error" and "NO_SUCH_VARIABLE" in told.detail
    (place / "server.toml").write_text(text)
    (place / "ca" / "registrar.key").unlink()
    assert found(place)["authority"].level == "error"


def test_a_server_that_others_cannot_reach_is_told(place: Path) -> None:
    assert found(place)["reach"].level == "ok"
    text = (place / "server.toml").read_text()
    (place / "server.toml").write_text(text.replace('"localhost"', '"localhost", "fl.test"'))
    assert found(place)["reach"].level == "warning" and "fl.test" in found(place)["reach"].detail


def test_a_sqlite_that_is_not_used_is_not_judged(place: Path) -> None:
    config = load(place / "server.toml")
    assert next(one.check for one in examine(config)) == "python"
    assert "sqlite" in {one.check for one in examine(config)}
    elsewhere = {"database_url": "postgresql://fed@127.0.0.1:1/fed"}  # where nobody answers
    server = config.server.model_copy(update=elsewhere)
    other = config.model_copy(update={"server": server})
    levels = {one.check: one.level for one in examine(other)}
    assert "sqlite" not in levels and levels["database"] == "error"


def test_too_few_open_files_are_told(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "server.toml").write_text(
        (place / "server.toml").read_text() + "waiting_rpcs = 1_000_000\n"
    )
    monkeypatch.setattr(resource, "getrlimit", lambda of: (256, 256))
    told = found(place)["open files"]
    assert told.level == "warning" and told.detail.startswith("256 ")


def test_a_missing_authority_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "server.toml").write_text(
        SETTINGS.format(state=tmp_path / "state", ca=tmp_path / "none")
    )
    assert server(["doctor", "--config", f"{tmp_path}/server.toml"]) == 1
    told = capsys.readouterr().out
    assert "fed ca init" in told and "root certificate" in told


def test_a_port_in_use_is_an_error(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        text = (place / "server.toml").read_text()
        number = taken.getsockname()[1]
        (place / "server.toml").write_text(text.replace("\nport = 0", f"\nport = {number}"))
        assert found(place)["service port"].level == "error"
        assert found(place)["enrolment port"].level == "ok"


def test_a_clock_that_is_wrong_is_an_error(place: Path) -> None:
    config = load(place / "server.toml")
    year_s = 365 * 86_400
    behind = {one.check: one.level for one in examine(config, now_s=lambda: time.time() - year_s)}
    assert behind["root certificate"] == behind["server certificate"] == "error"
    ahead = {
        one.check: one.level for one in examine(config, now_s=lambda: time.time() + 5 * year_s)
    }
    assert (ahead["root certificate"], ahead["issuing certificate"]) == ("ok", "warning")


def test_a_database_of_another_program_is_an_error(place: Path) -> None:
    (place / "state").mkdir(mode=0o700)
    (place / "state" / "fed.db").write_bytes(b"SQLite format 3\x00 but then no more" * 100)
    assert found(place)["database"].level == "error"


def test_what_an_editor_leaves_beside_a_key_is_no_error(place: Path) -> None:
    (place / "ca" / ".#datastore.keys").symlink_to("ada@ward-3.4711")  # a lock: a link to nowhere
    assert found(place)["keys"].level == "ok"
    (place / "ca" / "datastore.keys").rename(place / "elsewhere")
    (place / "ca" / "datastore.keys").symlink_to(place / "elsewhere")
    (place / "elsewhere").chmod(0o640)
    assert found(place)["keys"].level == "error"


@pytest.mark.parametrize("name", ["stat", "exists", "glob", "is_dir"])
def test_what_cannot_be_looked_at_is_an_error_and_no_traceback(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "state").mkdir(mode=0o700)
    (place / "state" / "fed.db").touch()
    config = load(place / "server.toml")

    def broken(path: Path, *_: object, **__: object) -> None:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(Path, name, broken)
    errors = [one for one in examine(config) if one.level == "error"]
    assert errors and all(one.fix for one in errors)
    assert any("input/output error" in one.detail.lower() for one in errors)


# --- What a start refuses


async def started(place: Path) -> None:
    """Starts a server in this process, and stops it."""
    config = load(place / "server.toml")
    async with opened(config) as parts:
        running = Server(config, parts)
        await running.start()
        await running.stop()


async def refusal(place: Path) -> FedcoreError:
    """What a start raises."""
    with pytest.raises(FedcoreError) as error:
        await started(place)
    return error.value


def setting(place: Path, old: str, new: str) -> None:
    text = (place / "server.toml").read_text()
    assert old in text
    (place / "server.toml").write_text(text.replace(old, new))


def without(name: str) -> Callable[[Path], None]:
    return lambda place: (place / "ca" / name).unlink()


def with_text(name: str, text: str) -> Callable[[Path], None]:
    def write(place: Path) -> None:
        (place / "ca" / name).chmod(0o600)
        (place / "ca" / name).write_text(text)

    return write


BROKEN: dict[str, Callable[[Path], None]] = {
    "no datastore keys": without("datastore.keys"),
    "no participation key": without("participation.key"),
    "no audit signer": without("audit-signer.key"),
    "no registrar": without("registrar.key"),
    "no issuing key": without("issuing.key.pem"),
    "no root certificate": without("root.pem"),
    "two participation keys": with_text("participation.key", f"{'0' * 64}\n{'1' * 64}\n"),
    "no hexadecimal digits": with_text("datastore.keys", "secret\n"),
    "a key that others read": lambda place: (place / "ca" / "audit-signer.key").chmod(0o444),
    "no authority": lambda place: shutil.rmtree(place / "ca"),
    "a passphrase that is not there": lambda place: setting(
        place, "[authority]", '[authority]\npassphrase_file = "env:NO_SUCH_VARIABLE"'
    ),
    "a passphrase where none belongs": lambda place: setting(
        place, "[authority]", '[authority]\npassphrase_file = "env:PATH"'
    ),
    "a file for the state": lambda place: (place / "state").write_text("none"),
    "a file above the state": lambda place: setting(
        place, f"{place}/state", f"{place}/server.toml/state"
    ),
    "a state that others read": lambda place: (place / "state").mkdir(mode=0o755),
    "a host that no certificate names": lambda place: setting(
        place, '["localhost"]', '["fl_test:7443"]'
    ),
    "a host that nobody knows": lambda place: setting(
        place, "[server]", '[server]\nhost = "no-such-host.invalid"'
    ),
    "a host of another machine": lambda place: setting(
        place, "[server]", '[server]\nhost = "192.0.2.7"'
    ),
}


def files_in(place: Path) -> list[Path]:
    return sorted(place.rglob("*"))


@pytest.mark.parametrize("what", BROKEN)
async def test_what_a_start_refuses_is_found(what: str, place: Path) -> None:
    BROKEN[what](place)
    before = files_in(place)
    errors = [one for one in found(place).values() if one.level == "error"]
    assert errors and all(one.fix for one in errors)
    assert files_in(place) == before
    told = await refusal(place)
    assert any(told.why in one.detail or told.fix == one.fix for one in errors), (told, errors)


async def test_a_database_that_is_gone_or_was_rolled_back_is_found(place: Path) -> None:
    await started(place)
    database, backup = place / "state" / "fed.db", place / "backup.db"
    back_up(database, backup)
    async with opened(load(place / "server.toml")) as parts:
        await parts.store.append_audit(AuditEntry("user:ada", "act", "object"))
    assert found(place)["history"].level == "ok"
    newest = database.read_bytes()

    shutil.copyfile(backup, database)
    told = await refusal(place)
    assert told.code == "FED-2205" and found(place)["history"] == refused("history", told)

    database.unlink()
    told = await refusal(place)
    assert told.code == "FED-2205" and found(place)["database"] == refused("database", told)

    database.write_bytes(newest)
    assert {one.level for one in found(place).values()} <= {"ok", "warning"}
    await started(place)


async def test_a_server_on_the_same_database_is_found_whatever_its_ports(place: Path) -> None:
    assert found(place)["one server"].level == "ok"
    async with opened(load(place / "server.toml")):  # by ports that the system chooses
        told = await refusal(place)
        assert told.code == "FED-2201" and "is in use" in told.what
        assert found(place)["one server"] == refused("one server", told)
    assert found(place)["one server"].level == "ok"


def emptied(database: Path) -> None:
    database.write_bytes(b"")


def without_tables(database: Path) -> None:
    """As of a start that was killed before its first migration was durable."""
    database.unlink()
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")


@pytest.mark.parametrize("make", [emptied, without_tables])
async def test_a_database_without_a_table_is_one_that_is_yet_to_be_made(
    make: Callable[[Path], None], place: Path
) -> None:
    database = place / "state" / "fed.db"
    database.parent.mkdir(mode=0o700)
    database.touch()
    make(database)
    before = files_in(place)
    assert found(place)["database"] == Finding("database", "ok", "it is made at the first start")
    assert files_in(place) == before
    await started(place)
    assert found(place)["database"].level == "ok"


@pytest.mark.parametrize("make", [emptied, without_tables])
async def test_a_database_that_was_emptied_is_not_taken_for_a_new_one(
    make: Callable[[Path], None], place: Path
) -> None:
    await started(place)
    make(place / "state" / "fed.db")
    told = await refusal(place)
    assert (told.code, told.what) == ("FED-2205", "the database fed.db is empty")
    assert "fed db restore" in told.fix and "--accept-rollback" in told.fix
    assert found(place)["database"] == refused("database", told)


async def test_a_lost_audit_signer_is_told_with_what_helps(place: Path) -> None:
    await started(place)
    (place / "ca" / AUDIT_SIGNER).unlink()
    with ThreadPoolExecutor(1) as thread:
        rotate = ["ca", "rotate", "audit-signer", "--directory", f"{place}/ca"]
        assert thread.submit(main, rotate).result() == 0
    told = await refusal(place)
    assert told.code == "FED-2205" and "--accept-rollback" in told.fix
    assert found(place)["history"] == refused("history", told)
    async with opened(load(place / "server.toml"), accept_rollback=True):
        pass
    await started(place)
    assert found(place)["history"].level == "ok"


async def test_a_datastore_key_that_does_not_open_what_is_open_is_found(place: Path) -> None:
    keys, ref = place / "ca" / DATASTORE_KEYS, RoundRef("digits-1", 0, 1)
    task = TaskRecord(
        ref.task_id, "default", "digits", b"{}", b"d" * 32, b"k" * 32, b"s" * 64, 5, "user:ada"
    )
    async with opened(load(place / "server.toml")) as parts:
        await parts.store.add_task(task, ModelRecord(b"m" * 32, ref.task_id, b"", 0, 5))
        lease = await parts.store.acquire_lease(ref.task_id, "test", 60_000)
        assert lease is not None
        await parts.store.open_round(
            ref,
            phase="PENDING",
            state={},
            base_model=b"m" * 32,
            deadline_ms=None,
            lease_token=lease.token,
        )
    assert found(place)["datastore keys"].level == "ok"

    prepend_key(keys)  # the one before stands behind it
    assert found(place)["datastore keys"].level == "ok"
    await started(place)

    keep_first_key(keys)
    told = await refusal(place)
    assert "fed db epoch" in told.fix
    assert found(place)["datastore keys"] == refused("datastore keys", told)

    # What the remedy says: the attempt that was open is given up, and all else goes on.
    with ThreadPoolExecutor(1) as thread:
        settings = f"{place}/server.toml"
        assert thread.submit(main, ["db", "epoch", "--config", settings]).result() == 0
    await started(place)
    assert found(place)["datastore keys"].level == "ok"


async def test_what_a_start_makes_again_is_no_error(place: Path) -> None:
    """The server's own key has no past: with another one nothing is lost."""
    await started(place)
    for name in ("server.key.pem", "server.pem"):
        (place / "ca" / name).unlink()
        assert {one.level for one in found(place).values()} <= {"ok", "warning"}
        await started(place)
        assert (place / "ca" / name).exists()
