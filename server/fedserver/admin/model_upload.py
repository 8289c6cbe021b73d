"""A first model goes up in pieces, and after a break goes on behind those that are on the disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO, Final

import grpc

from fedcore.errors import ArgumentError, FedcoreError, NotFoundError
from fedcore.v1.model_upload_service_pb2 import (
    BeginModelRequest,
    BeginModelResponse,
    CommitModelRequest,
    PutModelChunkRequest,
)
from fedcore.wire.transfer import CHUNK_BYTES, WINDOW, crc32, pieces, windowed
from fedserver.admin.connection import Connection, is_passing

if TYPE_CHECKING:
    from fedcore.v1.model_upload_service_pb2 import PutModelChunkResponse
    from fedserver.admin.first_model import FirstModel

__all__ = ["copying_s", "upload"]

_PIECE_S: Final = 60.0
_REPEATS: Final = 3  # without getting on
_SLOW: Final = 10 << 20  # bytes a second, of a disk that is written and read at once

Moved = Callable[[int, int], object]


def upload(
    server: Connection, model: FirstModel, *, moved: Moved = lambda done, size: None
) -> None:
    """Sends what the server has not got of a model; when it returns, a submission may name it.

    `moved`: told how many of how many bytes are there. Memory: five pieces of 1 MiB.
    Raises: what the server refuses with; ArgumentError if the file cannot be read, or changes.
    """
    failures, durable = 0, -1
    while True:
        try:
            request = BeginModelRequest(sha256=model.sha256, size=model.size)
            opened = server.ask(server.first_models.BeginModel, request, timeout_s=_PIECE_S)
            if opened.committed_offset > durable:
                failures, durable = 0, opened.committed_offset
            moved(durable, model.size)
            if not opened.sealed:
                with model.open() as file:
                    _send(server, model, opened, file, moved)
                seal = CommitModelRequest(sha256=model.sha256, size=model.size)
                server.ask(server.first_models.CommitModel, seal, timeout_s=_PIECE_S)
            return
        except FedcoreError as error:
            # A server that started again has no upload open: it tells from where to go on.
            failures += 1
            lost = isinstance(error, NotFoundError)
            if failures >= _REPEATS or not (lost or is_passing(error)):
                raise
            server.pause(error, failures - 1)


def copying_s(model: FirstModel) -> float:
    """The seconds that a server may take, at its slowest, to keep an uploaded model for a task."""
    return model.size / _SLOW


def _send(
    server: Connection,
    model: FirstModel,
    opened: BeginModelResponse,
    file: BinaryIO,
    moved: Moved,
) -> None:
    largest = min(opened.chunk_bytes or CHUNK_BYTES, CHUNK_BYTES)
    file.seek(opened.committed_offset)

    def sent() -> Iterator[tuple[int, grpc._CallFuture[PutModelChunkResponse]]]:
        start = opened.committed_offset
        for offset, length in pieces(model.size, start=start, chunk_bytes=largest):
            data = file.read(length)
            if len(data) != length:
                raise ArgumentError(
                    "the first model changed while it was sent",
                    why=f"its file ends before byte {offset + length}",
                    fix="run the command again, and leave the file as it is until it has ended",
                )
            request = PutModelChunkRequest(
                sha256=model.sha256, offset=offset, crc32=crc32(data), data=data
            )
            method = server.first_models.PutModelChunk
            yield offset + length, method.future(request, timeout=_PIECE_S)

    try:
        with windowed(sent(), window=min(max(1, opened.window), WINDOW)) as going:
            for end, answer in going:
                answer.result()
                moved(end, model.size)
    except grpc.RpcError as error:
        raise server.meaning(error) from None
