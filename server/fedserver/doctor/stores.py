"""The database, what holds it to its past, and the store of models."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from fedcore.errors import FedcoreError
from fedserver.authority_acts import require_revocations
from fedserver.certificate_lists import CertificateLists
from fedserver.config import Config
from fedserver.doctor.finding import SKEW_S, Finding, looked, refused, tried
from fedserver.key_files import DATASTORE_KEYS, load_keys
from fedserver.newest_models import blobs_of, tasks_without
from fedserver.objects import ObjectAddress, Objects
from fedserver.rollback import check_database, require_database
from fedserver.store.locking import require_free
from fedserver.store.migrating import check, is_empty, version_at
from fedserver.store.opening import require_driver
from fedserver.store.postgres.address import Database, PostgresAddress
from fedserver.store.sealed import require_keys

__all__ = ["stores"]


def stores(config: Config, now_s: float) -> Iterator[Finding]:
    """The findings about them."""
    database = config.database
    if isinstance(database, Path):
        yield tried("one server", lambda: _alone(database))
    found = looked("database", lambda: _database(config, now_s))
    yield found
    if found.level != "error" and _is_filled(database):
        yield tried("history", lambda: _history(config))
        yield tried("datastore keys", lambda: _sealed(config))
        yield tried("revocations", lambda: _revocations(config))
        yield from _newest(config)
    if (address := config.blobs) is not None:
        yield tried("models", lambda: _models(address))


def _alone(database: Path) -> str:
    require_free(database)
    return f"no process has {database.name}"


def _is_filled(database: Database) -> bool:
    if isinstance(database, Path) and _is_to_be_made(database):
        return False
    return version_at(database) is not None


def _is_to_be_made(database: Path) -> bool:
    return not database.exists() or is_empty(database)


def _database(config: Config, now_s: float) -> Finding:
    path = config.database
    if isinstance(path, PostgresAddress):
        return _postgres(path, now_s)
    require_database(config)
    if _is_to_be_made(path):
        return Finding("database", "ok", "it is made at the first start")
    if path.stat().st_mtime > now_s + SKEW_S:
        what = "it was written in the future"
        return Finding("database", "error", what, "set the machine's clock")
    with contextlib.redirect_stdout(None):
        check(path)
    return Finding("database", "ok", "its schema is the program's")


def _postgres(address: PostgresAddress, now_s: float) -> Finding:
    require_driver(address)
    from fedserver.store.postgres.examination import complaints

    found = complaints(address, now_s=now_s)
    if found:
        return Finding("database", *found[0])
    return Finding("database", "ok", f"{address.name} answers, and its schema is the program's")


def _history(config: Config) -> str:
    return f"the audit log has {check_database(config)} entries, and what was signed of it"


def _revocations(config: Config) -> str:
    lists = CertificateLists(config.authority_directory)
    return f"{require_revocations(lists, config.database)}, as the audit log has them"


def _sealed(config: Config) -> str:
    require_keys(config.database, load_keys(config.authority_directory / DATASTORE_KEYS))
    return "they open what open attempts have sealed"


def _newest(config: Config) -> Iterator[Finding]:
    """Of each task that would stand still, why."""
    try:
        running, without = tasks_without(config.database, blobs_of(config))
    except FedcoreError as error:
        yield refused("newest models", error)
        return
    yield from (refused("newest models", error) for error in without)
    if not without:
        yield Finding("newest models", "ok", f"those of {running} running tasks are whole")


def _models(address: ObjectAddress) -> str:
    """Whether a store of models answers; that it takes some, a server tries when it starts."""
    count = len(Objects.connected(address).names())
    return f"{address.root} answers, and holds {count} objects"
