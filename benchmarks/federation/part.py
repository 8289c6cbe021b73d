"""A client's part in a round, as a coroutine: it trains nothing, and sends bytes that were made."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import grpc
import numpy as np

from benchmarks.federation.calls import Calls
from benchmarks.federation.stage import Device
from fedcore.federated.task import Task
from fedcore.federated.update import UpdateLayout
from fedcore.secagg.packing import pack, to_wire
from fedcore.v1 import client_service_pb2, round_service_pb2, upload_service_pb2
from fedcore.v1.client_service_pb2_grpc import ClientServiceStub
from fedcore.v1.round_service_pb2_grpc import RoundServiceStub
from fedcore.v1.upload_service_pb2_grpc import UploadServiceStub
from fedcore.wire.envelope import Place
from fedcore.wire.transfer import crc32, pieces
from fedcore.wire.versions import installed_version

__all__ = ["Part", "Update", "question"]

_CALL_S = 120.0
_WAIT_MS = 20_000


def question() -> client_service_pb2.CheckInRequest:
    """A new check-in."""
    return client_service_pb2.CheckInRequest(
        request_id=secrets.token_bytes(16),
        sdk_version=installed_version(),
        programs=["bench"],
        datasets=["toy"],
    )


@dataclass(frozen=True)
class Update:
    """An update as it goes over the wire; that of one client serves for all."""

    data: bytes

    @classmethod
    def of(cls, task: Task) -> Update:
        """A random update of a task without privacy."""
        draw = np.random.default_rng(1)
        vector = draw.standard_normal(task.dimension, np.float32)
        blocks = UpdateLayout.of(task).encode(vector, 10, {})
        del vector
        layout, parts = task.layout, []
        for frame in layout.frames():
            block = layout.blocks[frame.block]
            words = pack(block, blocks[frame.block], frame.start, frame.words)
            parts.append(to_wire(words, frame.word_bytes))
        return cls(b"".join(parts))

    @cached_property
    def sha256(self) -> bytes:
        return hashlib.sha256(self.data).digest()


class Part:
    """One client's part, in the order of the methods."""

    def __init__(self, device: Device, channel: grpc.aio.Channel) -> None:
        self._device = device
        self._clients, self._rounds = ClientServiceStub(channel), RoundServiceStub(channel)
        self._uploads = UploadServiceStub(channel)
        self._seen = 0

    async def check_in(self) -> None:
        """Asks until it has an assignment."""
        while True:
            answer = await self._clients.CheckIn(question(), timeout=_CALL_S)
            if answer.HasField("assignment"):
                self._assignment = answer.assignment
                return
            await asyncio.sleep(answer.retry.delay_min_ms / 1000)

    def over(self, channel: grpc.aio.Channel) -> Part:
        """The same part over another connection, of a device that has forgotten what it saw."""
        again = Part(self._device, channel)
        again._assignment = self._assignment
        return again

    async def ordered(self, kind: str) -> round_service_pb2.NextResponse:
        """Waits until it is told to do this: "train" or "finished"."""
        while True:
            request = round_service_pb2.NextRequest(
                assignment_id=self._assignment.assignment_id, seen=self._seen, wait_ms=_WAIT_MS
            )
            found = await Calls()(self._rounds.Next, request)
            self._seen = found.number
            if found.HasField(kind):
                return found

    async def begin(self, update: Update) -> upload_service_pb2.BeginResponse:
        """Opens the upload, of which nothing is sent yet."""
        request = upload_service_pb2.BeginRequest(
            assignment_id=self._assignment.assignment_id, size=len(update.data)
        )
        return await self._uploads.Begin(request, timeout=_CALL_S)

    async def upload(self, update: Update) -> None:
        """Sends an update, with as many chunks on their way as the server allows."""
        begun = await self.begin(update)
        todo = _cut(update.data, begun.chunk_bytes)
        await asyncio.gather(*(self._send(begun.upload_id, todo) for _ in range(begun.window)))
        seal = upload_service_pb2.UploadSeal(
            upload_id=begun.upload_id, size=len(update.data), sha256=update.sha256
        )
        ref = self._assignment.round
        place = Place(ref.task_id, ref.round, ref.attempt, self._assignment.nonce)
        envelope = self._device.signed(
            seal.SerializeToString(deterministic=True), method="UploadService.Commit", place=place
        )
        request = upload_service_pb2.CommitRequest(seal=envelope)
        await self._uploads.Commit(request, timeout=_CALL_S)

    async def _send(self, upload_id: bytes, todo: Iterator[tuple[int, bytes, int]]) -> None:
        for offset, data, check in todo:
            request = upload_service_pb2.PutChunkRequest(
                upload_id=upload_id, offset=offset, crc32=check, data=data
            )
            while True:
                try:
                    await self._uploads.PutChunk(request, timeout=_CALL_S)
                    break
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                        raise
                    await asyncio.sleep(0.5)


def _cut(data: bytes, chunk_bytes: int) -> Iterator[tuple[int, bytes, int]]:
    """(offset, bytes, CRC-32) of each piece."""
    for offset, length in pieces(len(data), chunk_bytes=chunk_bytes):
        piece = data[offset : offset + length]
        yield offset, piece, crc32(piece)
