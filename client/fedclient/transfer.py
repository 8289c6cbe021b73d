"""Models come down, updates go up: in pieces, several on their way at once, resumed after a break.

What the other end has confirmed is never sent again: a download goes on behind the bytes on the
disk, also after a restart of the program, an upload behind the offset that the server tells.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from fedclient.connection import Answer, Connection, Patience
from fedclient.files import make_folder, sync_folder
from fedclient.stopping import Stop
from fedcore.errors import (
    ClientStateError,
    DeviceTimeoutError,
    FedcoreError,
    NotFoundError,
    TransferError,
    UploadError,
)
from fedcore.failpoints import failpoint

if TYPE_CHECKING:
    from fedcore.v1.common_pb2 import Envelope
    from fedcore.v1.model_service_pb2 import GetChunkResponse
    from fedcore.v1.upload_service_pb2 import BeginResponse, PutChunkResponse

__all__ = ["Moved", "Source", "download", "download_file", "upload"]

Moved = Callable[[int, int], None]
"""Told of bytes that were moved, and of how many there are in all."""

Source = Callable[[], Iterable[tuple[int, bytes]]]
"""The bytes of an upload from its beginning, as (offset, bytes): the same at every call."""

_PIECE_S = 60.0
_LEAST_BYTES = 16 << 10
_REPEATS = 3  # of what the other end finds damaged


class _Pace:
    """How many pieces are on their way at once, and how large they are.

    One in place of four after the first that did not come through in time, and a quarter of its
    size after each further one: what was given up still fills the line for a while. One of 16 KiB
    passes a line of 0.3 KiB a second before the deadline.
    """

    def __init__(self) -> None:
        from fedcore.wire.transfer import CHUNK_BYTES, WINDOW

        self.window, self.bytes = WINDOW, CHUNK_BYTES

    def notice(self, error: FedcoreError) -> None:
        """Slows down if that is what was amiss."""
        if not isinstance(error, DeviceTimeoutError):
            return
        if self.window == 1:
            self.bytes = max(_LEAST_BYTES, self.bytes // 4)
        self.window = 1


def download(
    connection: Connection,
    digest: bytes,
    *,
    size: int,
    folder: Path,
    stop: Stop,
    moved: Moved,
) -> Path:
    """The file of the model with this SHA-256 and of `size` bytes, in `folder`, and no other.

    Raises: as `download_file`.
    """
    make_folder(folder)
    whole, part = folder / f"{digest.hex()}.safetensors", folder / f"{digest.hex()}.part"
    for other in folder.iterdir():  # a device keeps the model that it works on, and no other
        if other not in (whole, part):
            other.unlink(missing_ok=True)
    download_file(connection, digest, size=size, path=whole, part=part, stop=stop, moved=moved)
    return whole


def download_file(
    connection: Connection,
    digest: bytes,
    *,
    size: int,
    path: Path,
    part: Path,
    stop: Stop,
    moved: Moved,
) -> None:
    """Makes `path` the model with this SHA-256 and of `size` bytes, by way of `part` beside it.

    Memory: five pieces of 1 MiB. Raises: TransferError if the bytes are others than those named;
    ClientStateError if the disk does not take them; what the server refuses with.
    """
    try:
        if path.exists() and _digest_is(path, digest):
            return
        for _ in range(_REPEATS):
            with open(os.open(part, os.O_CREAT | os.O_RDWR, 0o600), "r+b") as file:
                _fill(connection, digest, size, file, stop, moved)
                file.flush()
                os.fsync(file.fileno())
            if _digest_is(part, digest):
                part.replace(path)
                sync_folder(path.parent)
                return
            part.unlink()
    except OSError as error:
        if isinstance(error, FedcoreError):
            raise
        raise ClientStateError(
            "a model cannot be written",
            where=str(path),
            why=f"{error.strerror} ({error.errno})",
            fix="check the folder and the space on the disk: the download goes on where it was",
        ) from error
    raise TransferError(
        "a model is not the one that was named",
        why="its SHA-256 is another, at every try",
        fix="report it to the operator: the server's file is damaged",
    )


def _fill(
    connection: Connection, digest: bytes, size: int, file: BinaryIO, stop: Stop, moved: Moved
) -> None:
    from fedcore.v1.model_service_pb2 import GetChunkRequest
    from fedcore.wire.transfer import check_chunk, pieces, windowed

    def asked(start: int) -> Iterator[tuple[tuple[int, int], Answer[GetChunkResponse]]]:
        for offset, length in pieces(size, start=start, chunk_bytes=pace.bytes):
            request = GetChunkRequest(digest=digest, offset=offset, length=length)
            method = connection.models.GetChunk
            yield (offset, length), connection.start(method, request, timeout_s=_PIECE_S)

    patience, pace = Patience(stop=stop), _Pace()
    file.truncate(min(file.seek(0, os.SEEK_END), size))
    while (start := file.seek(0, os.SEEK_END)) < size:
        try:
            with windowed(asked(start), window=pace.window) as coming:
                for (offset, length), answer in coming:
                    response = answer.result(stop)
                    check_chunk(response.data, crc32=response.crc32, offset=offset, size=size)
                    if response.size != size or len(response.data) != length:
                        raise _damaged(f"{len(response.data)} of {length} bytes came")
                    file.write(response.data)
                    moved(length, size)
                    patience.succeeded()
                    failpoint("client.mid_download")
        except FedcoreError as error:
            file.flush()
            pace.notice(error)
            patience.wait(error)


def upload(
    connection: Connection,
    assignment_id: bytes,
    *,
    size: int,
    header: bytes,
    source: Source,
    seal: Callable[[bytes], Envelope],
    stop: Stop,
    moved: Moved,
) -> None:
    """Sends an update of `size` bytes; when it returns, the server has acknowledged it.

    `header`: what precedes a masked update, or empty. `seal`: the signed envelope over the payload
    that ends the upload. Memory: five pieces of 1 MiB beside the source.
    Raises: TransferError if the source is not of that size; what the server refuses with.
    """
    from fedcore.v1.upload_service_pb2 import BeginRequest, CommitRequest, UploadSeal

    patience, pace, refused = Patience(stop=stop), _Pace(), 0
    told = -1  # what an earlier process told is not known
    begin = BeginRequest(assignment_id=assignment_id, size=size, header=header)

    def tell(count: int, size: int) -> None:
        nonlocal told
        told += count
        moved(count, size)

    while True:
        try:
            opened = connection.start(connection.uploads.Begin, begin).result(stop)
            if 0 <= told < opened.committed_offset:  # it came, and its acknowledgement did not
                moved(opened.committed_offset - told, size)
            told = opened.committed_offset
            if opened.sealed:
                return
            digest = _send(connection, opened, size, source, stop, tell, patience, pace)
            payload = UploadSeal(upload_id=opened.upload_id, size=size, sha256=digest)
            request = CommitRequest(seal=seal(payload.SerializeToString(deterministic=True)))
            answer = connection.start(connection.uploads.Commit, request, timeout_s=_PIECE_S)
            answer.result(stop)
            return
        except (UploadError, TransferError, NotFoundError) as error:
            # Pieces too far ahead, damaged, or of an upload that a restarted server has not open:
            # it tells at Begin from where to go on.
            refused += 1
            if refused >= _REPEATS:
                raise error
        except FedcoreError as error:
            pace.notice(error)
            patience.wait(error)


def _send(
    connection: Connection,
    opened: BeginResponse,
    size: int,
    source: Source,
    stop: Stop,
    moved: Moved,
    patience: Patience,
    pace: _Pace,
) -> bytes:
    """Sends what the server has not got; SHA-256 of the whole."""
    from fedcore.v1.upload_service_pb2 import PutChunkRequest
    from fedcore.wire.transfer import crc32, windowed

    whole, end = hashlib.sha256(), opened.committed_offset
    window = min(max(1, opened.window), pace.window)
    largest = min(opened.chunk_bytes or pace.bytes, pace.bytes)

    def sent() -> Iterator[tuple[tuple[int, int], Answer[PutChunkResponse]]]:
        for offset, data in _from(source(), opened.committed_offset, whole, largest):
            request = PutChunkRequest(
                upload_id=opened.upload_id, offset=offset, crc32=crc32(data), data=data
            )
            method = connection.uploads.PutChunk
            yield (offset, len(data)), connection.start(method, request, timeout_s=_PIECE_S)

    with windowed(sent(), window=window) as going:
        for (offset, length), answer in going:
            answer.result(stop)
            moved(length, size)
            patience.succeeded()
            failpoint("client.mid_upload")
            end = offset + length
    if end != size:
        raise _damaged(f"an update of {end} bytes was announced as {size}")
    return whole.digest()


def _from(
    source: Iterable[tuple[int, bytes]], start: int, whole: hashlib._Hash, largest: int
) -> Iterator[tuple[int, bytes]]:
    """What of a source lies behind `start`, cut to `largest` bytes; `whole` sees all of it."""
    for begin, data in source:
        whole.update(data)
        for offset in range(max(begin, start), begin + len(data), largest):
            yield offset, data[offset - begin : offset - begin + largest]


def _digest_is(path: Path, digest: bytes) -> bool:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").digest()
    return hmac.compare_digest(found, digest)


def _damaged(why: str) -> TransferError:
    return TransferError(
        "bytes were lost on their way", why=why, fix="try again; report it if it happens again"
    )
