"""Whoever sends an upload harms that upload at most, and nobody who waits beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedcore.errors import UploadError
from tests.server.uploads import ID, put, sealed, sha, small


async def test_few_chunks_of_an_upload_wait_however_small_they_are(tmp_path: Path) -> None:
    """To take up many that waited would keep the event loop from all others."""
    root, data = tmp_path / "spool", bytes(range(250)) * 4
    spool = small(root, chunk_bytes=1000)
    await spool.open(ID, len(data))
    for at in range(1, 65):
        await put(spool, at, data[at : at + 1])
    for at in (65, 900):
        with pytest.raises(UploadError, match="go on from byte 0"):
            await put(spool, at, data[at : at + 1])
    assert spool.in_flight == 64
    await put(spool, 1, data[1:10])  # a longer one in the place of one that waits
    assert await put(spool, 0, data[:1]) == 0
    await put(spool, 65, data[65:])
    await spool.seal(ID, len(data), sha(data))
    assert sealed(root, data) == data and spool.in_flight == 0
