"""What of a PostgreSQL server could lose data, or keep a server of ours from running."""

from __future__ import annotations

from sqlalchemy import Connection, text

from fedserver.store.migrating import check, connected, version_of
from fedserver.store.postgres.address import PostgresAddress
from fedserver.store.postgres.connection import NOW_MS

__all__ = ["complaints"]

_OLDEST = 150_000
_SKEW_MS = 300_000
# By name: what it must not be, how bad that is, what it means.
_SETTINGS = {
    "fsync": ("off", "error", "a power cut destroys the database"),
    "full_page_writes": ("off", "error", "a power cut can destroy pages of the database"),
    "data_checksums": ("off", "warning", "what a disk spoils is not noticed"),
}
_REMEDY = {
    "fsync": "set fsync = on in postgresql.conf",
    "full_page_writes": "set full_page_writes = on in postgresql.conf",
    "data_checksums": "run pg_checksums --enable while it is stopped",
}


def complaints(address: PostgresAddress, *, now_s: float) -> list[tuple[str, str, str]]:
    """Level, detail and remedy of each thing that is wrong, errors first; nothing is changed.

    Raises: StoreError where it cannot be reached, SchemaError for another schema.
    """
    with connected(address) as connection:
        found = [*_of_server(connection, now_s=now_s)]
        is_empty = version_of(connection) is None
    if not is_empty:
        check(address)
    return sorted(found)


def _of_server(connection: Connection, *, now_s: float) -> list[tuple[str, str, str]]:
    found = []
    version = int(_shown(connection, "server_version_num"))
    if version < _OLDEST:
        found.append(("error", f"PostgreSQL {version // 10_000} is too old", "use 15 or newer"))
    for name, (bad, level, meaning) in _SETTINGS.items():
        if _shown(connection, name) == bad:
            found.append((level, f"{name} is {bad}: {meaning}", _REMEDY[name]))
    skew_ms = int(connection.scalar(text(f"SELECT {NOW_MS}")) or 0) - 1000 * now_s
    if abs(skew_ms) > _SKEW_MS:
        detail = f"its clock is {skew_ms / 1000:+.0f} s from this machine's"
        found.append(("error", detail, "set the clocks of both machines"))
    return found


def _shown(connection: Connection, name: str) -> str:
    return str(connection.scalar(text("SELECT current_setting(:name)"), {"name": name}))
