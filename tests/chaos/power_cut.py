"""What a disk holds when its power is cut at any sync of all that a server did to it.

At a sync the worst that can be lost is what was not synced before. Half of that may be there all
the same, sector by sector, and so may names that no folder was synced for.
"""

from __future__ import annotations

import hashlib
import random
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import apsw

from tests.chaos.disk_log import (
    Event,
    Link,
    MakeFile,
    MakeFolder,
    Remove,
    Rename,
    Statement,
    Sync,
    SyncFolder,
    Truncate,
    Write,
)
from tests.server.store.power import LossyVfs

__all__ = ["Cut", "every_cut", "tables_after"]

_SECTOR = 512
_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", "foreign_keys=ON")


@dataclass
class _File:
    now: bytearray = field(default_factory=bytearray)
    synced: bytes = b""


@dataclass(frozen=True)
class Cut:
    """`number`: of the sync that does not happen, from 1. `commits`: how many had returned."""

    number: int
    commits: int
    disk: _Disk
    database: LossyVfs

    def image(self, target: Path, *, luck: random.Random | None = None) -> None:
        """A new folder with what is found. `luck`: some of what was not synced is there too."""
        self.disk.image(target, luck)
        for path, synced in self.database.synced.items():
            data = synced
            if luck is not None and Path(path).exists():
                data = _mixed(synced, Path(path).read_bytes(), luck)
            (target / Path(path).name).write_bytes(data)


class _Disk:
    """A model of the files below `root`, the database's own not among them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files: dict[int, _File] = {}
        self._names: dict[Path, int] = {}
        self._durable: dict[Path, int] = {}
        self._folders: set[Path] = set()
        self._durable_folders: set[Path] = set()

    def take(self, event: Event) -> None:
        match event:
            case MakeFolder(path):
                self._folders.add(path)
            case MakeFile(path, file):
                self._files[file] = _File()
                self._names[path] = file
            case Write(file, data, offset):
                now = self._files[file].now
                start = len(now) if offset is None else offset
                now.extend(bytes(max(0, start - len(now))))
                now[start : start + len(data)] = data
            case Truncate(file, size):
                now = self._files[file].now
                del now[size:]
                now.extend(bytes(size - len(now)))
            case Sync(file, data):
                self._files[file] = _File(bytearray(data), data)
            case SyncFolder(path):
                self._durable = _beside(self._durable, path) | _inside(self._names, path)
                self._durable_folders -= {p for p in self._durable_folders if p.parent == path}
                self._durable_folders |= {p for p in self._folders if p.parent == path}
            case Rename(source, target):
                self._names[target] = self._names.pop(source)
            case Link(source, target):
                self._names[target] = self._names[source]
            case Remove(path):
                self._names.pop(path, None)

    def image(self, target: Path, luck: random.Random | None) -> None:
        target.mkdir(parents=True)
        folders, names = self._durable_folders, self._durable
        for folder in sorted({path.parent for path in (*self._names, *self._folders)}):
            if luck is not None and luck.random() < 0.5:
                names = _beside(names, folder) | _inside(self._names, folder)
                folders = folders | {path for path in self._folders if path.parent == folder}
        for folder in sorted(folders):
            if (target / folder.relative_to(self.root)).parent.is_dir():
                (target / folder.relative_to(self.root)).mkdir()
        for path, number in names.items():
            kept, file = target / path.relative_to(self.root), self._files[number]
            if kept.parent.is_dir():
                data = file.synced if luck is None else _grown(file.synced, file.now, luck)
                kept.write_bytes(data)


def _inside(names: dict[Path, int], folder: Path) -> dict[Path, int]:
    return {path: file for path, file in names.items() if path.parent == folder}


def _beside(names: dict[Path, int], folder: Path) -> dict[Path, int]:
    return {path: file for path, file in names.items() if path.parent != folder}


def _mixed(synced: bytes, now: bytes | bytearray, luck: random.Random) -> bytes:
    """Each sector as it was synced, or as it is now; zeros where the file only grew."""
    if synced == now:
        return synced
    size, found = luck.choice((len(synced), len(now))), bytearray()
    for at in range(0, size, _SECTOR):
        written = at < len(now) and luck.random() < 0.5
        sector = (now if written else synced)[at : at + _SECTOR]
        found += sector[: size - at].ljust(min(_SECTOR, size - at), b"\0")
    return bytes(found)


def _grown(synced: bytes, now: bytes | bytearray, luck: random.Random) -> bytes:
    """The same, but that what was written behind the end is there up to somewhere, then zeros.

    A ledger whose last record is there without its beginning refuses to be opened, as it should:
    nobody can tell that from a record that was durable and is damaged.
    """
    there = luck.randint(min(len(synced), len(now)), len(now))
    behind = bytes(now[len(synced) : there]).ljust(max(0, len(now) - len(synced)), b"\0")
    return _mixed(synced, now[: len(synced)], luck).ljust(len(synced), b"\0") + behind


def every_cut(
    events: Sequence[Event], root: Path, database: Path, cut: Callable[[Cut], None]
) -> int:
    """Does all of it again, and calls `cut` before each sync and at the end: how many there were.

    `database`: as it was before the first event; the replay writes to it.
    """
    disk, commits, number = _Disk(root), 0, 0

    def before_sync() -> None:
        nonlocal number
        number += 1
        cut(Cut(number, commits, disk, vfs))

    vfs = LossyVfs(cut_at=2**62, before_sync=before_sync)
    vfs.synced[str(database)] = database.read_bytes()
    connection = apsw.Connection(str(database), vfs=vfs.name)
    try:
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}").fetchall()
        for event in events:
            match event:
                case Statement(text):
                    connection.execute(text).fetchall()
                    commits += text == "COMMIT"
                case Sync() | SyncFolder():
                    before_sync()
                    disk.take(event)
                case _:
                    disk.take(event)
        before_sync()
    finally:
        vfs.before_sync = lambda: None
        connection.close()
    return number


def tables_after(events: Sequence[Event], database: Path) -> list[str]:
    """The digest of all tables before the first commit, after it, after the second, …"""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as memory:
        with closing(sqlite3.connect(database)) as source:
            source.backup(memory)
        found = [digest_of(memory)]
        for event in events:
            if isinstance(event, Statement) and not event.text.startswith("PRAGMA"):
                memory.execute(event.text)
                if event.text == "COMMIT":
                    found.append(digest_of(memory))
    return found


def digest_of(connection: sqlite3.Connection) -> str:
    """SHA-256 of all rows of all tables."""
    found = hashlib.sha256()
    names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")
    for (name,) in names.fetchall():
        for row in connection.execute(f"SELECT * FROM {name} ORDER BY rowid"):
            found.update(repr((name, row)).encode())
    return found.hexdigest()
