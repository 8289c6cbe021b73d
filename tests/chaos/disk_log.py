"""All that a server does to its disk, in order: calls of the system, and the database's statements.

What is recorded can be done again on a disk that is only a model of one, up to any sync.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import fedserver.store.sqlite.store as opening

__all__ = [
    "DiskLog",
    "Link",
    "MakeFile",
    "MakeFolder",
    "Remove",
    "Rename",
    "Statement",
    "Sync",
    "SyncFolder",
    "Truncate",
    "Write",
]


_DATABASE = "fed.db"  # and its log, its index and its lock


@dataclass(frozen=True)
class MakeFolder:
    path: Path


@dataclass(frozen=True)
class MakeFile:
    path: Path
    file: int


@dataclass(frozen=True)
class Write:
    """`offset`: None, at the end."""

    file: int
    data: bytes
    offset: int | None


@dataclass(frozen=True)
class Truncate:
    file: int
    size: int


@dataclass(frozen=True)
class Sync:
    """`data`: what the file held, however it came there."""

    file: int
    data: bytes


@dataclass(frozen=True)
class SyncFolder:
    path: Path


@dataclass(frozen=True)
class Rename:
    source: Path
    target: Path


@dataclass(frozen=True)
class Link:
    source: Path
    target: Path


@dataclass(frozen=True)
class Remove:
    path: Path


@dataclass(frozen=True)
class Statement:
    """Of the connection that writes to the database."""

    text: str


Event = (
    MakeFolder
    | MakeFile
    | Write
    | Truncate
    | Sync
    | SyncFolder
    | Rename
    | Link
    | Remove
    | Statement
)


@dataclass
class DiskLog:
    """What happens under `root`, but for the files of the database itself, until the patch ends."""

    root: Path
    events: list[Event] = field(default_factory=list)
    _files: dict[Path, int] = field(default_factory=dict)
    _open: dict[int, Path] = field(default_factory=dict)
    _next: int = 0
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def record(self, patch: pytest.MonkeyPatch) -> None:
        """From here on everything is written down."""
        acts: Mapping[str, Callable[..., None]] = {
            "open": self._opened,
            "close": self._closed,
            "write": self._written,
            "pwrite": self._written,
            "ftruncate": self._truncated,
            "fsync": self._synced,
            "mkdir": self._folder_made,
            "replace": self._renamed,
            "rename": self._renamed,
            "link": self._linked,
            "unlink": self._removed,
        }
        for name, note in acts.items():
            patch.setattr(os, name, self._noting(getattr(os, name), note))
        real = opening.writing

        def writing(path: Path) -> sqlite3.Connection:
            connection = real(path)
            connection.set_trace_callback(lambda text: self.events.append(Statement(text)))
            return connection

        patch.setattr(opening, "writing", writing)

    def _noting(self, real: Callable[..., Any], note: Callable[..., None]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            with self._lock:
                answer = real(*given, **named)
                note(answer, *given)
                return answer

        return call

    def _ours(self, path: object) -> Path | None:
        if not isinstance(path, str | os.PathLike):
            return None
        found = Path(path)
        ours = found.is_relative_to(self.root) and not found.name.startswith(_DATABASE)
        return found if ours else None

    def _opened(self, descriptor: int, path: object, flags: int, *_: object) -> None:
        self._open.pop(descriptor, None)
        if (found := self._ours(path)) is None:
            return
        self._open[descriptor] = found
        if flags & os.O_CREAT and found not in self._files:
            self._next += 1
            self._files[found] = self._next
            self.events.append(MakeFile(found, self._next))

    def _closed(self, _: None, descriptor: int) -> None:
        self._open.pop(descriptor, None)

    def _written(self, count: int, descriptor: int, data: Any, offset: int | None = None) -> None:
        if (file := self._file(descriptor)) is not None:
            self.events.append(Write(file, bytes(memoryview(data)[:count]), offset))

    def _truncated(self, _: None, descriptor: int, size: int) -> None:
        if (file := self._file(descriptor)) is not None:
            self.events.append(Truncate(file, size))

    def _synced(self, _: None, descriptor: int) -> None:
        path = self._open.get(descriptor)
        if path is not None and path.is_dir():
            self.events.append(SyncFolder(path))
        elif (file := self._file(descriptor)) is not None:
            with open(f"/proc/self/fd/{descriptor}", "rb") as held:
                self.events.append(Sync(file, held.read()))

    def _folder_made(self, _: None, path: object, *__: object) -> None:
        if (found := self._ours(path)) is not None:
            self.events.append(MakeFolder(found))

    def _renamed(self, _: None, source: object, target: object) -> None:
        before, after = self._ours(source), self._ours(target)
        if before is not None and after is not None:
            self._files[after] = self._files.pop(before)
            self._open = {n: after if p == before else p for n, p in self._open.items()}
            self.events.append(Rename(before, after))

    def _linked(self, _: None, source: object, target: object) -> None:
        before, after = self._ours(source), self._ours(target)
        if before is not None and after is not None:
            self._files[after] = self._files[before]
            self.events.append(Link(before, after))

    def _removed(self, _: None, path: object) -> None:
        if (found := self._ours(path)) is not None:
            self._files.pop(found, None)
            self.events.append(Remove(found))

    def _file(self, descriptor: int) -> int | None:
        path = self._open.get(descriptor)
        return None if path is None else self._files.get(path)
