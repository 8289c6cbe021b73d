"""A client's part in a masked round, over the wire, as a coroutine: all of it, but on no disk.

What it computes runs in the one thread of `Workbench`, as on a core of its own, so that the loop
which all clients share answers in time; and it is counted apart.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TypeVar

import grpc
import numpy as np
from numpy.typing import NDArray

from benchmarks.federation.calls import Calls
from benchmarks.federation.part import question
from benchmarks.federation.stage import Device
from benchmarks.federation.tasks import toy_data
from fedcore.errors import AbortError, PhaseError, RoundOverError, StageError
from fedcore.federated.contribution import Contributor
from fedcore.federated.parameters import parameters_of
from fedcore.federated.programs import TrainingRequest
from fedcore.federated.task import Task
from fedcore.federated.training import stream_of
from fedcore.model_format import read_model
from fedcore.secagg import Effect, Policy, SecAggClient, TrustStore, decode, encode
from fedcore.secagg.effects import Erase, NeedInput, Persist, Send
from fedcore.secagg.messages import Message, UploadChunk, UploadHeader
from fedcore.v1 import (
    client_service_pb2,
    common_pb2,
    model_service_pb2,
    round_service_pb2,
    secagg_service_pb2,
    upload_service_pb2,
)
from fedcore.v1.client_service_pb2_grpc import ClientServiceStub
from fedcore.v1.model_service_pb2_grpc import ModelServiceStub
from fedcore.v1.round_service_pb2_grpc import RoundServiceStub
from fedcore.v1.secagg_service_pb2_grpc import SecAggServiceStub
from fedcore.v1.upload_service_pb2_grpc import UploadServiceStub
from fedcore.wire.envelope import Place
from fedcore.wire.transfer import crc32

__all__ = ["MaskedPart", "Workbench"]

_WAIT_MS = 20_000
_KEYS_LAST_S = 86_400
_TOO_LATE = (PhaseError, RoundOverError, StageError, AbortError)
_T = TypeVar("_T")
_Blocks = tuple[NDArray[np.int64], ...]


class Workbench:
    """What the clients of one process share: a thread for their work, a store of certificates.

    `registrar`: who certifies clients. `spent_s`: processor seconds of all their work. A signature
    that one of them has verified is not verified again for another: on devices it would be.
    """

    def __init__(self, task: Task, *, registrar: bytes) -> None:
        self.task, self.spent_s = task, 0.0
        self.policy = Policy(roots=(registrar,), attempts=task.rounds.max_attempts)
        self.trust = TrustStore(self.policy.roots, self.policy.revoked, remember_signatures=True)
        self.contributor = Contributor(task)
        self._thread = ThreadPoolExecutor(1)

    async def done(self, work: Callable[[], _T]) -> _T:
        """What the work gives, once its turn has come."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._timed, work)

    def _timed(self, work: Callable[[], _T]) -> _T:
        begin = time.thread_time()
        try:
            return work()
        finally:
            self.spent_s += time.thread_time() - begin


class MaskedPart:
    """One client: `take_part` is all that it does."""

    def __init__(
        self, device: Device, channel: grpc.aio.Channel, calls: Calls, bench: Workbench
    ) -> None:
        self._device, self._call, self._bench = device, calls, bench
        self._clients, self._rounds = ClientServiceStub(channel), RoundServiceStub(channel)
        self._aggregation = SecAggServiceStub(channel)
        self._models, self._uploads = ModelServiceStub(channel), UploadServiceStub(channel)
        self._blocks: _Blocks = ()
        self._advertised: Sequence[Effect] = ()

    async def take_part(self) -> bytes:
        """One whole round: the digest of the model that it ended with."""
        await self._check_in()
        request = client_service_pb2.GetTaskRequest(task_id=self._place.task_id)
        await self._call(self._clients.GetTask, request)
        seen = 0
        while True:
            ask = round_service_pb2.NextRequest(
                assignment_id=self._assignment_id, seen=seen, wait_ms=_WAIT_MS
            )
            told = await self._call(self._rounds.Next, ask)
            if told.HasField("finished"):
                await self._report()
                return told.finished.model_digest
            with suppress(*_TOO_LATE):  # the server says how it ended
                await self._obey(told)
            seen = told.number

    async def _obey(self, told: round_service_pb2.NextResponse) -> None:
        now = int(time.time())
        match told.WhichOneof("instruction"):
            case "advertise":
                if not self._advertised:
                    offer = partial(self._machine.offer, 1, expires=now + _KEYS_LAST_S)
                    self._advertised = await self._bench.done(offer)
                await self._perform(lambda: self._advertised)
            case "train":
                await self._train(told.train)
            case "secure_aggregation":
                message = decode(told.secure_aggregation)
                await self._perform(partial(self._machine.handle, message, now=now))

    async def _check_in(self) -> None:
        while True:
            answer = await self._call(self._clients.CheckIn, question())
            if answer.HasField("assignment"):
                break
            await asyncio.sleep(answer.retry.delay_min_ms / 1000)
        # One for each round, as after a start of the program: it keeps nothing of an earlier one.
        bench, self._advertised = self._bench, ()
        self._machine = SecAggClient(self._device.identity, bench.policy, trust=bench.trust)
        ref, self._assignment_id = answer.assignment.round, answer.assignment.assignment_id
        self._round = ref.round
        self._place = Place(ref.task_id, ref.round, ref.attempt, answer.assignment.nonce)

    async def _train(self, train: round_service_pb2.Train) -> None:
        request = model_service_pb2.GetChunkRequest(
            digest=train.model_digest, length=train.model_bytes
        )
        file = io.BytesIO((await self._call(self._models.GetChunk, request)).data)
        theta = read_model(file, parameters_of(self._bench.task)).vector
        name = self._device.id.hex()
        work = TrainingRequest(
            task=self._bench.task,
            theta=theta,
            dataset=toy_data(name),
            round=self._round,
            stream=stream_of(name),
            clipping=train.clipping,
        )
        self._blocks = await self._bench.done(partial(self._bench.contributor.contribute, work))

    async def _perform(self, work: Callable[[], Sequence[Effect]]) -> None:
        for effect in await self._bench.done(work):
            match effect:
                case Send(message):
                    await self._send(message)
                case NeedInput(sid):
                    await self._perform(partial(self._machine.commit, sid, self._blocks))
                    await self._upload(sid)
                case Persist() | Erase():
                    pass
                case _:
                    raise AssertionError(effect)

    async def _send(self, message: Message) -> None:
        payload = secagg_service_pb2.SecAggMessage(
            assignment_id=self._assignment_id, message=encode(message)
        )
        service, sealed = self._aggregation, partial(self._sealed, payload)
        match type(message).__name__:
            case "Advertise":
                signed = await sealed("SecAggService.Advertise")
                await self._call(
                    service.Advertise, secagg_service_pb2.AdvertiseRequest(message=signed)
                )
            case "Shares":
                signed = await sealed("SecAggService.Share")
                await self._call(service.Share, secagg_service_pb2.ShareRequest(message=signed))
            case "Confirmation":
                signed = await sealed("SecAggService.Confirm")
                await self._call(service.Confirm, secagg_service_pb2.ConfirmRequest(message=signed))
            case "UnmaskAnswer":
                signed = await sealed("SecAggService.Answer")
                await self._call(service.Answer, secagg_service_pb2.AnswerRequest(message=signed))
            case name:
                raise AssertionError(f"nobody lies here, and yet there is a {name}")

    async def _upload(self, sid: bytes) -> None:
        messages = await self._bench.done(lambda: [*self._machine.upload(sid, self._blocks)])
        header = next(encode(one) for one in messages if isinstance(one, UploadHeader))
        data = b"".join(one.data for one in messages if isinstance(one, UploadChunk))
        begin = upload_service_pb2.BeginRequest(
            assignment_id=self._assignment_id, size=len(data), header=header
        )
        begun = await self._call(self._uploads.Begin, begin)
        for offset in range(0, len(data), begun.chunk_bytes):
            piece = data[offset : offset + begun.chunk_bytes]
            put = upload_service_pb2.PutChunkRequest(
                upload_id=begun.upload_id, offset=offset, crc32=crc32(piece), data=piece
            )
            await self._call(self._uploads.PutChunk, put)
        seal = upload_service_pb2.UploadSeal(
            upload_id=begun.upload_id, size=len(data), sha256=hashlib.sha256(data).digest()
        )
        signed = await self._sealed(seal, "UploadService.Commit")
        await self._call(self._uploads.Commit, upload_service_pb2.CommitRequest(seal=signed))

    async def _report(self) -> None:
        report = round_service_pb2.Report(assignment_id=self._assignment_id)
        signed = await self._sealed(report, "RoundService.Report")
        await self._call(self._rounds.Report, round_service_pb2.ReportRequest(report=signed))

    async def _sealed(
        self,
        payload: secagg_service_pb2.SecAggMessage
        | upload_service_pb2.UploadSeal
        | round_service_pb2.Report,
        method: str,
    ) -> common_pb2.Envelope:
        data = payload.SerializeToString(deterministic=True)
        sign = partial(self._device.signed, data, method=method, place=self._place)
        envelope: common_pb2.Envelope = await self._bench.done(sign)
        return envelope
