"""The machine and what is installed on it."""

from __future__ import annotations

import platform
import resource
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

from fedserver.config import Config
from fedserver.doctor.finding import Finding, judged, looked

__all__ = ["machine"]

# The first release without the bug of SQLite's write-ahead log that can spoil a database when two
# connections write or checkpoint at once; this server has one writer, and so is safe with any.
_SQLITE_MENDED = (3, 51, 3)
_OLDEST_GRPC = (1, 80)


def machine(config: Config) -> Iterator[Finding]:
    """The findings about it."""
    yield _python()
    if isinstance(config.database, Path):
        yield _sqlite()
    yield _grpc()
    yield _protobuf()
    yield looked("disk", lambda: _disk(config))
    yield _files(config)


def _python() -> Finding:
    fits = sys.version_info >= (3, 11)
    return judged("python", fits, platform.python_version(), "use Python 3.11 or newer")


def _sqlite() -> Finding:
    detail = sqlite3.sqlite_version
    if sqlite3.sqlite_version_info < _SQLITE_MENDED:
        detail += " has a bug that needs two writers; this server has one, so let no other"
        return Finding("sqlite", "warning", detail, "never write to the database by other means")
    return Finding("sqlite", "ok", detail)


def _grpc() -> Finding:
    import grpc

    found = tuple(int(part) for part in grpc.__version__.split(".")[:2])
    return judged("grpc", found >= _OLDEST_GRPC, grpc.__version__, "install grpcio 1.80 or newer")


def _protobuf() -> Finding:
    from google.protobuf.internal import api_implementation

    found = api_implementation.Type()
    return judged("protobuf", found == "upb", found, "unset PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION")


def _disk(config: Config) -> Finding:
    folder = config.server.state_directory.absolute()
    while not folder.exists():
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    free = usage.free / usage.total
    return judged(
        "disk",
        free >= config.limits.disk_free,
        f"{usage.free >> 30} GiB are free, {free:.0%}",
        "make room: below limits.disk_free new work is refused",
    )


def _files(config: Config) -> Finding:
    """Every connection is an open file, and a client that waits for work holds one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)  # which the server asks for
    fits = most == resource.RLIM_INFINITY or most >= config.limits.waiting_rpcs
    return judged(
        "open files",
        fits,
        f"{most} may be open, and limits.waiting_rpcs clients may wait",
        f"raise the limit (LimitNOFILE, ulimit -n), or lower limits.waiting_rpcs to {most // 2}",
        level="warning",
    )
