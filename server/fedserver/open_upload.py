"""One upload while its chunks arrive: each is taken in its turn, once, and few may run ahead."""

from __future__ import annotations

import asyncio
import errno
import hmac
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from fedcore.errors import BlobError, ConflictError, NotFoundError, OverloadedError, UploadError
from fedserver.disk import FolderSync, broken
from fedserver.upload_file import UploadFile

__all__ = ["ChunkMemory", "OpenUpload", "Promises", "changed", "not_open"]

_RETRY_MEMORY_MS: Final = (100, 2_000)
_RETRY_DISK_MS: Final = (30_000, 120_000)
_RETRY_AHEAD_MS: Final = (50, 500)
_SMALL_BYTES: Final = 16 << 10
_MOST_WAITING: Final = 64  # of an upload, or to take up what waited would hold up all others


class ChunkMemory:
    """The bytes of all chunks that are in memory, at most `most`.

    Those that wait for an earlier chunk get half of it: so they never keep the earlier ones out.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._passing = self._waiting = 0

    @property
    def used(self) -> int:
        """The bytes in memory now."""
        return self._passing + self._waiting

    @contextmanager
    def passing(self, size: int) -> Iterator[None]:
        """Room for a chunk until it is in a file, or waits. Raises: OverloadedError."""
        if self.used + size > self._most:
            raise _no_memory()
        self._passing += size
        try:
            yield
        finally:
            self._passing -= size

    def keep(self, size: int) -> None:
        """Room for a chunk that waits for an earlier one. Raises: OverloadedError."""
        if self._waiting + size > self._most // 2:
            raise _no_memory()
        self._waiting += size

    def give_back(self, size: int) -> None:
        """Give back the room of a chunk that waited."""
        self._waiting -= size


class Promises:
    """How many bytes all open uploads together have still to bring to the disk.

    Kept as a sum: ten thousand clients begin at once, and each is promised its room beside all.
    """

    def __init__(self) -> None:
        self.bytes = 0


class OpenUpload:
    """The chunks of one upload on their way into `file`.

    `window_bytes`: how far a chunk may begin beyond the first byte that is missing. `promises`:
    the sum in which its missing bytes count. Once it is
    `closed`, by `close` or by a disk that failed, it takes nothing more: every method then raises
    NotFoundError, and what is durable is for a new object to find.
    """

    def __init__(
        self,
        file: UploadFile,
        *,
        window_bytes: int,
        memory: ChunkMemory,
        promises: Promises,
        folder: FolderSync,
    ) -> None:
        self._file, self._window, self._memory, self._folder = file, window_bytes, memory, folder
        self._promises, self._promised = promises, 0
        self._turn = asyncio.Lock()
        self._waiting: dict[int, bytes] = {}
        self._begun = self._named = self.closed = False
        self._promise()

    async def begin(self, size: int, *, reserve_bytes: int) -> int:
        """Open the file, or make durable what came since: how much of the upload is.

        Raises: ConflictError if it was begun with another size than `size`; OverloadedError unless
        it fits onto the disk beside `reserve_bytes` and what others were promised; BlobError.
        """
        async with self._turn:
            self._require_open()
            if not self._begun:
                others = self._promises.bytes - self._promised
                await self._on_disk(self._file.begin, reserve_bytes + others)
                self._begun = True
                self._promise()
            if size != self._file.size:
                raise ConflictError(
                    f"an upload was begun with {self._file.size} bytes, not with {size}",
                    why="an assignment has one upload, whose size is fixed when it begins",
                    fix="send the update that was announced",
                )
            if self._file.committed < self._file.received:
                await self._on_disk(self._file.sync)
            return await self._durable()

    async def put(self, offset: int, data: bytes) -> int:
        """Take a chunk: how much of the upload is durable now.

        Raises: UploadError if it is another than before, too far ahead or beyond the end;
        OverloadedError; BlobError.
        """
        async with self._turn:
            self._require_open()
            if offset + len(data) > self._file.size:
                raise UploadError(
                    f"the chunk at {offset} ends beyond the upload",
                    why=f"the upload was begun with {self._file.size} bytes",
                    fix="send no more than was announced",
                )
            if offset > self._file.received:
                self._keep(offset, data)
            else:
                await self._take(offset, data)
                while self._waiting and (first := min(self._waiting)) <= self._file.received:
                    chunk = self._waiting.pop(first)
                    self._memory.give_back(len(chunk))
                    await self._take(first, chunk)
            return await self._durable()

    async def finish(self, size: int, sha256: bytes, path: str) -> None:
        """Bring a complete upload onto the disk and rename it to `path`; it is closed then.

        Raises: UploadError if bytes are missing, or have another digest: then the file is gone.
        """
        async with self._turn:
            self._require_open()
            if size != self._file.size or self._file.received < size:
                raise UploadError(
                    f"an upload of {self._file.size} bytes is not complete",
                    why=f"sealed were {size} bytes, and {self._file.received} arrived",
                    fix=f"go on from byte {self._file.received}",
                )
            if not hmac.compare_digest(self._file.digest, sha256):
                await self._on_disk(self._file.remove_own)
                await self._names_on_disk()
                self.close()
                raise UploadError(
                    "an upload has another digest than its seal",
                    why="the chunks arrived as they were sent, so other bytes were sealed",
                    fix="begin the upload again, from byte 0",
                )
            await self._on_disk(self._file.finish, path)
            self.close()

    async def remove(self) -> None:
        """Delete the file; it is closed then."""
        async with self._turn:
            if not self.closed:
                await self._on_disk(self._file.remove)
                await self._names_on_disk()
                self.close()

    async def leave(self) -> None:
        """Close it after what is being written; the file stays."""
        async with self._turn:
            self.close()

    def close(self) -> None:
        """Take nothing more, and forget the chunks that wait."""
        self.closed = True
        self._promise()
        self._memory.give_back(sum(map(len, self._waiting.values())))
        self._waiting.clear()

    def _require_open(self) -> None:
        if self.closed:
            raise not_open()

    def _keep(self, offset: int, data: bytes) -> None:
        full = len(self._waiting) >= _MOST_WAITING and offset not in self._waiting
        if full or offset > self._file.received + self._window:
            raise UploadError(
                f"the chunk at {offset} is too far ahead",
                why=f"all before it has to arrive first, from byte {self._file.received} on",
                fix=f"go on from byte {self._file.received}",
                retry=_RETRY_AHEAD_MS,
            )
        before = self._waiting.get(offset, b"")
        if not data.startswith(before[: len(data)]):
            raise changed(offset)
        if len(data) > len(before):
            self._memory.keep(len(data) - len(before))
            self._waiting[offset] = data

    async def _take(self, offset: int, data: bytes) -> None:
        """Append what of a chunk is new; what is not has to be as it was."""
        known = min(len(data), self._file.received - offset)
        if known and not await self._on_disk(self._file.holds, offset, data[:known]):
            raise changed(offset)
        if fresh := memoryview(data)[known:]:
            if len(fresh) <= _SMALL_BYTES and not self._file.syncs(len(fresh)):
                with self._closed_on_failure():  # a thread costs ten times as much
                    self._append(fresh)
            else:
                # One after the other: a thread for the second costs more than it saves.
                await self._on_disk(self._append, fresh)
            self._promise()

    def _promise(self) -> None:
        """Counts what is missing now in the sum of all."""
        missing = 0 if self.closed else self._file.size - self._file.received
        self._promises.bytes += missing - self._promised
        self._promised = missing

    def _append(self, data: memoryview) -> None:
        self._file.append(data)
        self._file.hash(data)

    async def _on_disk(self, work: Callable[..., bool | None], *args: object) -> bool | None:
        """Do `work` in a thread; if that fails nobody knows what is on the disk, hence close."""
        with self._closed_on_failure():
            return await asyncio.to_thread(work, *args)

    async def _durable(self) -> int:
        """How much of the upload a restart finds, by a name that it finds, too.

        A small upload is told of no byte before its seal, which brings its last name onto the disk:
        to wait for its first one took an eighth of what a server computes for a client.
        """
        if self._file.committed and not self._named:
            # Also of a file that was there: its maker may not have come to this line.
            await self._names_on_disk()
            self._named = True
        return self._file.committed

    async def _names_on_disk(self) -> None:
        with self._closed_on_failure():
            await self._folder()

    @contextmanager
    def _closed_on_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.close()
            if isinstance(error, OSError) and not isinstance(error, BlobError):
                raise _full_or_broken(error) from error
            raise


def not_open() -> NotFoundError:
    """What is raised where an upload is not open."""
    return NotFoundError(
        "the upload is not open",
        why="it was never begun, was discarded, or the server started again",
        fix="begin the upload: the answer says where to go on",
    )


def changed(offset: int) -> UploadError:
    """What is raised where a chunk has other bytes than before."""
    return UploadError(
        f"the chunk at {offset} is another than before",
        why="an upload's bytes never change once they arrived",
        fix="send the same bytes, or ask for a new assignment",
    )


def _full_or_broken(error: OSError) -> OverloadedError | BlobError:
    what = "an upload cannot be kept"
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return broken(what, error)
    return OverloadedError(
        what,
        why="the server's disk is full",
        fix="come back later; the operator has to make room",
        retry=_RETRY_DISK_MS,
    )


def _no_memory() -> OverloadedError:
    return OverloadedError(
        "the server holds too many chunks in memory",
        why="more arrive than its disk takes",
        fix="send the chunk again after the pause",
        retry=_RETRY_MEMORY_MS,
    )
