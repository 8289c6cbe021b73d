"""Blobs in an object store, with a copy on this machine's disk of those that are in use.

A blob is written to the copies first, which find its digest, and then put as one object: whole or
not at all. Whatever is read comes from a copy, and a copy is made of nothing but an object whose
bytes have the digest that is its name. Copies go after a day, and are made anew when needed.

Two servers cannot agree on an object in one step: where one collects an old one in the moment in
which another puts the same bytes anew, theirs may be gone. Their copy is not, and is put again.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import BinaryIO, Final, TypeVar

from fedcore.errors import BlobError
from fedserver.blobs import BlobWriter, LocalBlobStore, damaged, digest_name
from fedserver.disk import FilePath, in_thread
from fedserver.objects import Objects

__all__ = ["ObjectBlobStore"]

T = TypeVar("T")

_DAY_S: Final = 86_400.0
_OURS: Final = re.compile(r"([0-9a-f]{2})/([0-9a-f]{2})/\1\2[0-9a-f]{60}")


class ObjectBlobStore:
    """`BlobStore` on objects named `ab/cd/abcd…`, as files of the local one are.

    `copies`: where this machine keeps what it reads and writes; several servers may share it.
    """

    def __init__(self, objects: Objects, copies: LocalBlobStore) -> None:
        self._objects, self._copies = objects, copies
        self._fetching = asyncio.Lock()
        # A collector that saw an old object must not delete what was put anew since.
        self._putting = threading.Lock()

    async def check(self) -> None:
        """Puts, reads and deletes an empty blob. Raises: BlobError if the store refuses that."""
        digest = await self.put_bytes(b"")
        await self._copies.delete(digest)
        await self.verify(digest)
        await self.delete(digest)

    async def put_bytes(self, data: bytes) -> bytes:
        async with self.writer() as writer:
            await writer.write(data)
            return await writer.commit()

    async def put_file(self, path: FilePath) -> bytes:
        return await self._put(await self._copies.put_file(path))

    @asynccontextmanager
    async def writer(self) -> AsyncIterator[BlobWriter]:
        async with self._copies.writer() as writer:
            yield _Writer(writer, self._put)

    async def open_read(self, digest: bytes) -> BinaryIO:
        return await self._copied(digest, lambda: self._copies.open_read(digest))

    async def read(self, digest: bytes, offset: int, length: int) -> bytes:
        return await self._copied(digest, lambda: self._copies.read(digest, offset, length))

    async def size(self, digest: bytes) -> int:
        return await self._copied(digest, lambda: self._copies.size(digest))

    async def verify(self, digest: bytes) -> None:
        try:
            await self._copied(digest, lambda: self._copies.verify(digest))
        except BlobError as error:
            if error.__cause__ is not None:
                raise
            await self._copies.delete(digest)  # it may be the copy alone that is damaged
            await self._copied(digest, lambda: self._copies.verify(digest))

    async def delete(self, digest: bytes) -> None:
        await in_thread(self._objects.delete, digest_name(digest))
        await self._copies.delete(digest)

    async def orphans(self, known: Collection[bytes], *, older_than_s: float) -> list[bytes]:
        names = await in_thread(self._objects.names)
        old = await in_thread(self._old, names, known, older_than_s)
        return sorted(bytes.fromhex(name.rpartition("/")[2]) for name in old)

    async def collect(self, known: Collection[bytes], *, older_than_s: float = _DAY_S) -> int:
        names = await in_thread(self._objects.names)
        gone = await in_thread(self._collect, names, known, older_than_s)
        for digest in await in_thread(self._missing, names, known):
            await self._put_again(digest)
        await self._copies.collect((), older_than_s=older_than_s)
        return gone

    async def _put(self, digest: bytes) -> bytes:
        await in_thread(self._put_object, digest)
        return digest

    async def _put_again(self, digest: bytes) -> None:
        """Puts what has a copy and is no object. Raises: BlobError, once, for a damaged copy."""
        try:
            await self._copies.verify(digest)
        except BlobError as error:
            if error.__cause__ is None:  # not of the disk: it would be found again every hour
                await self._copies.delete(digest)
            raise
        await self._put(digest)

    def _put_object(self, digest: bytes) -> None:
        with self._putting:
            self._objects.put(digest_name(digest), self._copies.path(digest))

    async def _copied(self, digest: bytes, ask: Callable[[], Awaitable[T]]) -> T:
        """What the copy of a blob answers, which is fetched if there is none."""
        with _unless_missing():
            return await ask()
        async with self._fetching:
            with _unless_missing():  # another who asked may have fetched it meanwhile
                return await ask()
            await self._fetch(digest)
        return await ask()

    async def _fetch(self, digest: bytes) -> None:
        name = digest_name(digest)
        size = await in_thread(self._objects.size, name)
        with self._copies.incoming(size) as path:
            await in_thread(self._objects.fetch, name, path)
            found = await self._copies.put_file(path)
        if found != digest:
            raise damaged(digest, found, fix="restore the object from a copy")

    def _old(
        self, names: Sequence[str], known: Collection[bytes], older_than_s: float
    ) -> list[str]:
        wanted = {digest_name(digest) for digest in known}
        return [
            name
            for name in names
            if _OURS.fullmatch(name) and name not in wanted and self._older(name, older_than_s)
        ]

    def _missing(self, names: Sequence[str], known: Collection[bytes]) -> list[bytes]:
        """Blobs that are copies here and no objects, though they should be."""
        there = frozenset(names)
        return [
            digest
            for digest in known
            if digest_name(digest) not in there and os.path.exists(self._copies.path(digest))
        ]

    def _older(self, name: str, seconds: float) -> bool:
        try:
            return datetime.now(UTC) - self._objects.modified(name) > timedelta(seconds=seconds)
        except BlobError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return False
            raise

    def _collect(self, names: Sequence[str], known: Collection[bytes], older_than_s: float) -> int:
        gone = 0
        for name in self._old(names, known, older_than_s):
            with self._putting:
                if self._older(name, older_than_s):
                    self._objects.delete(name)
                    gone += 1
        return gone


class _Writer:
    """A blob that is an object, too, once it is committed."""

    def __init__(self, copy: BlobWriter, put: Callable[[bytes], Awaitable[bytes]]) -> None:
        self._copy, self._put = copy, put

    async def write(self, data: bytes | memoryview) -> None:
        await self._copy.write(data)

    async def commit(self) -> bytes:
        return await self._put(await self._copy.commit())


@contextmanager
def _unless_missing() -> Iterator[None]:
    try:
        yield
    except BlobError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
