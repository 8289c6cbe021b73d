"""A PostgreSQL server of our own for tests: in a temporary folder, on a socket that lies in it."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest

__all__ = ["DATABASES", "Postgres", "binaries"]

DATABASES = ("sqlite", pytest.param("postgres", marks=pytest.mark.postgres))

_USER = "fed"
_UNPRIVILEGED = ("postgres", "nobody")


@cache
def binaries() -> Path | None:
    """The folder of `initdb` and its like, if there is one."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    folders = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = sorted(folders, key=lambda path: float(path.parent.parent.name))
    return newest[-1].parent if newest else None


class Postgres:
    """A server that runs until `close`. It syncs its files, as one that is in use does."""

    def __init__(self) -> None:
        found = binaries()
        assert found is not None
        self._binaries = found
        # Short, because the path of a socket has 107 bytes at most.
        self.folder = Path(tempfile.mkdtemp(prefix="fed-pg-", dir="/tmp"))
        self._owner: dict[str, Any] = {}
        self._numbers = itertools.count()
        if os.geteuid() == 0:  # whom `initdb` refuses
            user = _unprivileged()
            self._owner = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            os.chown(self.folder, user.pw_uid, user.pw_gid)
        try:
            options = ("--auth=trust", "--encoding=UTF8", "--locale=C", "--data-checksums")
            self._run("initdb", "-D", self._data, "-U", _USER, *options)
            with (self.folder / "data" / "postgresql.conf").open("a") as settings:
                settings.write(
                    "listen_addresses = ''\nshared_buffers = 32MB\n"
                    f"unix_socket_directories = '{self.folder}'\n"
                )
            self.start()
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def url(self, database: str) -> str:
        """How to reach one of its databases."""
        return f"postgresql://{_USER}@/{database}?host={self.folder}"

    def start(self) -> None:
        self._control("start", "-l", str(self.folder / "log"))

    def stop(self, how: str = "immediate") -> None:
        """`immediate` is what a crash does: the log is replayed at the next start."""
        self._control("stop", "-m", how)

    def database(self, *, template: str = "template1") -> str:
        """The name of a new database, a copy of `template`."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def drop(self, name: str) -> None:
        """Ends whoever uses the database, and drops it."""
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def execute(
        self, statement: str, *values: object, database: str = "postgres"
    ) -> list[tuple[Any, ...]]:
        """Runs a statement by itself, as the owner of everything; gives its rows."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def close(self) -> None:
        """Stops it, and leaves nothing."""
        try:
            self.stop()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _data(self) -> str:
        return str(self.folder / "data")

    def _control(self, *arguments: str) -> None:
        self._run("pg_ctl", "-D", self._data, "-w", "-s", *arguments)

    def _run(self, program: str, *arguments: str) -> None:
        with tempfile.TemporaryFile() as complaints:  # a pipe would be kept open by the server
            done = subprocess.run(
                [str(self._binaries / program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=complaints,
                cwd="/",
                timeout=60,
                **self._owner,
            )
            complaints.seek(0)
            assert done.returncode == 0, complaints.read().decode()


def _unprivileged() -> pwd.struct_passwd:
    for name in _UNPRIVILEGED:
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise AssertionError(f"there is no user {' or '.join(_UNPRIVILEGED)}")
