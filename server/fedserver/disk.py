"""What changes the disk goes through one small class, so that a test can cut the power in between.

Beside it stands what all work on the disk shares: a thread in which it comes to its end, an error
that says why it failed, and room that has to stay free.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import math
import os
import shutil
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final, ParamSpec, TypeAlias, TypeVar

from fedcore.errors import BlobError

__all__ = [
    "MAKE_ROOM",
    "MIB",
    "FilePath",
    "FolderSync",
    "FreeShare",
    "FsOps",
    "blob_error",
    "broken",
    "digest_of",
    "finished",
    "in_thread",
    "lacks_room",
    "opened_file",
    "require_space",
]

P = ParamSpec("P")
T = TypeVar("T")

FilePath: TypeAlias = str | Path
"""Where a file lies. One that comes and goes with a call is named by a string: `pathlib` interns
each name, one for every second call, and Python 3.12.0 to 3.12.5 keeps it for ever
(python/cpython#121780); elsewhere their table doubles after 80,000 calls, by 2 MB."""

MIB: Final = 1 << 20
MAKE_ROOM: Final = "make room on the disk; what was begun is not kept"
"""What to do wherever a disk is full."""


class FsOps:
    """What changes a disk, in one place, so that a test can cut the power between any two steps.

    Files are made for their owner alone. Every method raises OSError.
    """

    def create(self, path: FilePath) -> int:
        """The descriptor of a new, empty file, open to be read and written."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def open(self, path: FilePath) -> int:
        """The descriptor of a file that exists, open to be read and written; never of a link."""
        return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)

    def pwrite(self, file: int, data: bytes | memoryview, offset: int) -> None:
        """Write all of `data` at `offset`."""
        left = memoryview(data).cast("B")
        while left:
            written = os.pwrite(file, left, offset)
            left, offset = left[written:], offset + written

    def truncate(self, file: int, size: int) -> None:
        """Cut a file to `size` bytes."""
        os.ftruncate(file, size)

    def fsync(self, file: int) -> None:
        """Bring the bytes of a file onto the disk."""
        os.fsync(file)

    def close(self, file: int) -> None:
        """Close a descriptor."""
        os.close(file)

    def rename(self, source: FilePath, target: FilePath) -> None:
        """Give a file another name, in place of what had it."""
        os.replace(source, target)

    def unlink(self, path: FilePath) -> None:
        """Take a name away."""
        os.unlink(path)

    def make_folder(self, path: FilePath) -> None:
        """Make a folder, its parent existing, and bring its name onto the disk."""
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
        # Also when it was there: whoever made it may not have come to this line.
        self.fsync_folder(os.path.dirname(path) or os.curdir)

    def fsync_folder(self, path: FilePath) -> None:
        """Bring the names in a folder onto the disk."""
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class FreeShare:
    """The share of a folder's disk that is free, as it was at most `fresh_s` seconds ago.

    `now_s`: any clock that never goes back. To look lets other threads run, which is too much for
    every call: 2 % of what a check-in takes.
    """

    def __init__(
        self, folder: Path, *, fresh_s: float = 0.25, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder, self._fresh_s, self._now_s = folder, fresh_s, now_s
        self._looked_s, self._share = -math.inf, 0.0

    def __call__(self) -> float:
        """From 0 to 1. Raises: OSError."""
        now_s = self._now_s()
        if now_s - self._looked_s >= self._fresh_s:
            usage = shutil.disk_usage(self._folder)
            self._looked_s, self._share = now_s, usage.free / usage.total
        return self._share


class FolderSync:
    """Brings the names in one folder onto the disk, once for all who ask while it is busy.

    Of a round of 10,000 clients they were a third of what a server computed, one by one.
    """

    def __init__(self, folder: Path, disk: FsOps) -> None:
        self._folder, self._disk = folder, disk
        self._running: asyncio.Future[None] | None = None
        self._next: asyncio.Future[None] | None = None

    async def __call__(self) -> None:
        """Returns when all names that the folder has now are durable. Raises: OSError."""
        if self._next is None:  # one that runs already may have begun before the newest name
            self._next = asyncio.ensure_future(self._after(self._running))
        await asyncio.shield(self._next)

    async def _after(self, earlier: asyncio.Future[None] | None) -> None:
        if earlier is not None:
            await asyncio.wait({earlier})
        self._running, self._next = self._next, None
        try:
            await asyncio.to_thread(self._disk.fsync_folder, self._folder)
        finally:
            if self._next is None:
                self._running = None


async def in_thread(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `function` in a worker thread, to its end even when cancelled: see `finished`."""
    return await finished(asyncio.to_thread(function, *args, **kwargs))


async def finished(work: Coroutine[Any, Any, T]) -> T:
    """Await `work`; when cancelled, let it come to its end first.

    A thread cannot be stopped, so whoever holds a lock round one may not let go of it before.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # now somebody has seen it; the cancellation is what matters
        raise


async def opened_file(path: FilePath) -> BinaryIO:
    """The file, which the caller closes; whoever is cancelled meanwhile leaves none open."""
    files: list[BinaryIO] = []
    try:
        await in_thread(lambda: files.append(open(path, "rb")))  # noqa: SIM115
    except asyncio.CancelledError:
        for file in files:
            file.close()
        raise
    return files[0]


@contextmanager
def blob_error(what: str) -> Iterator[None]:
    """Turn an OSError into a BlobError that says `what` failed, why, and what to do."""
    try:
        yield
    except BlobError:
        raise
    except OSError as error:
        raise broken(what, error) from error


def broken(what: str, error: OSError) -> BlobError:
    """What says that a disk let `what` fail, why, and what to do."""
    return BlobError(what, why=_reason(error), fix=_remedy(error))


def lacks_room(error: OSError) -> bool:
    """Whether a disk, or what its owner may use of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def require_space(folder: FilePath, size: int, *, reserve: int) -> None:
    """Raise OSError, ENOSPC, unless `size` bytes leave `reserve` bytes free."""
    disk = os.statvfs(folder)
    if disk.f_bavail * disk.f_frsize < size + reserve:
        raise OSError(errno.ENOSPC, f"{size} bytes would leave less than {reserve} bytes free")


def _reason(error: OSError) -> str:
    name = errno.errorcode.get(error.errno or 0, "")
    return f"{name}: {error.strerror}" if name else str(error)


def _remedy(error: OSError) -> str:
    if lacks_room(error):
        return MAKE_ROOM
    match error.errno:
        case errno.EIO:
            return "check the disk and the kernel's log; do not trust this disk until then"
        case errno.ENOENT:
            return "restore the file from a backup; it was deleted behind the server's back"
        case errno.EXDEV:
            return "keep uploads and blobs on one file system"
    return "check the owner and the rights of the server's state folder"


def digest_of(file: int) -> bytes:
    """SHA-256 of a whole file, whatever the position of its descriptor."""
    found, offset = hashlib.sha256(), 0
    while piece := os.pread(file, MIB, offset):
        found.update(piece)
        offset += len(piece)
    return found.digest()
