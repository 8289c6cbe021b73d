"""What the tests of the spool share: a small one, and the way of an upload through it."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path
from typing import Any

from fedserver.spool import Spool
from fedserver.upload_file import part_of

ID = b"upload-of-one"
KEY = bytes(range(32))
SYNC = 64


def small(root: Path, **options: Any) -> Spool:
    """A spool for uploads of a few hundred bytes."""
    return Spool(root, **{"chunk_bytes": 32, "sync_bytes": SYNC, "window": 4, **options})


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


async def put(spool: Spool, offset: int, data: bytes, upload: bytes = ID) -> int:
    return await spool.put(upload, offset, zlib.crc32(data), data)


async def send(spool: Spool, data: bytes, start: int = 0) -> None:
    for offset in range(start, len(data), 32):
        await put(spool, offset, data[offset : offset + 32])


def sealed(root: Path, data: bytes, upload: bytes = ID, *, key: bytes | None = None) -> bytes:
    path = root / f"{upload.hex()}.{sha(data).hex()}"
    return part_of(path, 0, len(data) + 1, key=key)
