"""Which schema a database has, and the way to the one that this program knows.

A database of another schema is refused, not guessed at; `fed db upgrade` migrates it. Alembic is
imported only where it has something to do, so that a server starts without it.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import DBAPIError

from fedcore.errors import SchemaError, StoreError
from fedserver.disk import MAKE_ROOM
from fedserver.store.connection import engine_of, is_full, reading, writing
from fedserver.store.postgres.address import Database

if TYPE_CHECKING:
    from alembic.config import Config

__all__ = [
    "HEAD",
    "check",
    "connected",
    "downgrade",
    "is_empty",
    "known",
    "prepare",
    "upgrade",
    "version_at",
    "version_of",
]

HEAD = "0006"  # the newest step under migrations/versions
SUPPORTED = frozenset({HEAD})

_MIGRATIONS = Path(__file__).parent / "migrations"


def version_of(connection: Connection) -> str | None:
    """The schema that a database says it has, or None: it is empty."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return None if found is None else str(found)


def version_at(database: Database) -> str | None:
    """The schema of a database. Raises: StoreError."""
    with connected(database) as connection:
        return version_of(connection)


def is_empty(database: Path) -> bool:
    """Whether a file holds no table yet, as after a start that was cut short. Raises: StoreError.

    Nothing of one without a byte is read: SQLite would delete the log that lies beside it.
    """
    if not database.stat().st_size:
        return True
    with connected(database) as connection:
        return not inspect(connection).get_table_names()


def known() -> tuple[str, ...]:
    """All steps of the schema's history, the oldest first: from these an upgrade is possible."""
    from alembic.script import ScriptDirectory

    steps = ScriptDirectory(str(_MIGRATIONS)).walk_revisions()
    return tuple(step.revision for step in steps)[::-1]


def prepare(database: Database) -> None:
    """Makes the tables where there are none. Raises: SchemaError for a database of another schema.

    Of several servers that begin on an empty database, one makes them.
    """
    if isinstance(database, Path) and not database.exists():
        upgrade(database)
        return
    with connected(database) as connection:
        found = version_of(connection)
        empty = found is None and not inspect(connection).get_table_names()
    if empty:  # or killed before its first migration was durable
        upgrade(database)
    elif found not in SUPPORTED:
        where = f"--database {database}" if isinstance(database, Path) else "--config SETTINGS"
        raise SchemaError(
            f"the database {database.name} has the schema {found or 'of no version'}",
            why=f"this program knows {', '.join(sorted(SUPPORTED))}",
            fix=f"make a backup, then run: fed db upgrade {where}"
            if found in known()
            else "run the version of the program that wrote it, or a newer one",
        )


def upgrade(database: Database, revision: str = "head") -> None:
    """Migrates forward, all or nothing. Raises: SchemaError for an unknown revision."""
    from alembic import command

    _run(database, lambda config: command.upgrade(config, revision))


def downgrade(database: Database, revision: str) -> None:
    """Migrates back, all or nothing. Raises: SchemaError for an unknown revision."""
    from alembic import command

    _run(database, lambda config: command.downgrade(config, revision))


def check(database: Database) -> None:
    """Compares the tables with what this program expects. Raises: SchemaError where they differ."""
    from alembic import command

    _run(database, lambda config: command.check(config), writes=False)


def _run(database: Database, act: Callable[[Config], None], *, writes: bool = True) -> None:
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config(stdout=io.StringIO())
    config.set_main_option("script_location", str(_MIGRATIONS))
    try:
        with connected(database, writes=writes) as connection:
            config.attributes["connection"] = connection
            act(config)
    except CommandError as error:
        raise SchemaError(
            f"the database {database.name} cannot be migrated",
            why=str(error),
            fix="run the version of the program that wrote it, or restore a backup",
        ) from None


@contextlib.contextmanager
def connected(database: Database, *, writes: bool = False) -> Iterator[Connection]:
    """A connection to a database, by default one that cannot change it. Raises: StoreError."""
    engine = _engine(database, writes=writes)
    try:
        with engine.connect() as connection:
            yield connection
    except DBAPIError as error:
        if is_full(error.orig):
            raise StoreError(
                f"the database {database.name} cannot be written",
                why=str(error.orig).strip(),
                fix=MAKE_ROOM,
            ) from None
        raise StoreError(
            f"the database {database.name} cannot be read",
            why=str(error.orig).strip(),
            fix="is this the file? If it is, look at the disk, or restore a backup"
            if isinstance(database, Path)
            else "look at server.database_url, the password that libpq finds, and whether it runs",
        ) from None
    finally:
        engine.dispose()


def _engine(database: Database, *, writes: bool) -> Engine:
    """Of connections that write beside nobody, or cannot write at all."""
    if isinstance(database, Path):
        return engine_of(lambda: (writing if writes else reading)(database))
    # Imported here: psycopg is there only where the extra `postgres` is.
    from fedserver.store.postgres.engine import migrating_engine, reading_engine

    return (migrating_engine if writes else reading_engine)(database)
