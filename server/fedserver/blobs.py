"""Blobs are files named by their digest, so that no row of the database points to half a model.

A blob gets its name only when its bytes are on the disk: temporary name, write, fsync, rename,
fsync of the folder. A crash or a power cut at any moment leaves a blob whole or absent; what lies
under a temporary name, or under a digest that no row knows, is collected a day later.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from fedcore.errors import ArgumentError, BlobError
from fedcore.failpoints import failpoint
from fedserver.disk import (
    MIB,
    FilePath,
    FsOps,
    blob_error,
    digest_of,
    in_thread,
    opened_file,
    require_space,
)

__all__ = ["BlobStore", "BlobWriter", "LocalBlobStore", "damaged", "digest_name"]

_DAY_S: Final = 86_400.0
_DIGEST_BYTES: Final = 32
_RESERVE: Final = 64 * MIB
_INCOMING: Final = "incoming"
_OURS: Final = re.compile(r"[0-9a-f]{32}|[0-9a-f]{64}")  # a temporary name, or a digest


class BlobWriter(Protocol):
    """A blob on its way in: bytes in order, then `commit`."""

    async def write(self, data: bytes | memoryview) -> None:
        """Append `data`, which must stay as it is until this returns. Raises: BlobError."""
        ...

    async def commit(self) -> bytes:
        """Make the blob durable under its digest, SHA-256, and return that. Raises: BlobError."""
        ...


class BlobStore(Protocol):
    """Immutable bytes by their SHA-256; every method raises BlobError when the disk fails.

    `digest` is always 32 bytes; anything else raises ArgumentError. A digest that is returned is
    durable, and only then may a row name it.
    """

    async def put_bytes(self, data: bytes) -> bytes:
        """Keep `data`: its digest."""
        ...

    async def put_file(self, path: FilePath) -> bytes:
        """Move a finished file of the same file system in: its digest."""
        ...

    def writer(self) -> AbstractAsyncContextManager[BlobWriter]:
        """Keep what is written piece by piece; without a `commit` nothing stays."""
        ...

    async def open_read(self, digest: bytes) -> BinaryIO:
        """The blob as an open file, which the caller closes. Raises: BlobError if missing."""
        ...

    async def read(self, digest: bytes, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset` on, none beyond the end."""
        ...

    async def size(self, digest: bytes) -> int:
        """The blob's size in bytes. Raises: BlobError if missing."""
        ...

    async def verify(self, digest: bytes) -> None:
        """Read all of it. Raises: BlobError if its bytes are not what was stored."""
        ...

    async def delete(self, digest: bytes) -> None:
        """Forget it; what is not there stays so."""
        ...

    async def orphans(self, known: Collection[bytes], *, older_than_s: float) -> list[bytes]:
        """The digests that are not `known` and whose blobs were put longer ago, sorted."""
        ...

    async def collect(self, known: Collection[bytes], *, older_than_s: float = _DAY_S) -> int:
        """Delete the orphans and what never got a name: how many files went."""
        ...


class LocalBlobStore:
    """Blobs in a folder of this machine: `root/ab/cd/abcd…`, folders 0700, files 0600.

    `reserve_bytes`: the space on the disk that no blob may take, because the database needs it.
    Raises: BlobError if the folder cannot be made.
    """

    def __init__(
        self, root: Path, *, reserve_bytes: int = _RESERVE, disk: FsOps | None = None
    ) -> None:
        self._root, self._reserve, self._disk = root, reserve_bytes, disk or FsOps()
        # A collector that saw an old blob must not delete what was put anew since.
        self._naming = threading.Lock()
        with blob_error(f"the blob folder {root.name} cannot be made"):
            root.parent.mkdir(parents=True, exist_ok=True)
            self._disk.make_folder(root)
            self._disk.make_folder(root / _INCOMING)

    async def put_bytes(self, data: bytes) -> bytes:
        async with self.writer() as writer:
            await writer.write(data)
            return await writer.commit()

    async def put_file(self, path: FilePath) -> bytes:
        return await in_thread(self._put_file, path)

    @asynccontextmanager
    async def writer(self) -> AsyncIterator[BlobWriter]:
        writer = _LocalWriter(self._root / _INCOMING, self._name, self._reserve, self._disk)
        try:
            await in_thread(writer.open)
            yield writer
        finally:
            await in_thread(writer.close)

    async def open_read(self, digest: bytes) -> BinaryIO:
        with _reading(digest):
            return await opened_file(self.path(digest))

    async def read(self, digest: bytes, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0:
            raise ArgumentError(
                f"{length} bytes from {offset} on are no part of a blob",
                why="an offset and a length are not negative",
                fix="ask for bytes from 0 on",
            )
        return await in_thread(self._read, digest, offset, length)

    async def size(self, digest: bytes) -> int:
        return await in_thread(self._size, digest)

    async def verify(self, digest: bytes) -> None:
        await in_thread(self._verify, digest)

    async def delete(self, digest: bytes) -> None:
        await in_thread(self._delete, self.path(digest))

    async def orphans(self, known: Collection[bytes], *, older_than_s: float) -> list[bytes]:
        return sorted(
            bytes.fromhex(path.name)
            for path in await in_thread(self._old_files, known, older_than_s)
            if path.parent.name != _INCOMING
        )

    async def collect(self, known: Collection[bytes], *, older_than_s: float = _DAY_S) -> int:
        return await in_thread(self._collect, known, older_than_s)

    def path(self, digest: bytes) -> str:
        """Where a blob lies, if it is there."""
        return f"{self._root}/{digest_name(digest)}"

    @contextmanager
    def incoming(self, size: int) -> Iterator[str]:
        """The path of a new file of `size` bytes that `put_file` can take; it goes otherwise.

        Raises: BlobError without room for it.
        """
        folder = self._root / _INCOMING
        path = _new_name(folder)
        with blob_error("a blob cannot be begun"):
            require_space(folder, size, reserve=self._reserve)
        try:
            yield path
        finally:
            with suppress(OSError):  # what stays is collected
                self._disk.unlink(path)

    def _put_file(self, path: FilePath) -> bytes:
        with blob_error(f"the file {os.path.basename(path)} could not be moved among the blobs"):
            file = self._disk.open(path)
            try:
                os.fchmod(file, 0o600)
                digest = digest_of(file)
                self._disk.fsync(file)
            finally:
                self._disk.close(file)
            self._name(path, digest)
        return digest

    def _name(self, source: FilePath, digest: bytes) -> None:
        """Give the durable file `source` the name of its digest, durably.

        What has that name already has the same bytes; the new file takes its place, since nobody
        knows whether the old one's name ever reached the disk, and so becomes young again.
        """
        target = self.path(digest)
        folder = os.path.dirname(target)
        if not os.path.isdir(folder):
            self._disk.make_folder(os.path.dirname(folder))
            self._disk.make_folder(folder)
        failpoint("blob.before_rename")
        with self._naming:
            os.utime(source)
            self._disk.rename(source, target)
        self._disk.fsync_folder(folder)
        failpoint("blob.after_rename")

    def _read(self, digest: bytes, offset: int, length: int) -> bytes:
        with _reading(digest), open(self.path(digest), "rb") as file:
            there = max(0, os.fstat(file.fileno()).st_size - offset)
            return os.pread(file.fileno(), min(length, there), offset) if there else b""

    def _size(self, digest: bytes) -> int:
        with _reading(digest):
            return os.stat(self.path(digest)).st_size

    def _verify(self, digest: bytes) -> None:
        with _reading(digest), open(self.path(digest), "rb") as file:
            found = digest_of(file.fileno())
        if not hmac.compare_digest(found, digest):
            raise damaged(digest, found, fix="restore it from a backup, and check the disk")

    def _delete(self, path: FilePath) -> None:
        name = os.path.basename(path)
        with blob_error(f"blob {name[:16]} cannot be deleted"), suppress(FileNotFoundError):
            self._disk.unlink(path)
            self._disk.fsync_folder(os.path.dirname(path))

    def _old_files(self, known: Collection[bytes], older_than_s: float) -> list[Path]:
        names = {digest.hex() for digest in known}
        before = time.time() - older_than_s
        with blob_error(f"the blob folder {self._root.name} cannot be read"):
            stored = (*self._root.glob("??/??/*"), *self._root.glob(f"{_INCOMING}/*"))
            return [
                path
                for path in stored
                if _OURS.fullmatch(path.name) and path.name not in names and _older(path, before)
            ]

    def _collect(self, known: Collection[bytes], older_than_s: float) -> int:
        before, gone = time.time() - older_than_s, 0
        for path in self._old_files(known, older_than_s):
            with self._naming:
                if _older(path, before):
                    self._delete(path)
                    gone += 1
        return gone


def _reading(digest: bytes) -> AbstractContextManager[None]:
    return blob_error(f"blob {digest.hex()[:16]} cannot be read")


class _LocalWriter:
    """A blob under a temporary name.

    It is not in the folder of its digest, which nobody knows yet, but beside it on the same file
    system, where a rename is one step all the same.
    """

    def __init__(
        self, folder: Path, name: Callable[[str, bytes], None], reserve: int, disk: FsOps
    ) -> None:
        self._folder, self._path = folder, _new_name(folder)
        self._name, self._reserve, self._disk = name, reserve, disk
        self._hash, self._size, self._file = hashlib.sha256(), 0, -1

    async def write(self, data: bytes | memoryview) -> None:
        await in_thread(self._write, data)

    async def commit(self) -> bytes:
        return await in_thread(self._commit)

    def open(self) -> None:
        with blob_error("a blob cannot be begun"):
            self._file = self._disk.create(self._path)

    def close(self) -> None:
        """Close the file, and take it away unless it was named."""
        with blob_error("a blob cannot be put away"):
            if self._file >= 0:
                self._disk.close(self._file)
                self._file = -1
            with suppress(FileNotFoundError):
                self._disk.unlink(self._path)

    def _write(self, data: bytes | memoryview) -> None:
        with blob_error("a blob cannot be written"):
            require_space(self._folder, memoryview(data).nbytes, reserve=self._reserve)
            self._disk.pwrite(self._file, data, self._size)
        self._hash.update(data)
        self._size += memoryview(data).nbytes

    def _commit(self) -> bytes:
        digest = self._hash.digest()
        with blob_error(f"blob {digest.hex()[:16]} cannot be made durable"):
            self._disk.fsync(self._file)
            self._name(self._path, digest)
        return digest


def _new_name(folder: Path) -> str:
    return f"{folder}/{os.urandom(16).hex()}"


def digest_name(digest: bytes) -> str:
    """What a blob is called below the root of its store. Raises: ArgumentError for no SHA-256.

    >>> digest_name(bytes(32))[:10]
    '00/00/0000'
    """
    if len(digest) != _DIGEST_BYTES:
        raise ArgumentError(
            f"a digest of {len(digest)} bytes names no blob",
            why="blobs are named by SHA-256, which has 32 bytes",
            fix="pass the digest that put_bytes, put_file or commit returned",
        )
    name = digest.hex()
    return f"{name[:2]}/{name[2:4]}/{name}"


def damaged(digest: bytes, found: bytes, *, fix: str) -> BlobError:
    """The error of a blob whose bytes have the digest `found`."""
    return BlobError(
        f"blob {digest.hex()[:16]} is damaged",
        why=f"its bytes have the digest {found.hex()[:16]}…",
        fix=fix,
    )


def _older(path: Path, before: float) -> bool:
    try:
        return path.stat().st_mtime < before
    except FileNotFoundError:
        return False
