"""Uploads on their way: chunks come repeated, reordered and after a crash, and leave whole or not.

A file holds the bytes in order and nothing else, so its length says what arrived. What lies beyond
`sync_bytes` times k is written only after everything before is on the disk; so of a file found
after a crash the whole multiples below its length are durable, without a second file that says so.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import hmac
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fedcore.errors import (
    BlobError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    UploadError,
)
from fedcore.failpoints import failpoint
from fedcore.secagg import Layout
from fedserver.blobs import FsOps, blob_error, finished, in_thread, require_space

__all__ = ["Spool", "SpoolProgress"]

_MIB: Final = 1 << 20
_PART: Final = "part"
_SHA256_BYTES: Final = 32
_MOST_ID_BYTES: Final = 64
_RETRY_MEMORY_MS: Final = (100, 2_000)
_RETRY_DISK_MS: Final = (30_000, 120_000)


@dataclass(frozen=True, slots=True)
class SpoolProgress:
    """How far an upload came: what lies before `committed_offset` is durable."""

    committed_offset: int
    sealed: bool


@dataclass(slots=True)
class _Upload:
    """An upload that is open: `received` bytes of it are in its file, `held` are chunks beyond."""

    path: Path
    size: int
    received: int = 0
    committed: int = 0
    hash: hashlib._Hash = field(default_factory=hashlib.sha256)
    held: dict[int, bytes] = field(default_factory=dict)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Spool:
    """The uploads of a server, in one folder; for one event loop.

    `window`: the chunks of an upload that may be ahead of the first that is missing.
    `in_flight_bytes`: the memory for all chunks that are not yet in a file; those that wait for an
    earlier one get at most half of it, so that they cannot keep the earlier ones out.
    `sync_bytes`: how much may be written between two fsyncs, and be lost by a crash.
    `reserve_bytes`: the space on the disk that uploads leave free.
    Methods raise BlobError when the disk fails, OverloadedError when it or the memory is full.
    """

    def __init__(
        self,
        root: Path,
        *,
        window: int = 4,
        chunk_bytes: int = _MIB,
        in_flight_bytes: int = 512 * _MIB,
        sync_bytes: int = 16 * _MIB,
        reserve_bytes: int = 64 * _MIB,
        disk: FsOps | None = None,
    ) -> None:
        self._root, self._disk, self._reserve = root, disk or FsOps(), reserve_bytes
        self._window, self._chunk, self._sync = window, chunk_bytes, sync_bytes
        self._budget, self._moving, self._holding = in_flight_bytes, 0, 0
        self._uploads: dict[bytes, _Upload] = {}
        with blob_error(f"the spool {root.name} cannot be opened"):
            root.parent.mkdir(parents=True, exist_ok=True)
            self._disk.make_folder(root)
            # A name that a crash left visible may not be on the disk yet.
            self._disk.fsync_folder(root)
            names = [name.split(".") for name in os.listdir(root)]
        self._parts = {bytes.fromhex(name) for name, kind in names if kind == _PART}
        self._sealed = {
            bytes.fromhex(name): bytes.fromhex(kind) for name, kind in names if kind != _PART
        }

    @property
    def stored(self) -> frozenset[bytes]:
        """The ids of all uploads that have a file, sealed or not: what a restart may discard."""
        return frozenset(self._parts | self._sealed.keys())

    @property
    def in_flight(self) -> int:
        """The bytes of chunks that are in memory now."""
        return self._moving + self._holding

    async def open(self, upload_id: bytes, size: int) -> SpoolProgress:
        """Begin an upload of `size` bytes, or find it again, also after a restart.

        Raises: ConflictError if it was begun with another size, OverloadedError without room on
        the disk, InvalidRequestError for an id that is none.
        """
        return await finished(self._open(upload_id, size))

    async def put(self, upload_id: bytes, offset: int, crc32: int, data: bytes) -> int:
        """Take a chunk: how many bytes of the upload are durable now.

        A chunk that came before must have the bytes that it had. It runs to its end even when
        cancelled. Raises: UploadError for a chunk that is damaged, too large, too far ahead or
        another than before; NotFoundError if the upload is not open (call `open`).
        """
        return await finished(self._put(upload_id, offset, crc32, data))

    async def seal(self, upload_id: bytes, size: int, sha256: bytes) -> None:
        """Close an upload that is complete; durable when this returns, and repeatable.

        Raises: UploadError if bytes are missing, or have another digest: then the upload begins
        again at 0. ConflictError if it was sealed with another digest, NotFoundError if not open.
        """
        await finished(self._seal(upload_id, size, sha256))

    def read_frames(self, upload_id: bytes, layout: Layout) -> Iterator[tuple[int, bytes]]:
        """Each frame of a sealed upload as (offset, bytes), in order; for a worker thread.

        Raises: NotFoundError if it is not sealed, UploadError if its size is not the layout's.
        """
        digest = self._sealed.get(upload_id)
        if digest is None:
            raise _unknown(upload_id)
        with blob_error(f"upload {_name(upload_id)} cannot be read"):
            file = os.open(self._sealed_path(upload_id, digest), os.O_RDONLY | os.O_CLOEXEC)
            try:
                if (size := os.fstat(file).st_size) != layout.upload_bytes:
                    raise UploadError(
                        f"upload {_name(upload_id)} has {size} bytes",
                        why=f"an update of this task has {layout.upload_bytes}",
                        fix="encode the update by the layout of its task",
                    )
                for frame in layout.frames():
                    yield frame.byte, os.pread(file, frame.size, frame.byte)
            finally:
                os.close(file)

    async def discard(self, upload_id: bytes) -> None:
        """Forget an upload, sealed or not; one that is not there stays so."""
        await finished(self._discard(upload_id))

    async def _open(self, upload_id: bytes, size: int) -> SpoolProgress:
        if not 1 <= len(upload_id) <= _MOST_ID_BYTES or size < 1:
            raise InvalidRequestError(
                f"an upload of {size} bytes under an id of {len(upload_id)} bytes is none",
                why=f"an id has 1 … {_MOST_ID_BYTES} bytes, an upload at least one",
                fix="begin an upload with the id and the size of its assignment",
            )
        if (digest := self._sealed.get(upload_id)) is not None:
            found = await in_thread(self._size, self._sealed_path(upload_id, digest))
            _check_size(upload_id, size, found)
            return SpoolProgress(found, sealed=True)
        upload = self._uploads.get(upload_id)
        if upload is None:
            upload = self._uploads[upload_id] = _Upload(self._part_path(upload_id), size)
            async with upload.turn:
                await self._or_forget(upload_id, self._begin, upload_id, upload)
        async with upload.turn:
            if self._uploads.get(upload_id) is not upload:  # it could not be begun, or was sealed
                raise _unknown(upload_id)
            _check_size(upload_id, size, upload.size)
            return SpoolProgress(upload.committed, sealed=False)

    async def _put(self, upload_id: bytes, offset: int, crc32: int, data: bytes) -> int:
        self._check_chunk(offset, len(data))
        with self._memory(len(data)):
            if await asyncio.to_thread(zlib.crc32, data) != crc32:
                raise UploadError(
                    f"the chunk at {offset} is damaged",
                    why="its CRC-32 is not the one that was sent with it",
                    fix="send the chunk again",
                )
            upload = self._uploads.get(upload_id)
            if upload is None:
                return await self._put_again(upload_id, offset, data)
            async with upload.turn:
                if self._uploads.get(upload_id) is not upload:
                    return await self._put_again(upload_id, offset, data)
                if offset + len(data) > upload.size:
                    raise UploadError(
                        f"the chunk at {offset} ends beyond the upload",
                        why=f"the upload was begun with {upload.size} bytes",
                        fix="send no more than was announced",
                    )
                if offset > upload.received:
                    self._hold(upload, offset, data)
                else:
                    await self._take(upload_id, upload, offset, data)
                    await self._take_held(upload_id, upload)
                committed = upload.committed
        failpoint("upload.after_chunk")
        return committed

    async def _seal(self, upload_id: bytes, size: int, sha256: bytes) -> None:
        if len(sha256) != _SHA256_BYTES:
            raise InvalidRequestError(
                f"a digest of {len(sha256)} bytes seals no upload",
                why="it is the SHA-256 of all of the upload, 32 bytes",
                fix="send the digest whole",
            )
        if (upload := self._uploads.get(upload_id)) is not None:
            async with upload.turn:
                if self._uploads.get(upload_id) is upload:
                    await self._close(upload_id, upload, size, sha256)
        digest = self._sealed.get(upload_id)
        if digest is None:
            raise _unknown(upload_id)
        found = await asyncio.to_thread(self._size, self._sealed_path(upload_id, digest))
        if found != size or not hmac.compare_digest(digest, sha256):
            raise ConflictError(
                f"upload {_name(upload_id)} is sealed with another digest or size",
                why="what was acknowledged never changes",
                fix="leave it as it is; only a new assignment takes another update",
            )
        # Also on a repeat: the first time may have failed between the rename and this.
        with blob_error(f"upload {_name(upload_id)} cannot be made durable"):
            await asyncio.to_thread(self._disk.fsync_folder, self._root)
        failpoint("upload.after_seal")

    async def _close(self, upload_id: bytes, upload: _Upload, size: int, sha256: bytes) -> None:
        if size != upload.size or upload.received < upload.size:
            raise UploadError(
                f"upload {_name(upload_id)} of {upload.size} bytes is not complete",
                why=f"it was to be sealed with {size} bytes, and {upload.received} arrived",
                fix=f"go on from byte {upload.received}",
            )
        if not hmac.compare_digest(upload.hash.digest(), sha256):
            await self._discard_file(upload_id, upload.path)
            raise UploadError(
                f"upload {_name(upload_id)} has another digest than its seal",
                why="the chunks arrived as they were sent, so other bytes were sealed",
                fix="begin the upload again, from byte 0",
            )
        sealed = self._sealed_path(upload_id, sha256)
        await self._or_forget(upload_id, self._rename, upload.path, sealed)
        self._sealed[upload_id] = sha256
        self._parts.discard(upload_id)
        self._forget(upload_id)

    async def _discard(self, upload_id: bytes) -> None:
        if (upload := self._uploads.get(upload_id)) is not None:
            async with upload.turn:
                await self._discard_file(upload_id, upload.path)
        elif (digest := self._sealed.get(upload_id)) is not None:
            await self._discard_file(upload_id, self._sealed_path(upload_id, digest))
        elif upload_id in self._parts:
            await self._discard_file(upload_id, self._part_path(upload_id))

    async def _discard_file(self, upload_id: bytes, path: Path) -> None:
        await self._or_forget(upload_id, self._remove, path)
        self._forget(upload_id)
        self._parts.discard(upload_id)
        self._sealed.pop(upload_id, None)

    async def _put_again(self, upload_id: bytes, offset: int, data: bytes) -> int:
        """Answer a chunk of an upload that is not open: it may be a late repeat of a sealed one."""
        digest = self._sealed.get(upload_id)
        if digest is None:
            raise _unknown(upload_id)
        path = self._sealed_path(upload_id, digest)
        if not await asyncio.to_thread(self._holds, path, offset, data):
            raise _changed(offset)
        return await asyncio.to_thread(self._size, path)

    async def _take(self, upload_id: bytes, upload: _Upload, offset: int, data: bytes) -> None:
        """Append what of a chunk is new; what is not must be as it was."""
        known = min(len(data), upload.received - offset)
        if known and not await asyncio.to_thread(self._holds, upload.path, offset, data[:known]):
            raise _changed(offset)
        if known < len(data):
            fresh = memoryview(data)[known:]
            # Digest and disk side by side: each lets go of the interpreter's lock.
            await asyncio.gather(
                self._or_forget(upload_id, self._append, upload, fresh),
                asyncio.to_thread(upload.hash.update, fresh),
            )

    def _hold(self, upload: _Upload, offset: int, data: bytes) -> None:
        if (held := upload.held.get(offset)) is not None:
            if held != data:
                raise _changed(offset)
            return
        far = offset > upload.received + self._window * self._chunk
        if far or len(upload.held) >= self._window:
            raise UploadError(
                f"the chunk at {offset} is too far ahead",
                why=f"at most {self._window} chunks may wait for the one at {upload.received}",
                fix=f"go on from byte {upload.received}",
            )
        if self._holding + len(data) > self._budget // 2:
            raise _no_memory()
        upload.held[offset] = data
        self._holding += len(data)

    async def _take_held(self, upload_id: bytes, upload: _Upload) -> None:
        while upload.held and (offset := min(upload.held)) <= upload.received:
            data = upload.held.pop(offset)
            self._holding -= len(data)
            await self._take(upload_id, upload, offset, data)

    def _check_chunk(self, offset: int, size: int) -> None:
        if not 1 <= size <= self._chunk or offset < 0:
            raise UploadError(
                f"a chunk of {size} bytes at {offset} is none",
                why=f"a chunk has 1 … {self._chunk} bytes, from byte 0 on",
                fix="cut the upload into smaller chunks",
            )

    @contextmanager
    def _memory(self, size: int) -> Iterator[None]:
        if self.in_flight + size > self._budget:
            raise _no_memory()
        self._moving += size
        try:
            yield
        finally:
            self._moving -= size

    async def _or_forget(self, upload_id: bytes, work: Callable[..., None], *args: object) -> None:
        """Do `work` on the disk; if that fails, trust only what `open` finds in the file again.

        After a failed fsync the kernel drops what it could not write, and the next one succeeds.
        """
        try:
            with _disk_error(f"upload {_name(upload_id)} cannot be kept"):
                await asyncio.to_thread(work, *args)
        except BaseException:
            self._forget(upload_id)
            raise

    def _forget(self, upload_id: bytes) -> None:
        upload = self._uploads.pop(upload_id, None)
        if upload is not None:
            self._holding -= sum(map(len, upload.held.values()))
            upload.held.clear()

    def _begin(self, upload_id: bytes, upload: _Upload) -> None:
        if upload_id not in self._parts:
            promised = sum(other.size - other.received for other in [*self._uploads.values()])
            require_space(self._root, promised, reserve=self._reserve)
            self._disk.close(self._disk.create(upload.path))
            self._disk.fsync_folder(self._root)
            self._parts.add(upload_id)
            return
        file = self._disk.open(upload.path)
        try:
            durable = max(0, os.fstat(file).st_size - 1) // self._sync * self._sync
            durable = min(durable, upload.size)
            self._disk.truncate(file, durable)
            for offset in range(0, durable, _MIB):
                upload.hash.update(os.pread(file, min(_MIB, durable - offset), offset))
        finally:
            self._disk.close(file)
        upload.received = upload.committed = durable

    def _append(self, upload: _Upload, data: memoryview) -> None:
        file = self._disk.open(upload.path)
        try:
            while data:
                piece = data[: self._sync - upload.received % self._sync]
                self._disk.pwrite(file, piece, upload.received)
                upload.received += len(piece)
                data = data[len(piece) :]
                if upload.received % self._sync == 0:
                    self._disk.fsync(file)
                    upload.committed = upload.received
        finally:
            self._disk.close(file)

    def _rename(self, part: Path, sealed: Path) -> None:
        file = self._disk.open(part)
        try:
            self._disk.fsync(file)
        finally:
            self._disk.close(file)
        failpoint("upload.before_seal")
        self._disk.rename(part, sealed)

    def _remove(self, path: Path) -> None:
        with suppress(FileNotFoundError):
            self._disk.unlink(path)
            self._disk.fsync_folder(path.parent)

    def _holds(self, path: Path, offset: int, data: bytes) -> bool:
        with blob_error("an upload cannot be read"), path.open("rb") as file:
            return os.pread(file.fileno(), len(data), offset) == data

    def _size(self, path: Path) -> int:
        with blob_error("an upload cannot be read"):
            return path.stat().st_size

    def _part_path(self, upload_id: bytes) -> Path:
        return self._root / f"{upload_id.hex()}.{_PART}"

    def _sealed_path(self, upload_id: bytes, digest: bytes) -> Path:
        """The digest stands in the name, so that a repeated seal is answered without reading."""
        return self._root / f"{upload_id.hex()}.{digest.hex()}"


@contextmanager
def _disk_error(what: str) -> Iterator[None]:
    """BlobError for a disk that fails, OverloadedError for one that is full."""
    try:
        with blob_error(what):
            yield
    except BlobError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OverloadedError(
                what,
                why="the server's disk is full",
                fix="come back later; the operator has to make room",
                retry=_RETRY_DISK_MS,
            ) from error
        raise


def _check_size(upload_id: bytes, size: int, before: int) -> None:
    if size != before:
        raise ConflictError(
            f"upload {_name(upload_id)} was begun with {before} bytes, not with {size}",
            why="an assignment has one upload, whose size is fixed when it begins",
            fix="send the update that was announced",
        )


def _name(upload_id: bytes) -> str:
    return upload_id.hex()[:16]


def _unknown(upload_id: bytes) -> NotFoundError:
    return NotFoundError(
        f"upload {_name(upload_id)} is not open",
        why="it was never begun, was discarded, or the server started again",
        fix="begin the upload: the answer says where to go on",
    )


def _changed(offset: int) -> UploadError:
    return UploadError(
        f"the chunk at {offset} is another than before",
        why="an upload's bytes never change once they arrived",
        fix="send the same bytes, or ask for a new assignment",
    )


def _no_memory() -> OverloadedError:
    return OverloadedError(
        "the server holds too many chunks in memory",
        why="more arrive than its disk takes",
        fix="send the chunk again after the pause",
        retry=_RETRY_MEMORY_MS,
    )
