"""What could keep a server from running well, looked at one by one before it is started."""

from __future__ import annotations

import contextlib
import ipaddress
import platform
import resource
import shutil
import socket
import sqlite3
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fedcore.errors import FedcoreError
from fedserver.config import Config

__all__ = ["Finding", "examine"]

# The first release without the bug of SQLite's write-ahead log that can spoil a database when two
# connections write or checkpoint at once; this server has one writer, and so is safe with any.
_SQLITE_MENDED = (3, 51, 3)
_OLDEST_GRPC = (1, 80)
_SKEW_S = 300
_DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `level`: "ok", "warning" or "error"; `fix`: for those."""

    check: str
    level: str
    detail: str
    fix: str = ""


def examine(config: Config, *, now_s: Callable[[], float] = time.time) -> Iterator[Finding]:
    """Every finding in turn; nothing is changed, and no error is raised."""
    yield _python()
    if isinstance(config.database, Path):
        yield _sqlite()
    yield _grpc()
    yield _protobuf()
    yield _disk(config)
    yield _files(config)
    yield _secrets(config)
    yield _authority(config)
    yield _reach(config)
    yield from _ports(config)
    yield from _certificates(config, now_s())
    yield _database(config, now_s())
    yield from _objects(config)


def _python() -> Finding:
    fits = sys.version_info >= (3, 11)
    return _finding("python", fits, platform.python_version(), "use Python 3.11 or newer")


def _sqlite() -> Finding:
    detail = sqlite3.sqlite_version
    if sqlite3.sqlite_version_info < _SQLITE_MENDED:
        detail += " has a bug that needs two writers; this server has one, so let no other"
        return Finding("sqlite", "warning", detail, "never write to the database by other means")
    return Finding("sqlite", "ok", detail)


def _grpc() -> Finding:
    import grpc

    found = tuple(int(part) for part in grpc.__version__.split(".")[:2])
    return _finding("grpc", found >= _OLDEST_GRPC, grpc.__version__, "install grpcio 1.80 or newer")


def _protobuf() -> Finding:
    from google.protobuf.internal import api_implementation

    found = api_implementation.Type()
    return _finding(
        "protobuf", found == "upb", found, "unset PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"
    )


def _disk(config: Config) -> Finding:
    folder = config.server.state_directory.absolute()
    while not folder.exists():
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    free = usage.free / usage.total
    return _finding(
        "disk",
        free >= config.limits.disk_free,
        f"{usage.free >> 30} GiB are free, {free:.0%}",
        "make room: below limits.disk_free new work is refused",
    )


def _files(config: Config) -> Finding:
    """Every connection is an open file, and a client that waits for work holds one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)  # which the server asks for
    fits = most == resource.RLIM_INFINITY or most >= config.limits.waiting_rpcs
    return _finding(
        "open files",
        fits,
        f"{most} may be open, and limits.waiting_rpcs clients may wait",
        f"raise the limit (LimitNOFILE, ulimit -n), or lower limits.waiting_rpcs to {most // 2}",
        level="warning",
    )


def _authority(config: Config) -> Finding:
    """Whether the keys open, with the passphrase of the settings, and belong together."""
    from fedserver.authority import Authority
    from fedserver.key_files import secret_from

    source = config.authority.passphrase_file
    try:
        passphrase = secret_from(source) if source else None
        found = Authority.open(config.authority_directory, passphrase=passphrase)
    except FedcoreError as error:
        return Finding("authority", "error", f"{error.what}: {error.why}", error.fix)
    return Finding("authority", "ok", f"{found.trust_domain}, {found.root_digest.hex()}")


def _objects(config: Config) -> Iterator[Finding]:
    """Whether a store of models answers; that it takes some, a server tries when it starts."""
    from fedserver.objects import Objects

    if (address := config.blobs) is None:
        return
    try:
        count = len(Objects.connected(address).names())
    except FedcoreError as error:
        yield Finding("models", "error", f"{error.what}: {error.why}", error.fix)
    else:
        yield Finding("models", "ok", f"{address.root} answers, and holds {count} objects")


def _reach(config: Config) -> Finding:
    """A server on loopback that is called otherwise is the first mistake on three machines."""
    settings = config.server
    with contextlib.suppress(ValueError):
        local = settings.host == "localhost" or ipaddress.ip_address(settings.host).is_loopback
        others = set(settings.hosts) - {"localhost", "127.0.0.1", "::1"}
        if local and others:
            return Finding(
                "reach",
                "warning",
                f"only this machine reaches {settings.host}, not as {', '.join(sorted(others))}",
                'set server.host to an address of the network, or to "0.0.0.0"',
            )
    return Finding("reach", "ok", f"listens on {settings.host}, called {', '.join(settings.hosts)}")


def _secrets(config: Config) -> Finding:
    """Files that only their owner may read: everything but certificates and lists."""
    folders = [config.authority_directory, config.server.state_directory]
    open_to_others = [
        path
        for folder in folders
        if folder.is_dir()
        for path in [folder, *folder.glob("*key*")]
        if stat.S_IMODE(path.stat().st_mode) & 0o077
    ]
    if not config.authority_directory.is_dir():
        return Finding(
            "keys",
            "error",
            f"there is no {config.authority_directory}",
            "make an authority with `fed ca init`, and name it in authority.directory",
        )
    names = ", ".join(str(path) for path in open_to_others)
    return _finding(
        "keys", not names, names or "only their owner may read them", f"chmod go= {names}"
    )


def _ports(config: Config) -> Iterator[Finding]:
    settings = config.server
    for name, host, port in (
        ("service port", settings.host, settings.port),
        ("enrolment port", settings.host, settings.enrolment_port),
        ("ops port", settings.ops_host, settings.ops_port),
    ):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            socket.create_server((host, port), family=family).close()
        except OSError as error:
            reason = f"{host}:{port}: {(error.strerror or str(error)).lower()}"
            fix = "if it is not this server that runs already, stop it, or choose another port"
            yield Finding(name, "error", reason, fix)
        else:
            yield Finding(name, "ok", f"{host}:{port} is free")


def _certificates(config: Config, now_s: float) -> Iterator[Finding]:
    from cryptography import x509

    for name in ("root", "issuing", "server"):
        path = config.authority_directory / f"{name}.pem"
        check = f"{name} certificate"
        try:
            found = x509.load_pem_x509_certificate(path.read_bytes())
        except (OSError, ValueError):
            absent = "is made at the start" if name == "server" else "cannot be read"
            level = "ok" if name == "server" else "error"
            yield Finding(check, level, f"{path.name} {absent}", "restore it from its backup")
            continue
        if found.not_valid_before_utc.timestamp() > now_s + _SKEW_S:
            yield Finding(check, "error", "it begins in the future", "set the machine's clock")
            continue
        days = (found.not_valid_after_utc.timestamp() - now_s) / _DAY_S
        # The server renews its own certificate by itself, the others need a person and time.
        fits = days > (0 if name == "server" else 30)
        renewal = {"server": "start the server", "issuing": "fed ca renew"}.get(
            name, "make a new authority in good time, and let clients join it"
        )
        yield _finding(check, fits, f"{days:.0f} days are left", renewal, level="warning")


def _database(config: Config, now_s: float) -> Finding:
    from fedserver.store.migrating import check

    path = config.database
    if not isinstance(path, Path):
        from fedserver.store.opening import require_driver

        try:
            require_driver(path)
            from fedserver.store.postgres.examination import complaints

            found = complaints(path, now_s=now_s)
        except FedcoreError as error:
            return Finding("database", "error", f"{error.what}: {error.why}", error.fix)
        if found:
            return Finding("database", *found[0])
        return Finding("database", "ok", f"{path.name} answers, and its schema is the program's")
    if not path.exists():
        return Finding("database", "ok", "it is made at the first start")
    if path.stat().st_mtime > now_s + _SKEW_S:
        return Finding(
            "database", "error", "it was written in the future", "set the machine's clock"
        )
    with contextlib.redirect_stdout(None):
        try:
            check(path)
        except FedcoreError as error:
            return Finding("database", "error", f"{error.what}: {error.why}", error.fix)
    return Finding("database", "ok", "its schema is the program's")


def _finding(check: str, fits: bool, detail: str, fix: str, *, level: str = "error") -> Finding:
    return Finding(check, "ok", detail) if fits else Finding(check, level, detail, fix)
