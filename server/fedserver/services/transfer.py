"""Bytes on their way, in pieces: updates and first models come up, models go down."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from google.protobuf.message import Message

from fedcore.secagg.messages import UploadHeader, decode_as
from fedcore.v1 import model_service_pb2, model_upload_service_pb2, upload_service_pb2
from fedcore.wire.envelope import Place
from fedcore.wire.transfer import CHUNK_BYTES, crc32
from fedserver.authorisation import Caller
from fedserver.federation.interface import Federation
from fedserver.services import fields
from fedserver.services.unsigned import Unsigned
from fedserver.services.windows import Windows

__all__ = ["ModelService", "ModelUploadService", "UploadService"]

_LARGEST_HEADER = 1024


class UploadService:
    """An update on its way up; `Commit` alone acknowledges it."""

    payloads: Mapping[str, type[Message]] = {"Commit": upload_service_pb2.UploadSeal}

    def __init__(
        self, federation: Federation, *, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._federation, self._windows = federation, Windows(now_s=now_s)

    async def place(self, caller: Caller, payload: upload_service_pb2.UploadSeal, /) -> Place:
        return await self._federation.place(
            caller, upload_id=fields.identifier(payload.upload_id, "upload_id")
        )

    async def Begin(
        self, caller: Caller, request: upload_service_pb2.BeginRequest
    ) -> upload_service_pb2.BeginResponse:
        assignment_id = fields.identifier(request.assignment_id, "assignment_id")
        size = fields.number(request.size, "size", least=1)
        raw = fields.sized(request.header, "header", most=_LARGEST_HEADER)
        header = decode_as(raw, UploadHeader) if raw else None
        progress = await self._federation.begin_upload(
            caller, assignment_id, size=size, header=header
        )
        window = self._windows.of(progress.upload_id)
        return upload_service_pb2.BeginResponse(
            upload_id=progress.upload_id,
            committed_offset=progress.committed_offset,
            chunk_bytes=window.chunk_bytes,
            window=window.pieces,
            sealed=progress.sealed,
        )

    async def PutChunk(
        self, caller: Caller, request: upload_service_pb2.PutChunkRequest
    ) -> upload_service_pb2.PutChunkResponse:
        data = fields.sized(request.data, "data", least=1, most=CHUNK_BYTES)
        upload_id = fields.identifier(request.upload_id, "upload_id")
        offset, check = fields.number(request.offset, "offset"), request.crc32
        del request  # it has the same bytes once more, and the disk may be slow
        committed = await self._federation.put_chunk(
            caller, upload_id, offset=offset, crc32=check, data=data
        )
        self._windows.hear(upload_id)
        return upload_service_pb2.PutChunkResponse(committed_offset=committed)

    async def Commit(
        self, caller: Caller, request: upload_service_pb2.UploadSeal
    ) -> upload_service_pb2.CommitResponse:
        sha256 = fields.digest(request.sha256, "sha256")
        upload_id = fields.identifier(request.upload_id, "upload_id")
        size = fields.number(request.size, "size", least=1)
        await self._federation.commit_upload(caller, upload_id, size=size, sha256=sha256)
        self._windows.end(upload_id)
        return upload_service_pb2.CommitResponse(sha256=sha256)


class ModelUploadService(Unsigned):
    """A task's first model on its way up; a signed submission that names it makes it count."""

    def __init__(
        self, federation: Federation, *, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._federation, self._windows = federation, Windows(now_s=now_s)

    async def BeginModel(
        self, caller: Caller, request: model_upload_service_pb2.BeginModelRequest
    ) -> model_upload_service_pb2.BeginModelResponse:
        sha256 = fields.digest(request.sha256, "sha256")
        size = fields.number(request.size, "size", least=1)
        progress = await self._federation.begin_model(caller, sha256, size=size)
        window = self._windows.of(_upload_of(caller, sha256))
        return model_upload_service_pb2.BeginModelResponse(
            committed_offset=progress.committed_offset,
            chunk_bytes=window.chunk_bytes,
            window=window.pieces,
            sealed=progress.sealed,
        )

    async def PutModelChunk(
        self, caller: Caller, request: model_upload_service_pb2.PutModelChunkRequest
    ) -> model_upload_service_pb2.PutModelChunkResponse:
        data = fields.sized(request.data, "data", least=1, most=CHUNK_BYTES)
        sha256 = fields.digest(request.sha256, "sha256")
        offset, check = fields.number(request.offset, "offset"), request.crc32
        del request  # it has the same bytes once more, and the disk may be slow
        committed = await self._federation.put_model_chunk(
            caller, sha256, offset=offset, crc32=check, data=data
        )
        self._windows.hear(_upload_of(caller, sha256))
        return model_upload_service_pb2.PutModelChunkResponse(committed_offset=committed)

    async def CommitModel(
        self, caller: Caller, request: model_upload_service_pb2.CommitModelRequest
    ) -> model_upload_service_pb2.CommitModelResponse:
        sha256 = fields.digest(request.sha256, "sha256")
        size = fields.number(request.size, "size", least=1)
        await self._federation.commit_model(caller, sha256, size=size)
        self._windows.end(_upload_of(caller, sha256))
        return model_upload_service_pb2.CommitModelResponse()


class ModelService(Unsigned):
    """Pure reads, by digest: a download may be broken off and gone on with anywhere."""

    def __init__(self, federation: Federation) -> None:
        self._federation = federation

    async def Describe(
        self, caller: Caller, request: model_service_pb2.DescribeRequest
    ) -> model_service_pb2.DescribeResponse:
        found = await self._federation.model(caller, fields.digest(request.digest, "digest"))
        return model_service_pb2.DescribeResponse(
            size=found.size, task_id=found.task_id, round=found.round, parent=found.parent
        )

    async def GetChunk(
        self, caller: Caller, request: model_service_pb2.GetChunkRequest
    ) -> model_service_pb2.GetChunkResponse:
        length = fields.number(request.length, "length", most=CHUNK_BYTES)
        chunk = await self._federation.model_chunk(
            caller,
            fields.digest(request.digest, "digest"),
            offset=fields.number(request.offset, "offset"),
            length=length or CHUNK_BYTES,
        )
        return model_service_pb2.GetChunkResponse(
            data=chunk.data, crc32=crc32(chunk.data), size=chunk.size
        )


def _upload_of(caller: Caller, sha256: bytes) -> bytes:
    return caller.principal.encode() + sha256
