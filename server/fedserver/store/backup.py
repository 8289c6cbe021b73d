"""Copies of the database: made while the server runs, and checked before they take its place.

Beside a backup lies its manifest: what the copy must be, to the bit, and how far its history goes.
A restore works on a copy of the backup, begins a new epoch in it (W11), and only then puts it in
the place of the old database, which is kept under another name. That ends every open attempt, so a
backup goes without the attempts' keys: nothing that it holds of them can ever be opened (W10).
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from sqlalchemy import select

from fedcore.errors import ArgumentError, FedcoreError, StoreError
from fedserver.store import schema
from fedserver.store.audit import EMPTY, check_head, verify
from fedserver.store.connection import reading, writing
from fedserver.store.locking import FileLock
from fedserver.store.migrating import connected, prepare
from fedserver.store.postgres.address import Database
from fedserver.store.records import RESTORED, AuditEntry, AuditHead, AuditRecord
from fedserver.store.sql.reads import all_rows, one_row
from fedserver.store.sql.rows import audit_of
from fedserver.store.sqlite import SqliteStore

__all__ = [
    "Manifest",
    "back_up",
    "check_history",
    "check_signed",
    "history_of",
    "manifest_path",
    "read_manifest",
    "restore",
]

_VERSION = 1
_PAGE = 1000
_LOGS = ("-wal", "-journal")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup holds; digests are in hexadecimal. `ledger_heads`: of tasks that have one."""

    version: int
    schema: str
    server_id: str
    epoch: int
    bytes: int
    sha256: str
    created_ms: int
    audit_sequence: int
    audit_hash: str
    ledger_heads: Mapping[str, str]


def manifest_path(backup: Path) -> Path:
    """Where the manifest of a backup lies.

    >>> str(manifest_path(Path("monday.db")))
    'monday.db.json'
    """
    return backup.with_name(backup.name + ".json")


def back_up(database: Path, target: Path) -> Manifest:
    """Copies the database as it stands between two transactions, also while a server runs on it.

    Raises: ArgumentError if something is at the target; SchemaError; StoreError.
    """
    if target.exists() or manifest_path(target).exists():
        raise ArgumentError(
            f"there is a backup {target.name} already",
            why="a backup is never overwritten",
            fix="name another file",
        )
    _require(database)
    prepare(database)
    draft = target.with_name(f".{target.name}.new")
    with _explained(f"the backup {target.name} cannot be written"):
        _forget(draft)
        try:
            _copy(database, draft)
        except BaseException:
            _forget(draft)
            raise
        manifest = _described(draft)
        _sync(draft)
        draft.replace(target)
        _write_synced(manifest_path(target), json.dumps(asdict(manifest), indent=2).encode())
        _sync(target.parent)
    return manifest


def history_of(database: Database) -> Iterator[AuditRecord]:
    """The audit log of a database, in order. Raises: StoreError."""
    after = 0
    while records := _page_of(database, after):
        yield from records
        after = records[-1].sequence


def _page_of(database: Database, after: int) -> tuple[AuditRecord, ...]:
    log = schema.audit_log
    page = select(log).where(log.c.sequence > after).order_by(log.c.sequence).limit(_PAGE)
    with _explained(f"{database.name} cannot be read"), connected(database) as connection:
        return tuple(map(audit_of, all_rows(connection, page)))


def check_history(database: Database, signed: AuditHead | None) -> AuditHead:
    """The head of a log whose chain holds, and which reaches the signed head, if one is given.

    Raises: AuditError, StoreError.
    """
    at_signed: list[AuditRecord] = []

    def watched() -> Iterator[AuditRecord]:
        for record in history_of(database):
            if signed is not None and record.sequence == signed.sequence:
                at_signed.append(record)
            yield record

    found = verify(watched())
    if signed is not None:
        check_head(signed, found, at_signed[0] if at_signed else None)
    return found


def check_signed(database: Database, signed: AuditHead | None) -> AuditHead:
    """The head of a log that reaches the signed head; that its chain holds is not looked at.

    Raises: AuditError, StoreError.
    """
    log = schema.audit_log
    newest = select(log).order_by(log.c.sequence.desc()).limit(1)
    at = signed.sequence if signed is not None else 0
    with _explained(f"{database.name} cannot be read"), connected(database) as connection:
        last = one_row(connection, newest)
        entry = one_row(connection, select(log).where(log.c.sequence == at))
    found = AuditHead(last["sequence"], last["hash"]) if last else EMPTY
    if signed is not None:
        check_head(signed, found, audit_of(entry) if entry else None)
    return found


async def restore(
    database: Path, backup: Path, *, signed: AuditHead | None, accept_rollback: bool
) -> tuple[Manifest, Path | None]:
    """Puts a backup in the database's place; gives its manifest, and where the old one is now.

    `signed`: the newest signed head of the audit log; a backup that does not reach it is refused,
    unless that is accepted. Raises: AuditError; SchemaError; StoreError while a server runs, or for
    a backup that is not what its manifest says.
    """
    manifest = read_manifest(backup)
    check_history(backup, None if accept_rollback else signed)
    lock = FileLock(database)
    draft = database.with_name(f".{database.name}.restored")
    try:
        with _explained(f"the database {database.name} cannot be restored"):
            _forget(draft)
            shutil.copyfile(backup, draft)
            os.chmod(draft, 0o600)
            if not hmac.compare_digest(_sha256(draft), manifest.sha256):
                raise _not_as_written(backup)
        # Nothing that is sealed is opened here, so that any key will do.
        store = await SqliteStore.open(draft, keys=[os.urandom(32)])
        try:
            entry = AuditEntry("operator", "db.restore", f"backup:{manifest.sha256}")
            await store.bump_epoch(RESTORED, audit=entry)
        finally:
            await store.close()
        with _explained(f"the database {database.name} cannot be restored"):
            _sync(draft)
            old = _set_aside(database)
            draft.replace(database)
            _sync(database.parent)
    finally:
        with contextlib.suppress(OSError):
            _forget(draft)  # where the disk is full, half a copy would keep it so
        lock.release()
    return manifest, old


def _set_aside(database: Path) -> Path | None:
    """A second name for the old database, with all of its log in it; it has its own still."""
    old = database.with_name(f"{database.name}.before-{time.time_ns() // 1_000_000}")
    there = database.exists()
    if not (there and _took_up_log(database)):
        # SQLite would play a log that lies there into whatever database lies beside it.
        for suffix in _LOGS:
            with contextlib.suppress(FileNotFoundError):
                database.with_name(database.name + suffix).replace(f"{old}{suffix}")
    if there:
        os.link(database, old)
    for suffix in (*_LOGS, "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    return old if there else None


def _took_up_log(database: Path) -> bool:
    """Whether a database has all of its log in it; one that is beyond repair has not.

    Raises: StoreError while something reads it, which keeps the log from being taken up.
    """
    try:
        with contextlib.closing(writing(database)) as connection:
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except (StoreError, sqlite3.Error):
        return False
    if busy:
        raise StoreError(
            f"the database {database.name} is being read",
            why="what its log holds cannot be taken up meanwhile, and would be lost",
            fix="end what reads it, as a backup or a shell of SQLite, and restore again",
        )
    return True


def _described(copy: Path) -> Manifest:
    with contextlib.closing(reading(copy)) as connection:
        (schema,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        identity = connection.execute("SELECT * FROM server_identity").fetchone()
        last = connection.execute(
            "SELECT sequence, hash FROM audit_log ORDER BY sequence DESC LIMIT 1"
        ).fetchone()
        heads = connection.execute(
            "SELECT task_id, ledger_head FROM model_head WHERE length(ledger_head) > 0"
        ).fetchall()
    return Manifest(
        version=_VERSION,
        schema=schema,
        server_id=identity["server_id"].hex(),
        epoch=identity["epoch"],
        bytes=copy.stat().st_size,
        sha256=_sha256(copy),
        created_ms=time.time_ns() // 1_000_000,
        audit_sequence=last["sequence"] if last else EMPTY.sequence,
        audit_hash=(last["hash"] if last else EMPTY.hash).hex(),
        ledger_heads={row["task_id"]: row["ledger_head"].hex() for row in heads},
    )


def read_manifest(backup: Path) -> Manifest:
    """The manifest of a backup that is what was written. Raises: StoreError."""
    _require(backup)
    try:
        manifest = Manifest(**json.loads(manifest_path(backup).read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise StoreError(
            f"the backup {backup.name} has no manifest",
            why=f"{manifest_path(backup).name}: {(reason or 'it is no manifest').lower()}",
            fix="keep the two files that `fed db backup` writes together",
        ) from None
    with _explained(f"the backup {backup.name} cannot be read"):
        whole = hmac.compare_digest(_sha256(backup), str(manifest.sha256))
    if manifest.version != _VERSION or not whole:
        raise _not_as_written(backup)
    return manifest


def _fresh(path: Path) -> sqlite3.Connection:
    path.touch(mode=0o600)
    return sqlite3.connect(path, isolation_level=None)


def _copy(database: Path, draft: Path) -> None:
    """Row by row: of pages the attempts' keys would be copied as well, if only to be deleted."""
    with contextlib.closing(_fresh(draft)) as copy:
        copy.execute("ATTACH ? AS source", (str(database),))
        copy.execute("PRAGMA mmap_size=0")  # of both, as for whoever reads the database
        copy.execute("PRAGMA wal_autocheckpoint=0")
        copy.execute("PRAGMA foreign_keys=OFF")  # rows come before those that they point to
        copy.execute("BEGIN")
        of_source = "SELECT name, sql FROM source.sqlite_master WHERE sql IS NOT NULL AND type"
        tables = copy.execute(f"{of_source} = 'table'").fetchall()
        for name, made in tables:
            copy.execute(made)
            if name != schema.attempt_key.name:
                copy.execute(f'INSERT INTO main."{name}" SELECT * FROM source."{name}"')  # noqa: S608
        for _, made in copy.execute(f"{of_source} <> 'table'").fetchall():
            copy.execute(made)
        copy.execute("COMMIT")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_synced(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _forget(draft: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-lock"):
        draft.with_name(draft.name + suffix).unlink(missing_ok=True)


def _require(path: Path) -> None:
    if not path.is_file():
        raise StoreError(
            f"there is no database {path.name}",
            why=f"nothing lies at {path}",
            fix="name the file, as in --database state/server.db",
        )


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except FedcoreError:
        raise
    except (OSError, sqlite3.Error) as error:
        raise StoreError(
            what,
            why=f"{type(error).__name__}: {error}",
            fix="look at the disk, its free space, and who may read and write there",
        ) from None


def _not_as_written(backup: Path) -> StoreError:
    return StoreError(
        f"the backup {backup.name} is not what was written",
        why="its digest differs from the one in its manifest",
        fix="take another backup: this one is damaged",
    )
