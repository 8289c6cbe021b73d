"""`fed db`: the operator migrates, checks, copies and restores the server's database.

It works on a SQLite file, on the server's own machine, or on the PostgreSQL database that the
settings name. Only `backup` and `check` may run beside a server; the other verbs refuse while one
holds the database. PostgreSQL has its own tools for copies, which are named where they are needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from fedcore.console import Console, ExitCode, Json
from fedcore.errors import ArgumentError, AuditError, BlobError, SchemaError, StoreError
from fedserver.audit_heads import AUDIT_HEAD
from fedserver.commands.dispatch import dispatch, verbs
from fedserver.config import AUTHORITY, load
from fedserver.key_files import AUDIT_SIGNER
from fedserver.newest_models import BLOBS, blobs_of, tasks_without
from fedserver.objects import ObjectAddress
from fedserver.rollback import server_id_of, signed_head as head_of
from fedserver.store import migrating
from fedserver.store.backup import back_up, check_history, read_manifest, restore
from fedserver.store.claim import claimed
from fedserver.store.connection import reading
from fedserver.store.locking import require_free
from fedserver.store.opening import open_store, require_driver
from fedserver.store.postgres.address import Database, PostgresAddress
from fedserver.store.records import EPOCH_BEGUN, AuditEntry

__all__ = ["main"]

app = verbs("The server's database.")

Settings = Annotated[
    Path | None,
    typer.Option("--config", help="the server's settings, which say where everything lies"),
]
File = Annotated[
    Path | None, typer.Option("--database", help="a SQLite file, if it lies elsewhere")
]
Head = Annotated[
    Path | None,
    typer.Option("--signed-head", help=f"of the audit log; by default {AUDIT_HEAD} beside it"),
]
Signer = Annotated[
    Path | None,
    typer.Option("--signer", help=f"by default {AUDIT_SIGNER} of the authority"),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would happen, and do nothing")]


def main(argv: Sequence[str]) -> int:
    """Runs `fed db` with these arguments and returns its exit code. Raises: FedcoreError."""
    return dispatch(app, argv, command="db")


@dataclass(frozen=True)
class _Files:
    """The database, the newest signed head of its audit log, and the key that signs heads.

    `blobs`: where its models are, None where nobody says.
    """

    database: Database
    head: Path
    signer: Path
    blobs: Path | ObjectAddress | None


@app.command()
def upgrade(
    context: typer.Context,
    config: Settings = None,
    file: File = None,
    dry_run: DryRun = False,
) -> None:
    """Migrates the database to the schema of this program, all or nothing."""
    database = _files(config, file).database
    before = _version(database)
    if before is not None and before not in migrating.known():
        raise SchemaError(
            f"the database {database.name} has the schema {before}",
            why=f"this program knows {', '.join(migrating.known())}",
            fix="run the version of the program that wrote it, or a newer one",
        )
    if not dry_run:
        with claimed(database):
            migrating.upgrade(database)
    did = "would go" if dry_run else "went"
    text = f"the schema {did} from {before or 'none'} to {migrating.HEAD}"
    _console(context).show(
        {"from": before, "to": migrating.HEAD, "done": not dry_run},
        text if before != migrating.HEAD else f"the schema is {migrating.HEAD} already",
    )


@app.command()
def check(
    context: typer.Context,
    config: Settings = None,
    file: File = None,
    signed_head: Head = None,
    signer: Signer = None,
) -> int:
    """Checks data, schema, audit log, and the newest models of running tasks; 1 if one fails."""
    files = _files(config, file, signed_head, signer)
    database = files.database
    version = _version(database)
    problems = _damage(database)
    head = None
    try:
        migrating.check(database)
    except SchemaError as error:
        problems.append(f"{error.what}: {error.why}")
    try:
        signed = head_of(files.head, files.signer, server_id_of(database))
        head = check_history(database, signed)
    except (AuditError, StoreError) as error:
        problems.append(f"{error.what}: {error.why}")
    running, without = _tasks_without(files)
    problems += [f"{error.what}: {error.why}" for error in without]
    entries = head.sequence if head is not None else None
    lines = [
        f"verdict  {'does not hold' if problems else 'holds'}",
        *(f"because  {problem}" for problem in problems),
        f"schema   {version}",
        f"audit    {f'{entries} entries' if entries is not None else 'unreadable'}",
        f"models   {'not looked at' if running is None else f'of {running} running tasks'}",
    ]
    data: Json = {
        "holds": not problems,
        "problems": problems,
        "schema": version,
        "audit_sequence": entries,
        "audit_hash": head.hash.hex() if head is not None else None,
        "models": running,
    }
    _console(context).show(data, "\n".join(lines))
    return ExitCode.FAILED if problems else ExitCode.OK


@app.command()
def backup(
    context: typer.Context,
    output: Annotated[Path, typer.Option("--output", help="the file of the backup, a new one")],
    config: Settings = None,
    file: File = None,
) -> None:
    """Copies the database, with a manifest beside the copy; a server may go on meanwhile."""
    database = _files(config, file).database
    if isinstance(database, PostgresAddress):
        # Without the keys of attempts, as in a copy of ours: a backup must not outlive a scrub.
        command = f"pg_dump --format=custom --exclude-table-data=attempt_key --file={output}"
        raise _not_for_postgresql("backed up", f"{command} '{database.url}'")
    made = back_up(database, output)
    _console(context).show(
        {"backup": str(output), **asdict(made)},
        f"backup   {output}, {made.bytes} bytes\n"
        f"sha256   {made.sha256}\n"
        f"audit    {made.audit_sequence} entries, epoch {made.epoch}",
    )


@app.command("restore")
def restore_(
    context: typer.Context,
    backup: Annotated[Path, typer.Argument(help="the file that `fed db backup` wrote")],
    config: Settings = None,
    file: File = None,
    signed_head: Head = None,
    signer: Signer = None,
    accept_rollback: Annotated[
        bool, typer.Option(help="also if it is older than what was signed: acts are forgotten")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="do it without asking")] = False,
    dry_run: DryRun = False,
) -> None:
    """Puts a backup in the database's place: open attempts are abandoned, a new epoch begins."""
    files = _files(config, file, signed_head, signer)
    database = files.database
    if isinstance(database, PostgresAddress):
        tool = f"pg_restore --clean --if-exists --dbname='{database.url}' {backup}"
        raise _not_for_postgresql("restored", f"{tool}, then: fed db epoch")
    require_free(database)  # first, or a server's newest entries look like a loss to be accepted
    manifest = read_manifest(backup)
    signed = None
    if not accept_rollback:
        signed = head_of(files.head, files.signer, bytes.fromhex(manifest.server_id))
        check_history(backup, signed)
    console = _console(context)
    what = f"{database} by a backup with {manifest.audit_sequence} entries in its audit log"
    if dry_run:
        console.show({"would_restore": str(backup), **asdict(manifest)}, f"would replace {what}")
        return
    if not yes:
        _ask(f"Replace {what}?")
    _, old = asyncio.run(restore(database, backup, signed=signed, accept_rollback=accept_rollback))
    kept = f"; the old one is {old}" if old is not None else ""
    if accept_rollback:
        console.progress(
            "if it is older than what was signed, use fed server start --accept-rollback"
        )
    console.show(
        {
            "database": str(database),
            "epoch": manifest.epoch + 1,
            "before": str(old) if old is not None else None,
        },
        f"restored {database}, epoch {manifest.epoch + 1}{kept}",
    )


@app.command()
def epoch(
    context: typer.Context,
    config: Settings = None,
    file: File = None,
    signed_head: Head = None,
    signer: Signer = None,
    accept_rollback: Annotated[
        bool, typer.Option(help="also if it is older than what was signed: acts are forgotten")
    ] = False,
) -> None:
    """After another tool restored the database: abandons open attempts, begins a new epoch."""
    files = _files(config, file, signed_head, signer)
    _version(files.database)
    signed = None
    if not accept_rollback:
        signed = head_of(files.head, files.signer, server_id_of(files.database))
    check_history(files.database, signed)
    begun = asyncio.run(_begin_epoch(files.database))
    _console(context).show({"epoch": begun}, f"epoch {begun} has begun: no attempt is open")


async def _begin_epoch(database: Database) -> int:
    # The store of a file claims it by itself.
    with contextlib.nullcontext() if isinstance(database, Path) else claimed(database):
        # Nothing that is sealed is opened here, so that any key will do.
        store = await open_store(database, keys=[os.urandom(32)])
        try:
            audit = AuditEntry("operator", "db.epoch", "database")
            return await store.bump_epoch(EPOCH_BEGUN, audit=audit)
        finally:
            await store.close()


def _files(
    config: Path | None,
    database: Path | None,
    head: Path | None = None,
    signer: Path | None = None,
) -> _Files:
    """Where the settings say that they lie, if nobody says otherwise. Raises: AuditError."""
    settings = load(config)
    if head is not None and not head.exists():
        raise AuditError(
            f"there is no signed head {head.name}",
            why=f"nothing lies at {head}",
            fix="name the file that the server writes",
        )
    where = database or settings.database
    require_driver(where)
    authority = settings.authority_directory
    if config is None and database is not None:
        authority = database.parent / AUTHORITY
    state = where.parent if isinstance(where, Path) else settings.server.state_directory
    blobs: Path | ObjectAddress | None = blobs_of(settings)
    if config is None and database is not None:  # a copy has no models beside it
        blobs = state / BLOBS if (state / BLOBS).is_dir() else None
    return _Files(where, head or state / AUDIT_HEAD, signer or authority / AUDIT_SIGNER, blobs)


def _tasks_without(files: _Files) -> tuple[int | None, list[BlobError]]:
    """How many running tasks were looked at, and what is amiss with the models of which."""
    if files.blobs is None:
        return None, []
    try:
        return tasks_without(files.database, files.blobs)
    except StoreError:  # of a database that is found to be damaged, or of another schema
        return None, []


def _version(database: Database) -> str | None:
    """Raises: StoreError if there is no such file."""
    if isinstance(database, Path) and not database.is_file():
        raise StoreError(
            f"there is no database {database.name}",
            why=f"nothing lies at {database}",
            fix="name the server's settings with --config, or the file with --database",
        )
    return migrating.version_at(database)


def _damage(database: Database) -> list[str]:
    if isinstance(database, PostgresAddress):
        from fedserver.store.postgres.integrity import problems

        with migrating.connected(database) as looked_at:
            return list(problems(looked_at))
    with contextlib.closing(reading(database)) as connection:
        found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check")]
        broken = connection.execute("PRAGMA foreign_key_check").fetchall()
    return [line for line in found if line != "ok"] + [
        f"a row of {row[0]} points to a row of {row[2]} that is gone" for row in broken
    ]


def _not_for_postgresql(done: str, command: str) -> ArgumentError:
    return ArgumentError(
        f"fed db: a PostgreSQL database is not {done} as a file",
        why="PostgreSQL's own tools do that, also while servers run on it",
        fix=f"run: {command}",
    )


def _console(context: typer.Context) -> Console:
    assert isinstance(context.obj, Console)
    return context.obj


def _ask(question: str) -> None:
    if not sys.stdin.isatty():
        raise ArgumentError(
            "fed db: this replaces the database, and nobody is there to be asked",
            why="standard input is no terminal",
            fix="pass --yes, or --dry-run to see what would happen",
        )
    if not typer.confirm(question, err=True):
        raise ArgumentError("fed db: nothing was done", why="the answer was no")
