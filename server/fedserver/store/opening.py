"""Opens the store that an address names; a driver is imported only where it is used."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedcore.errors import InstallError
from fedserver.store.postgres.address import Database
from fedserver.store.sqlite.store import SqliteStore

if TYPE_CHECKING:
    from fedserver.store.protocol import Store

__all__ = ["kind_of", "open_store", "require_driver"]


def kind_of(database: Database) -> str:
    """What kind of database an address names, in a word."""
    return "sqlite" if isinstance(database, Path) else "postgresql"


def require_driver(database: Database) -> None:
    """Raises: InstallError where what speaks to that database is not installed."""
    if not isinstance(database, Path) and importlib.util.find_spec("psycopg") is None:
        raise InstallError(
            "a database on PostgreSQL needs psycopg",
            why="it is not installed",
            fix="install the extra 'postgres', in a checkout: pip install -e '.[postgres]'",
        )


async def open_store(database: Database, *, keys: Sequence[bytes]) -> Store:
    """The store in that database, made if it is empty. `keys`: the datastore keys, the first seals.

    Raises: StoreError; SchemaError; ArgumentError; InstallError.
    """
    if isinstance(database, Path):
        return await SqliteStore.open(database, keys=keys)
    require_driver(database)
    from fedserver.store.postgres.store import PostgresStore

    return await PostgresStore.open(database, keys=keys)
