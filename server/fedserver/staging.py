"""First models wait here, each its sender's alone, until a task is handed in that names one.

The name of a file says whose it is, so that a restart needs nothing else to know it: a tenant has
few, whoever sends one sees no other's, and one that nobody names is collected a day later.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import BinaryIO, Final

from fedcore.errors import NotFoundError, OverloadedError, UploadError
from fedserver.authorisation import Caller
from fedserver.spool import Spool, SpoolProgress

__all__ = ["Staging"]

_DAY_S: Final = 86_400.0
_LEFT_ALONE_S: Final = 3_600.0
_RETRY_MS: Final = (60_000, 600_000)
_OWNER_BYTES: Final = 16


class Staging:
    """The first models of tasks that are not handed in yet, in a spool of their own.

    `largest_bytes`: of a model's file. `each`: how many a tenant may have; beyond them one that
    nobody has written to for an hour gives way. Methods raise what those of the spool do.
    """

    def __init__(self, spool: Spool, *, largest_bytes: int, each: int = 4) -> None:
        self._spool, self._largest, self._each = spool, largest_bytes, each
        self._turn = asyncio.Lock()

    async def begin(self, caller: Caller, sha256: bytes, size: int) -> SpoolProgress:
        """Opens the upload of a file of `size` bytes, or finds it again.

        Raises: UploadError for one that is too large; OverloadedError if the tenant has too many.
        """
        if size > self._largest:
            raise UploadError(
                f"a first model of {size} bytes is too large",
                why=f"this server takes {self._largest}",
                fix="let the task draw its first model, or ask the operator for [limits] "
                "model_bytes",
            )
        upload_id = _id_of(caller, sha256)
        await self._spool.learn([upload_id])  # another server may have gone on with it
        if upload_id not in await self._spool.silences():
            async with self._turn:
                await self._make_room(_tenant_of(caller))
                return await self._spool.open(upload_id, size)
        return await self._spool.open(upload_id, size)

    async def put(
        self, caller: Caller, sha256: bytes, *, offset: int, crc32: int, data: bytes
    ) -> int:
        """Takes a chunk: how many bytes of the file are durable now."""
        return await self._spool.put(_id_of(caller, sha256), offset, crc32, data)

    async def seal(self, caller: Caller, sha256: bytes, size: int) -> None:
        """Closes an upload that is complete and has its digest; it can be repeated."""
        await self._spool.seal(_id_of(caller, sha256), size, sha256)

    async def open_read(self, caller: Caller, sha256: bytes) -> tuple[BinaryIO, int]:
        """A sealed file, which the caller closes, and how many of its bytes are the model.

        Raises: NotFoundError unless the caller sealed one of that digest.
        """
        upload_id = _id_of(caller, sha256)
        await self._spool.learn([upload_id])  # another server may have taken it
        try:
            return await self._spool.open_read(upload_id)
        except NotFoundError as error:
            raise NotFoundError(
                "there is no such first model",
                why="you committed no file of that digest, or not within the last day",
                fix="upload it, as `fed task submit --model` does",
            ) from error

    async def discard(self, caller: Caller, sha256: bytes) -> None:
        """Forgets a file; one that is not there stays so."""
        await self._spool.discard(_id_of(caller, sha256))

    async def collect(self, *, older_than_s: float = _DAY_S) -> int:
        """Deletes what nobody has written to for so long: how many files went."""
        silences = await self._spool.silences()
        old = sorted(upload for upload, silent_s in silences.items() if silent_s > older_than_s)
        await self._spool.discard(*old)
        return len(old)

    async def _make_room(self, tenant: bytes) -> None:
        silences = await self._spool.silences()
        theirs = sorted(
            (silent_s, upload) for upload, silent_s in silences.items() if upload.startswith(tenant)
        )
        if len(theirs) < self._each:
            return
        silent_s, oldest = theirs[-1]
        if silent_s < _LEFT_ALONE_S:
            raise OverloadedError(
                f"{len(theirs)} first models wait for their tasks",
                why="so many a tenant may have at once",
                fix="hand in their tasks; one that was left alone for an hour gives way",
                retry=_RETRY_MS,
            )
        await self._spool.discard(oldest)


def _tenant_of(caller: Caller) -> bytes:
    return hashlib.sha256(caller.tenant.encode()).digest()[:_OWNER_BYTES]


def _id_of(caller: Caller, sha256: bytes) -> bytes:
    """As long as the spool takes: whose tenant's, whose, and which."""
    owner = hashlib.sha256(caller.principal.encode()).digest()[:_OWNER_BYTES]
    return _tenant_of(caller) + owner + sha256
