"""Which schema a database has, and the way to the one that this program knows.

A database of another schema is refused, not guessed at; `fed db upgrade` migrates it. Alembic is
imported only where it has something to do, so that a server starts without it.
"""

from __future__ import annotations

import contextlib
import io
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, create_engine, event, inspect, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from fedcore.errors import SchemaError, StoreError
from fedserver.store.connection import reading, writing

if TYPE_CHECKING:
    from alembic.config import Config

__all__ = ["HEAD", "check", "downgrade", "known", "prepare", "upgrade", "version_at", "version_of"]

HEAD = "0004"  # the newest step under migrations/versions
SUPPORTED = frozenset({HEAD})

_MIGRATIONS = Path(__file__).parent / "migrations"


def version_of(connection: Connection) -> str | None:
    """The schema that a database says it has, or None: it is empty."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return None if found is None else str(found)


def version_at(path: Path) -> str | None:
    """The schema of a database file. Raises: StoreError."""
    with _connected(path, reading) as connection:
        return version_of(connection)


def known() -> tuple[str, ...]:
    """All steps of the schema's history, the oldest first: from these an upgrade is possible."""
    from alembic.script import ScriptDirectory

    steps = ScriptDirectory(str(_MIGRATIONS)).walk_revisions()
    return tuple(step.revision for step in steps)[::-1]


def prepare(path: Path) -> None:
    """Makes a database where there is none. Raises: SchemaError for one of another schema."""
    if not path.exists():
        upgrade(path)
        return
    with _connected(path, reading) as connection:
        found, empty = version_of(connection), not inspect(connection).get_table_names()
    if empty:  # killed before its first migration was durable
        upgrade(path)
    elif found not in SUPPORTED:
        raise SchemaError(
            f"the database {path.name} has the schema {found or 'of no version'}",
            why=f"this program knows {', '.join(sorted(SUPPORTED))}",
            fix=f"make a backup, then run: fed db upgrade --database {path}"
            if found in known()
            else "run the version of the program that wrote it, or a newer one",
        )


def upgrade(path: Path, revision: str = "head") -> None:
    """Migrates forward, all or nothing. Raises: SchemaError for an unknown revision."""
    from alembic import command

    _run(path, lambda config: command.upgrade(config, revision))


def downgrade(path: Path, revision: str) -> None:
    """Migrates back, all or nothing. Raises: SchemaError for an unknown revision."""
    from alembic import command

    _run(path, lambda config: command.downgrade(config, revision))


def check(path: Path) -> None:
    """Compares the tables with what this program expects. Raises: SchemaError where they differ."""
    from alembic import command

    _run(path, lambda config: command.check(config), connect=reading)


def _run(
    path: Path,
    act: Callable[[Config], None],
    *,
    connect: Callable[[Path], sqlite3.Connection] = writing,
) -> None:
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config(stdout=io.StringIO())
    config.set_main_option("script_location", str(_MIGRATIONS))
    try:
        with _connected(path, connect) as connection:
            config.attributes["connection"] = connection
            act(config)
    except CommandError as error:
        raise SchemaError(
            f"the database {path.name} cannot be migrated",
            why=str(error),
            fix="run the version of the program that wrote it, or restore a backup",
        ) from None


@contextlib.contextmanager
def _connected(path: Path, connect: Callable[[Path], sqlite3.Connection]) -> Iterator[Connection]:
    """A connection whose transactions begin when they should, also before a CREATE TABLE."""
    engine = create_engine("sqlite://", creator=lambda: connect(path), poolclass=NullPool)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    try:
        with engine.connect() as connection:
            yield connection
    except DBAPIError as error:
        raise StoreError(
            f"the database {path.name} cannot be read",
            why=str(error.orig),
            fix="is this the file? If it is, look at the disk, or restore a backup",
        ) from None
    finally:
        engine.dispose()
