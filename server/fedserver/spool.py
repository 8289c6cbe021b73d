"""The spool keeps uploads that are on their way, and those that are whole until they are summed."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import re
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from fedcore.errors import (
    ConflictError,
    DamagedUpdateError,
    InvalidRequestError,
    NotFoundError,
    UploadError,
)
from fedcore.failpoints import failpoint
from fedcore.secagg import Layout
from fedserver.disk import MIB, FolderSync, FsOps, blob_error, finished, opened_file
from fedserver.open_upload import ChunkMemory, OpenUpload, Promises, changed, not_open
from fedserver.upload_file import MOST_BYTES, UploadFile, copy_of, part_of, reader_of, size_of

__all__ = ["SealedUpload", "Spool", "SpoolProgress"]

_PART, _COPY = "part", "copy"
_NAME: Final = re.compile(rf"(?P<id>(?:[0-9a-f]{{2}})+)\.(?P<kind>{_PART}|{_COPY}|[0-9a-f]{{64}})")
_SHA256_BYTES: Final = 32
_MOST_ID_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class SpoolProgress:
    """How far an upload came: what lies before `committed_offset` is durable."""

    committed_offset: int
    sealed: bool


@dataclass(frozen=True, slots=True)
class SealedUpload:
    """An upload that was acknowledged, with the SHA-256 of all its bytes."""

    upload_id: bytes
    sha256: bytes


class Spool:
    """The uploads of a server, in one folder; for one event loop of one process.

    `window`: a chunk may begin so many chunks beyond the first byte that is missing. A client that
    never has more than half as many chunks beyond its oldest unanswered one is never too far ahead.
    `in_flight_bytes`: the memory for the chunks of all uploads that are not in a file yet.
    `sync_bytes`: how much is written between two fsyncs, and at most lost by a crash. To `open` an
    upload again makes all of it durable, so that a client that comes back repeats nothing.
    `reserve_bytes`: the space on the disk that uploads leave free.
    Methods raise BlobError when the disk fails, OverloadedError when it or the memory is full. What
    they began they bring to its end, also when they are cancelled.
    """

    def __init__(
        self,
        root: Path,
        *,
        window: int = 8,
        chunk_bytes: int = MIB,
        in_flight_bytes: int = 512 * MIB,
        sync_bytes: int = 16 * MIB,
        reserve_bytes: int = 64 * MIB,
        disk: FsOps | None = None,
    ) -> None:
        self._root, self._disk = root, disk or FsOps()
        self._window, self._chunk, self._sync = window, chunk_bytes, sync_bytes
        self._reserve, self._memory = reserve_bytes, ChunkMemory(in_flight_bytes)
        self._promises, self._folder = Promises(), FolderSync(root, self._disk)
        self._uploads: dict[bytes, OpenUpload] = {}
        self._keys: dict[bytes, bytes | None] = {}  # of those that were opened
        with blob_error(f"the spool {root.name} cannot be opened"):
            root.parent.mkdir(parents=True, exist_ok=True)
            self._disk.make_folder(root)
            self._sealed = _sealed_in(root)

    @property
    def in_flight(self) -> int:
        """The bytes of chunks that are in memory now."""
        return self._memory.used

    async def stored(self) -> frozenset[bytes]:
        """The ids of all uploads that have a file, for a restart to discard what nobody knows."""
        with blob_error(f"the spool {self._root.name} cannot be read"):
            names = await asyncio.to_thread(os.listdir, self._root)
        return frozenset(
            bytes.fromhex(found["id"]) for found in map(_NAME.fullmatch, names) if found
        )

    def knows(self, upload_id: bytes) -> bool:
        """Whether it is open here, or sealed and was opened here: to open it changes nothing."""
        upload = self._uploads.get(upload_id)
        sealed = upload_id in self._sealed and upload_id in self._keys
        return sealed or (upload is not None and not upload.closed)

    async def look_again(self, upload_ids: Iterable[bytes]) -> None:
        """Forgets what is in memory of uploads that another process may have gone on with.

        What is on the disk counts, for `open` to find.
        """
        wanted = frozenset(upload_ids)
        for upload_id in wanted & self._uploads.keys():
            await self._uploads.pop(upload_id).leave()
        for upload_id in wanted & self._sealed.keys():
            del self._sealed[upload_id]
        await self.learn(wanted)

    async def learn(self, upload_ids: Iterable[bytes]) -> None:
        """Finds which of these uploads another process has sealed."""
        wanted = frozenset(upload_ids)
        with blob_error(f"the spool {self._root.name} cannot be read"):
            found = await asyncio.to_thread(_sealed_in, self._root)
        self._sealed |= {one: digest for one, digest in found.items() if one in wanted}

    async def silences(self) -> dict[bytes, float]:
        """For each upload that has a file, how many seconds ago it was last written to."""
        return await asyncio.to_thread(self._silences)

    async def open(self, upload_id: bytes, size: int, *, key: bytes | None = None) -> SpoolProgress:
        """Begin an upload of `size` bytes, or find it again, also after a restart.

        `key`: 32 bytes under which its file is encrypted, always the same; None: it is not.
        Raises: ConflictError if it was begun with another size, OverloadedError without room on
        the disk, InvalidRequestError for an id or a size that is none.
        """
        return await finished(self._open(upload_id, size, key))

    async def put(self, upload_id: bytes, offset: int, crc32: int, data: bytes) -> int:
        """Take a chunk: how many bytes of the upload are durable now.

        Raises: UploadError for a chunk that is damaged, too large, too far ahead or another than
        before; NotFoundError if the upload is not open, as after a disk error: call `open`.
        """
        return await finished(self._put(upload_id, offset, crc32, data))

    async def seal(self, upload_id: bytes, size: int, sha256: bytes) -> None:
        """Close an upload that is open and complete; durable when this returns, and repeatable.

        Raises: UploadError if bytes are missing, or have another digest: then the upload begins
        again at 0. ConflictError if it was sealed with another digest, NotFoundError if not open.
        """
        await finished(self._seal(upload_id, size, sha256))

    async def discard(self, *upload_ids: bytes) -> None:
        """Forget uploads, sealed or not; one that is not there stays so."""
        await finished(self._discard(upload_ids))

    async def open_read(self, upload_id: bytes) -> tuple[BinaryIO, int]:
        """The file of a sealed upload, which the caller closes, and the bytes that are its own.

        They stand at the file's beginning. Raises: NotFoundError if it is not sealed.
        """
        path = self._sealed_path(upload_id)
        with blob_error("an upload cannot be read"):
            file = await opened_file(path)
            return file, size_of(file.fileno())

    def read_frames(
        self, upload: SealedUpload, layout: Layout, *, key: bytes | None = None
    ) -> Iterator[tuple[int, bytes]]:
        """Each frame of a sealed upload as (offset, bytes), in order; for a worker thread.

        `key`: with which it was opened. Raises: NotFoundError if it is not sealed, UploadError if
        its size is not the layout's; behind the last frame DamagedUpdateError unless all
        of them were what was acknowledged.
        """
        if upload.upload_id not in self._sealed:
            raise not_open()
        path, found = self._path(upload.upload_id, upload.sha256.hex()), hashlib.sha256()
        with blob_error("an upload cannot be read"):
            if (size := size_of(path, key=key)) != layout.upload_bytes:
                raise UploadError(
                    f"an upload has {size} bytes",
                    why=f"an update of this task has {layout.upload_bytes}",
                    fix="encode the update by the layout of its task",
                )
            with open(path, "rb", buffering=0) as file:
                read = reader_of(file.fileno(), size, key=key)
                for frame in layout.frames():
                    if len(data := read(frame.size, frame.byte)) < frame.size:
                        break
                    found.update(data)
                    yield frame.byte, data
        if not hmac.compare_digest(found.digest(), upload.sha256):
            raise DamagedUpdateError(
                "an update that was acknowledged has changed on the disk",
                why=f"{os.path.basename(path)} has another SHA-256 than what was sealed",
                fix="check the disk and the memory of the server; the round is tried again",
            )

    def _silences(self) -> dict[bytes, float]:
        now = time.time()
        found: dict[bytes, float] = {}
        with blob_error(f"the spool {self._root.name} cannot be read"):
            for name in filter(None, map(_NAME.fullmatch, os.listdir(self._root))):
                with suppress(FileNotFoundError):  # it was sealed or discarded meanwhile
                    written = os.stat(f"{self._root}/{name[0]}").st_mtime
                    found[bytes.fromhex(name["id"])] = now - written
        return found

    async def _open(self, upload_id: bytes, size: int, key: bytes | None) -> SpoolProgress:
        if not 1 <= len(upload_id) <= _MOST_ID_BYTES or not 1 <= size <= MOST_BYTES:
            raise InvalidRequestError(
                f"an upload of {size} bytes under an id of {len(upload_id)} bytes is none",
                why=f"an id has 1 … {_MOST_ID_BYTES} bytes, an upload 1 … {MOST_BYTES}",
                fix="begin an upload with the id and the size of its assignment",
            )
        self._keys[upload_id] = key
        if upload_id in self._sealed:
            return SpoolProgress(await self._sealed_size(upload_id, size), sealed=True)
        upload = self._uploads.get(upload_id)
        if upload is None or upload.closed:  # by a disk that refused or broke it
            path = self._part_path(upload_id)
            upload = OpenUpload(
                UploadFile(path, size, sync_bytes=self._sync, disk=self._disk, key=key),
                window_bytes=self._window * self._chunk,
                memory=self._memory,
                promises=self._promises,
                folder=self._folder,
            )
            self._uploads[upload_id] = upload
        return SpoolProgress(await upload.begin(size, reserve_bytes=self._reserve), sealed=False)

    async def _put(self, upload_id: bytes, offset: int, crc32: int, data: bytes) -> int:
        if not 1 <= len(data) <= self._chunk or offset < 0:
            raise UploadError(
                f"a chunk of {len(data)} bytes at {offset} is none",
                why=f"a chunk has 1 … {self._chunk} bytes, from byte 0 on",
                fix="cut the upload into smaller chunks",
            )
        with self._memory.passing(len(data)):
            if zlib.crc32(data) != crc32:  # here, for 0.3 ms are no more than a thread costs
                raise UploadError(
                    f"the chunk at {offset} is damaged",
                    why="its CRC-32 is not the one that was sent with it",
                    fix="send the chunk again",
                    retry=(0, 0),
                )
            try:
                committed = await self._upload(upload_id).put(offset, data)
            except NotFoundError:  # unless it is a late repeat, of an upload that was sealed since
                return await self._put_again(upload_id, offset, data)
        failpoint("upload.after_chunk")
        return committed

    async def _put_again(self, upload_id: bytes, offset: int, data: bytes) -> int:
        path, key = self._sealed_path(upload_id), self._key_of(upload_id)
        with blob_error("an upload cannot be read"):
            if await asyncio.to_thread(part_of, path, offset, len(data), key=key) != data:
                raise changed(offset)
        return await self._sealed_size(upload_id)

    async def _seal(self, upload_id: bytes, size: int, sha256: bytes) -> None:
        if len(sha256) != _SHA256_BYTES:
            raise InvalidRequestError(
                f"a digest of {len(sha256)} bytes seals no upload",
                why="it is the SHA-256 of all of the upload, 32 bytes",
                fix="send the whole digest",
            )
        if not await self._sealed_now(upload_id, size, sha256):
            await self._sealed_size(upload_id, size)
            if not hmac.compare_digest(self._sealed[upload_id], sha256):
                raise ConflictError(
                    "an upload is sealed with another digest",
                    why="what was acknowledged never changes",
                    fix="leave it as it is; only a new assignment takes another update",
                )
        # Also on a repeat: the first time may have failed between the rename and this.
        with blob_error("an upload cannot be made durable"):
            await self._folder()
        failpoint("upload.after_seal")

    async def _sealed_now(self, upload_id: bytes, size: int, sha256: bytes) -> bool:
        """Whether this call has closed the upload; if not, it was sealed before."""
        if upload_id in self._sealed:
            return False
        try:
            await self._upload(upload_id).finish(size, sha256, self._path(upload_id, sha256.hex()))
        except NotFoundError:
            if upload_id not in self._sealed:  # by the same request, sent twice at once
                raise
            return False
        self._sealed[upload_id] = sha256
        self._uploads.pop(upload_id, None)  # unless it was discarded or left meanwhile
        return True

    async def _discard(self, upload_ids: Sequence[bytes]) -> None:
        paths = []
        for upload_id in upload_ids:
            self._keys.pop(upload_id, None)
            if (upload := self._uploads.pop(upload_id, None)) is not None:
                await upload.remove()
            part = self._part_path(upload_id)
            paths += [part, copy_of(part)]
            if upload_id in self._sealed:
                paths.append(self._sealed_path(upload_id))
                del self._sealed[upload_id]
        with blob_error("an upload cannot be deleted"):
            await asyncio.to_thread(self._remove, paths)
            await self._folder()

    def _remove(self, paths: Sequence[str]) -> None:
        for path in paths:
            with suppress(FileNotFoundError):
                self._disk.unlink(path)

    async def _sealed_size(self, upload_id: bytes, expected: int | None = None) -> int:
        """The size of a sealed upload. Raises: ConflictError unless it is the one expected."""
        with blob_error("an upload cannot be read"):
            path, key = self._sealed_path(upload_id), self._key_of(upload_id)
            size = await asyncio.to_thread(size_of, path, key=key)
        if expected is not None and expected != size:
            raise ConflictError(
                f"an upload is sealed with {size} bytes, not with {expected}",
                why="what was acknowledged never changes",
                fix="leave it as it is; only a new assignment takes another update",
            )
        return size

    def _upload(self, upload_id: bytes) -> OpenUpload:
        if (upload := self._uploads.get(upload_id)) is None:
            raise not_open()
        return upload

    def _key_of(self, upload_id: bytes) -> bytes | None:
        if upload_id not in self._keys:
            raise not_open()
        return self._keys[upload_id]

    def _sealed_path(self, upload_id: bytes) -> str:
        if (digest := self._sealed.get(upload_id)) is None:
            raise not_open()
        return self._path(upload_id, digest.hex())

    def _part_path(self, upload_id: bytes) -> str:
        return self._path(upload_id, _PART)

    def _path(self, upload_id: bytes, kind: str) -> str:
        return f"{self._root}/{upload_id.hex()}.{kind}"


def _sealed_in(root: Path) -> dict[bytes, bytes]:
    """The digests of sealed uploads, which stand in their names: a repeated seal reads no file."""
    return {
        bytes.fromhex(found["id"]): bytes.fromhex(found["kind"])
        for found in map(_NAME.fullmatch, os.listdir(root))
        if found and found["kind"] not in (_PART, _COPY)
    }
