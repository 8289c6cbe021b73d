"""Where a PostgreSQL database is, without the password that opens it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

__all__ = ["Database", "PostgresAddress"]

_SCHEMES = ("postgresql", "postgres")


@dataclass(frozen=True, slots=True)
class PostgresAddress:
    """`url`: as libpq takes it; `password`: a file, or `env:NAME`; "" leaves it to libpq.

    Raises: ValueError for a URL that is none, or that has a password in it.

    >>> PostgresAddress("postgresql://fed@db.example:5432/federation?sslmode=verify-full").name
    'federation on db.example'
    >>> PostgresAddress("postgresql://fed:secret@db.example/federation")
    Traceback (most recent call last):
    ...
    ValueError: it must not hold a password, which others would read
    """

    url: str
    password: str = ""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in _SCHEMES:
            raise ValueError("it has to begin with postgresql://")
        if parts.password is not None or "password" in parse_qs(parts.query):
            raise ValueError("it must not hold a password, which others would read")

    @property
    def name(self) -> str:
        """What to call it in a message: the database and its host."""
        parts = urlsplit(self.url)
        options = parse_qs(parts.query)
        host = parts.hostname or options.get("host", ["this machine"])[0]
        database = parts.path.lstrip("/") or options.get("dbname", ["the default database"])[0]
        return f"{database} on {host}"


Database = Path | PostgresAddress  # a path is that of a SQLite file
