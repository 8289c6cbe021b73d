"""The file of an upload holds the bytes that arrived, in order, and tells after a crash how many.

What lies beyond `sync_bytes` times k is written only after everything before is on the disk. So of
a file found after a crash the whole multiples below its length are durable, and no second file has
to say so.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from fedcore.failpoints import failpoint
from fedserver.disk import MIB, FsOps, require_space

__all__ = ["UploadFile"]


class UploadFile:
    """An upload of `size` bytes that grows in `path`; every method raises OSError.

    `received`: the bytes in the file; `committed`: those of them that are durable; `digest`: the
    SHA-256 of those that went through `hash`. The methods are for a worker thread, one at a time;
    only `hash` and `append` of the same bytes may run side by side. After an error the object
    is of no more use: a failed fsync drops what it could not write, so a new one has to look.
    """

    def __init__(self, path: Path, size: int, *, sync_bytes: int, disk: FsOps) -> None:
        self.path, self.size = path, size
        self.received = self.committed = 0
        self._sync, self._disk, self._hash = sync_bytes, disk, hashlib.sha256()

    @property
    def digest(self) -> bytes:
        """The SHA-256 of what was received."""
        return self._hash.digest()

    def begin(self, reserve_bytes: int) -> None:
        """Make the file, or go on with the one that is there.

        Of that, what is durable is kept and read again for the digest. A file longer than `size`
        belongs to another upload, and nothing of it is kept. Raises: OSError, ENOSPC, unless a new
        upload leaves `reserve_bytes` free on the disk.
        """
        try:
            file = self._disk.open(self.path)
        except FileNotFoundError:
            require_space(self.path.parent, self.size, reserve=reserve_bytes)
            file = self._disk.create(self.path)
        try:
            length = os.fstat(file).st_size
            durable = max(0, length - 1) // self._sync * self._sync if length <= self.size else 0
            self._disk.truncate(file, durable)
            for offset in range(0, durable, MIB):
                self.hash(os.pread(file, min(MIB, durable - offset), offset))
        finally:
            self._disk.close(file)
        # Also of a file that was there: its maker may not have come to this line.
        self._disk.fsync_folder(self.path.parent)
        self.received = self.committed = durable

    def hash(self, data: bytes | memoryview) -> None:
        """Add to the digest the bytes that `append` adds to the file."""
        self._hash.update(data)

    def holds(self, offset: int, data: bytes) -> bool:
        """Whether these bytes stand in the file at `offset`."""
        with self.path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), len(data), offset) == data

    def append(self, data: bytes | memoryview) -> None:
        """Write `data` behind what is there, with an fsync at each multiple of `sync_bytes`."""
        left = memoryview(data)
        file = self._disk.open(self.path)
        try:
            while left:
                piece = left[: self._sync - self.received % self._sync]
                self._disk.pwrite(file, piece, self.received)
                self.received, left = self.received + len(piece), left[len(piece) :]
                if self.received % self._sync == 0:
                    self._disk.fsync(file)
                    self.committed = self.received
        finally:
            self._disk.close(file)

    def finish(self, path: Path) -> None:
        """Bring all of it onto the disk and rename it; the new name is not durable yet."""
        file = self._disk.open(self.path)
        try:
            self._disk.fsync(file)
        finally:
            self._disk.close(file)
        failpoint("upload.before_seal")
        self._disk.rename(self.path, path)

    def remove(self) -> None:
        """Delete the file, durably."""
        with suppress(FileNotFoundError):
            self._disk.unlink(self.path)
        self._disk.fsync_folder(self.path.parent)
