"""A model's file comes down in pieces, goes on behind those there, and is checked as a whole."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import grpc

from fedcore.errors import ArgumentError, FedcoreError, TransferError
from fedcore.v1.model_service_pb2 import DescribeRequest, GetChunkRequest
from fedcore.wire.transfer import check_chunk, pieces, windowed
from fedserver.admin.connection import Connection

if TYPE_CHECKING:
    from fedcore.v1.model_service_pb2 import GetChunkResponse

__all__ = ["download"]

_PIECE_S: Final = 60.0
_BLOCK: Final = 1 << 20

Moved = Callable[[int, int], None]


def download(
    server: Connection, digest: bytes, out: Path, *, moved: Moved = lambda done, size: None
) -> int:
    """Writes the model of this SHA-256 to `out` and returns its size in bytes.

    What was interrupted goes on where it was. `moved`: told how many of how many bytes are there.
    Raises: ArgumentError if another file is there or the disk does not take it; TransferError for
    bytes that are not the model's; what the server refuses with.
    """
    try:
        if out.exists():
            if _digest_is(out, digest):
                return out.stat().st_size
            raise ArgumentError(
                f"{out.name} is there already",
                why="it is not this model",
                fix="name another file with --out",
                where=str(out),
            )
        size = server.ask(server.models.Describe, DescribeRequest(digest=digest)).size
        part = out.with_name(f".{out.name}.{digest.hex()[:16]}.part")
        with open(os.open(part, os.O_CREAT | os.O_RDWR, 0o666), "r+b") as file:
            _fill(server, digest, size, file, moved)
            file.flush()
            os.fsync(file.fileno())
        if not _digest_is(part, digest):
            part.unlink()
            raise TransferError(
                "the bytes are not those of the model",
                why="their SHA-256 is another than its name",
                fix="try once more; if it is so again, the server's file is damaged",
            )
        part.replace(out)
    except FedcoreError:  # some of which are an OSError, too
        raise
    except OSError as error:
        raise ArgumentError(
            f"{out.name} cannot be written",
            why=(error.strerror or str(error)).lower(),
            fix="name another place with --out, or make room; the download goes on where it was",
            where=str(out),
        ) from None
    return size


def _fill(server: Connection, digest: bytes, size: int, file: BinaryIO, moved: Moved) -> None:
    file.truncate(min(file.seek(0, os.SEEK_END), size))
    start = file.seek(0, os.SEEK_END)

    def asked() -> Iterator[tuple[tuple[int, int], grpc._CallFuture[GetChunkResponse]]]:
        for offset, length in pieces(size, start=start):
            request = GetChunkRequest(digest=digest, offset=offset, length=length)
            yield (offset, length), server.models.GetChunk.future(request, timeout=_PIECE_S)

    try:
        with windowed(asked()) as coming:
            for (offset, length), answer in coming:
                response = answer.result()
                check_chunk(response.data, crc32=response.crc32, offset=offset, size=size)
                if response.size != size or len(response.data) != length:
                    raise TransferError(
                        "a piece of a model is damaged",
                        why=f"{len(response.data)} of {length} bytes came",
                        fix="run the command again: it goes on where it was",
                    )
                file.write(response.data)
                moved(offset + length, size)
    except grpc.RpcError as error:
        raise server.meaning(error) from None


def _digest_is(path: Path, digest: bytes) -> bool:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            found.update(block)
    return hmac.compare_digest(found.digest(), digest)
