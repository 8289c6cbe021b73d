"""The file of an upload says by itself how much of it is durable, so that a crash loses no more.

It holds the bytes of the upload, in order, and behind them a record of how many of them are on the
disk. The record is written after an fsync of those bytes, and is on the disk itself before anyone
is told. While bytes stream in, the fsync of later ones brings it there, so it lags behind them:
an fsync of its own cost a third of 900 MB/s. With a key the bytes are encrypted, and the counters
that they need stand behind the record: they are on the disk before it counts any byte of theirs.

Whoever goes on with an upload does so in a new file. A server that stood still while another took
its tasks up may be in the middle of a write: it ends in the old file, which nobody reads any more.
The number of that file can come again; so each has a mark of its maker's in its record, too.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from fedcore.failpoints import failpoint
from fedserver.disk import MIB, FilePath, FsOps, require_space
from fedserver.upload_cipher import TABLE_BYTES, UploadCipher

__all__ = ["MOST_BYTES", "UploadFile", "copy_of", "part_of", "reader_of", "size_of"]

# The maker's mark above the durable bytes, size of the upload, CRC-32 of both. Short enough to lie
# in one sector or two that follow each other; where a cut tears it, the checksum says that there is
# none.
_RECORD: Final = struct.Struct("<QQI")
_DURABLE_BITS: Final = 40
MOST_BYTES: Final = (1 << _DURABLE_BITS) - 1


class UploadFile:
    """An upload of `size` bytes that grows in `path`; every method raises OSError.

    `key`: 32 bytes under which the file is encrypted; None: it is not. `received`: the bytes in the
    file; `committed`: those of them that a restart finds. The methods are for a worker thread, one
    at a time. After an error the object is of no more use: a failed fsync drops what it could not
    write, so a new one has to look.
    """

    def __init__(
        self, path: str, size: int, *, sync_bytes: int, disk: FsOps, key: bytes | None = None
    ) -> None:
        self.path, self.size, self._key = path, size, key
        self._cipher = None if key is None else UploadCipher(key)
        self.received = self.committed = self._synced = 0
        self._sync_bytes, self._disk, self._hash = sync_bytes, disk, hashlib.sha256()
        self._inode, self._mark = 0, secrets.randbits(64 - _DURABLE_BITS)

    @property
    def digest(self) -> bytes:
        """The SHA-256 of what went through `hash`."""
        return self._hash.digest()

    def begin(self, reserve_bytes: int) -> None:
        """Make the file, whose name is not durable yet, and go on with the one that is there.

        Of that, what is durable is copied, and read again for the digest; nothing is if it belongs
        to an upload of another size. Raises: OSError, ENOSPC, unless a new upload leaves
        `reserve_bytes` free on the disk.
        """
        copy = copy_of(self.path)
        with suppress(FileNotFoundError):  # of a process that was killed here
            self._disk.unlink(copy)
        try:
            left = self._disk.open(self.path)
        except FileNotFoundError:
            require_space(os.path.dirname(self.path), self.size, reserve=reserve_bytes)
            left = -1
        try:
            self._make(copy, left)
            self._disk.rename(copy, self.path)
        except OSError:
            with suppress(OSError):
                self._disk.unlink(copy)
            raise
        finally:
            if left >= 0:
                self._disk.close(left)

    def hash(self, data: bytes | memoryview) -> None:
        """Add to the digest the bytes that `append` adds to the file."""
        self._hash.update(data)

    def syncs(self, more: int) -> bool:
        """Whether `append` of so many bytes waits for the disk."""
        return self.received % self._sync_bytes + more >= self._sync_bytes

    def append(self, data: bytes | memoryview) -> None:
        """Write `data` behind what is there, with an fsync at each multiple of `sync_bytes`."""
        left = memoryview(data)
        file = self._opened()
        try:
            while left:
                piece = left[: self._sync_bytes - self.received % self._sync_bytes]
                self._disk.pwrite(file, self._crossed(piece, self.received), self.received)
                self.received, left = self.received + len(piece), left[len(piece) :]
                if self.received % self._sync_bytes == 0:
                    self._commit(file)
        finally:
            self._disk.close(file)

    def sync(self) -> None:
        """Make all durable that was received."""
        if self.committed < self.received:
            file = self._opened()
            try:
                self._commit(file)
                self._commit(file)
            finally:
                self._disk.close(file)

    def holds(self, offset: int, data: bytes) -> bool:
        """Whether these bytes, all of them received, stand in the file at `offset`."""
        return part_of(self.path, offset, len(data), key=self._key) == data

    def finish(self, path: str) -> None:
        """Bring all of it onto the disk and rename it; the new name is not durable yet.

        Raises: OSError, ESTALE where another server's file was renamed, which then has no name.
        """
        file = self._opened()
        try:
            self._disk.fsync(file)
        finally:
            self._disk.close(file)
        failpoint("upload.before_seal")
        self._disk.rename(self.path, path)
        try:
            self._disk.close(self._opened(path))
        except OSError as error:
            if error.errno == errno.ESTALE:
                self._disk.unlink(path)
            raise

    def remove(self) -> None:
        """Delete the file, whoever went on with it; that it is gone is not durable yet."""
        with suppress(FileNotFoundError):
            self._disk.unlink(self.path)

    def remove_own(self) -> None:
        """The same as long as it is this object's. Raises: OSError, ESTALE once it is not."""
        self._disk.close(self._opened())
        self.remove()

    def _make(self, path: str, left: int) -> None:
        """A new file with what is durable of the one that is `left`; −1: of none."""
        durable, table = (0, b"") if left < 0 else self._durable(left)
        file = self._disk.create(path)
        try:
            self._disk.truncate(file, self.size + _trailer_bytes(self._key))
            for offset in range(0, durable, MIB):
                piece = os.pread(left, min(MIB, durable - offset), offset)
                self._disk.pwrite(file, piece, offset)
                self.hash(self._crossed(piece, offset))
            if self._cipher is not None:
                place, entries = self._cipher.begin(durable)
                self._disk.pwrite(file, table[:place] + entries, self.size + _RECORD.size)
            self._disk.pwrite(file, self._record(durable), self.size)
            if durable:
                self._disk.fsync(file)
            self._inode = os.fstat(file).st_ino
        finally:
            self._disk.close(file)
        self.received = self.committed = self._synced = durable

    def _durable(self, left: int) -> tuple[int, bytes]:
        """How many bytes of a file are durable and can be read, and with which counters."""
        durable, _ = self._recorded(left)
        if self._cipher is None:
            return durable, b""
        table = os.pread(left, TABLE_BYTES, self.size + _RECORD.size)
        if self._cipher.load(table, before=durable) and not self._cipher.full:
            return durable, table
        self._cipher.load(b"", before=0)
        return 0, b""

    def _opened(self, path: str | None = None) -> int:
        """The file, as long as it is this object's. Raises: OSError, ESTALE once it is not.

        `path`: where it is looked for; None: in its own place.
        """
        file = self._disk.open(path or self.path)
        if os.fstat(file).st_ino == self._inode and self._recorded(file)[1] == self._mark:
            return file
        self._disk.close(file)
        raise OSError(errno.ESTALE, "another server has gone on with this upload")

    def _crossed(self, data: bytes | memoryview, offset: int) -> bytes | memoryview:
        """As it stands in the file, or what stands there as it was."""
        return data if self._cipher is None else self._cipher.apply(data, offset)

    def _commit(self, file: int) -> None:
        """Bring what was received onto the disk, and the record of what was there before."""
        self._disk.pwrite(file, self._record(self._synced), self.size)
        self._disk.fsync(file)
        self.committed, self._synced = self._synced, self.received

    def _record(self, durable: int) -> bytes:
        return _record_of(durable, self.size, self._mark)

    def _recorded(self, file: int) -> tuple[int, int]:
        """How many bytes the record in a file says are durable, and whose it is; 0, 0 for none."""
        record = os.pread(file, _RECORD.size, self.size)
        if len(record) < _RECORD.size:
            return 0, 0
        marked, size, _ = _RECORD.unpack(record)
        mark, durable = divmod(marked, 1 << _DURABLE_BITS)
        fits = size == self.size and durable <= size
        return (durable, mark) if fits and record == _record_of(durable, size, mark) else (0, 0)


def _record_of(durable: int, size: int, mark: int) -> bytes:
    body = struct.pack("<QQ", mark << _DURABLE_BITS | durable, size)
    return body + zlib.crc32(body).to_bytes(4, "little")


def copy_of(path: str) -> str:
    """Where the file of an upload is made anew, before it takes the place of the one there."""
    return f"{os.path.splitext(path)[0]}.copy"


def size_of(file: FilePath | int, *, key: bytes | None = None) -> int:
    """The size of the upload in a file, open or not. Raises: OSError."""
    return os.stat(file).st_size - _trailer_bytes(key)


def part_of(path: FilePath, offset: int, size: int, *, key: bytes | None = None) -> bytes:
    """The bytes of an upload from `offset` on, fewer at its end. Raises: OSError."""
    with open(path, "rb", buffering=0) as file:
        end = os.fstat(file.fileno()).st_size - _trailer_bytes(key)
        read = reader_of(file.fileno(), end, key=key)
        return read(max(0, min(size, end - offset)), offset)


def reader_of(file: int, size: int, *, key: bytes | None) -> Callable[[int, int], bytes]:
    """What reads so many bytes from an offset on, of an upload of `size` bytes that is all there.

    `file`: the descriptor of its file. Raises: OSError, and what it gives too.
    """
    if key is None:
        return lambda count, offset: os.pread(file, count, offset)
    cipher = UploadCipher(key)
    cipher.load(os.pread(file, TABLE_BYTES, size + _RECORD.size), before=size)
    return lambda count, offset: cipher.apply(os.pread(file, count, offset), offset)


def _trailer_bytes(key: bytes | None) -> int:
    return _RECORD.size + (0 if key is None else TABLE_BYTES)
