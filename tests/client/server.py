"""A small server in this process: real gRPC over mTLS, real sessions, everything else in memory.

It keeps what it was sent, so that a test can say what must never be sent twice or otherwise.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedcore.errors import (
    ConflictError,
    NotFoundError,
    PhaseError,
    SecAggError,
    UploadError,
)
from fedcore.federated.task import Task
from fedcore.secagg import (
    Send,
    Stage,
    UploadTrailer,
    decode,
    encode,
)
from fedcore.secagg.messages import MaskRequest, Roster, Survivors, UnmaskRequest
from fedcore.v1 import (
    client_service_pb2 as clients,
    client_service_pb2_grpc,
    common_pb2 as common,
    enrolment_service_pb2_grpc,
    model_service_pb2 as models,
    model_service_pb2_grpc,
    round_service_pb2 as rounds,
    round_service_pb2_grpc,
    secagg_service_pb2 as aggregation,
    secagg_service_pb2_grpc,
    upload_service_pb2 as uploads,
    upload_service_pb2_grpc,
)
from fedcore.wire.channels import server_options
from fedcore.wire.envelope import (
    TASK,
    Place,
    opened,
    seal,
)
from fedcore.wire.joining import JoinString
from fedcore.wire.transfer import crc32
from tests.client.authority import Authority
from tests.client.rounds import FakeRounds
from tests.client.seats import Seat, Upload
from tests.client.service import Service

NUMBERS = {Roster: 3, MaskRequest: 4, Survivors: 5, UnmaskRequest: 6}
FINISHED = 100


class FakeServer(FakeRounds):
    """Serves `task` to `goal` clients a round. Its switches are plain attributes.

    `before`: called with (method, client id) as a call comes in; what it raises is its answer.
    """

    def __init__(
        self, task: Task, *, goal: int, rounds: int = 1, authority: Authority | None = None
    ) -> None:
        super().__init__(task, goal=goal, rounds=rounds, authority=authority or Authority())
        self.author = Ed25519PrivateKey.generate()
        self.newest = b""
        self.check_ins: dict[tuple[bytes, bytes], Any] = {}
        self.posted: dict[tuple[bytes, int, int, str], bytes] = {}
        self.calls: defaultdict[str, int] = defaultdict(int)
        self.beats: defaultdict[bytes, int] = defaultdict(int)
        self.cancelled: dict[bytes, str] = {}
        self.retry_ms = (20, 60)
        self.terms: list[bytes] = []
        self.held: clients.Held | None = None
        self.heartbeat_ms = 100
        self.chunk_bytes = 2**20
        self.evaluate = False
        self.before: Callable[[str, bytes], None] = lambda method, client: None
        self.after: Callable[[str, bytes], None] = lambda method, client: None

    # Its life.

    def start(self, port: int = 0) -> FakeServer:
        self._pool = ThreadPoolExecutor(64)
        self.enrolment_server = self._server(client_auth=False)
        enrolment_service_pb2_grpc.add_EnrolmentServiceServicer_to_server(
            Service(self, "Enrolment"), self.enrolment_server
        )
        key, chain = self._pair = getattr(self, "_pair", None) or self.authority.server()
        anonymous = grpc.ssl_server_credentials([(key, chain)])
        self.enrolment_port = self.enrolment_server.add_secure_port("127.0.0.1:0", anonymous)
        self.server = self._server(client_auth=True)
        for module, name in (
            (client_service_pb2_grpc, "Client"),
            (round_service_pb2_grpc, "Round"),
            (secagg_service_pb2_grpc, "SecAgg"),
            (model_service_pb2_grpc, "Model"),
            (upload_service_pb2_grpc, "Upload"),
        ):
            add = getattr(module, f"add_{name}ServiceServicer_to_server")
            add(Service(self, name), self.server)
        mutual = grpc.ssl_server_credentials(
            [(key, chain)], root_certificates=self.authority.pem, require_client_auth=True
        )
        self.port = self.server.add_secure_port(f"127.0.0.1:{port}", mutual)
        self.enrolment_server.start()
        self.server.start()
        return self

    def stop(self) -> None:
        with self.lock:
            self.changed.notify_all()
        self.enrolment_server.stop(0).wait()
        self.server.stop(0).wait()
        self._pool.shutdown(wait=False)

    def _server(self, *, client_auth: bool) -> grpc.Server:
        return grpc.server(self._pool, options=server_options())

    @property
    def join_string(self) -> str:
        digest = hashlib.sha256(self.authority.der).digest()
        return JoinString(f"127.0.0.1:{self.enrolment_port}", digest, self.token).encode()

    # Calls.

    def CheckIn(self, client: bytes, request: Any) -> Any:
        self.changed.notify_all()
        self.terms.append(request.terms)
        key = (client, request.request_id)
        if key not in self.check_ins:
            self.check_ins[key] = self._answer(client, request)
        return self.check_ins[key]

    def _answer(self, client: bytes, request: Any) -> Any:
        here = self.present()
        taken = any(seat.client == client for seat in here)
        full = len(here) >= self.goal or taken or self.round in self.ended
        if full or request.task_id:
            least, most = self.retry_ms
            retry = common.RetryWindow(delay_min_ms=least, delay_max_ms=most)
            return clients.CheckInResponse(retry=retry, held=self.held)
        seat = Seat(client, os.urandom(16), self.round, self.attempt, os.urandom(32))
        self.seats[seat.assignment_id] = seat
        self.changed.notify_all()
        return clients.CheckInResponse(
            assignment=clients.Assignment(
                assignment_id=seat.assignment_id,
                round=common.RoundRef(task_id="t1", round=seat.round, attempt=seat.attempt),
                task_digest=self.task.digest,
                nonce=seat.nonce,
                heartbeat_ms=self.heartbeat_ms,
            )
        )

    def GetTask(self, client: bytes, request: Any) -> Any:
        key = self.author.public_key().public_bytes_raw()
        envelope = seal(
            self.task.canonical, method=TASK, place=Place(), sign=self.author.sign, key=key
        )
        return clients.GetTaskResponse(task=envelope, model_digest=self.newest)

    def Heartbeat(self, client: bytes, request: Any) -> Any:
        seat = self._seat(client, request.assignment_id)
        self.beats[client] += 1
        self.changed.notify_all()
        reason = self.cancelled.get(seat.assignment_id, "")
        return clients.HeartbeatResponse(cancel=bool(reason), reason=reason)

    def Next(self, client: bytes, request: Any) -> Any:
        seat = self._seat(client, request.assignment_id)
        end = time.monotonic() + min(request.wait_ms / 1000, 0.5)
        while True:
            found = self._instruction(seat, request.seen)
            left = end - time.monotonic()
            if found is not None or left <= 0:
                return found or rounds.NextResponse(number=request.seen, wait=rounds.Wait())
            self.changed.wait(left)

    def _instruction(self, seat: Seat, seen: int) -> Any:
        over = (seat.round, seat.attempt) != (self.round, self.attempt)
        if seat.round in self.ended or over:
            dropped = (rounds.Finished.OUTCOME_ABANDONED, "it is over")
            outcome, reason = self.ended.get(seat.round, dropped) if not over else dropped
            finished = rounds.Finished(outcome=outcome, reason=reason)
            return rounds.NextResponse(number=FINISHED, finished=finished)
        for number, order in self._orders(seat):
            if number > seen:
                return rounds.NextResponse(number=number, **order)
        return None

    def _orders(self, seat: Seat) -> Iterator[tuple[int, dict[str, Any]]]:
        if len(self.present()) < self.goal:
            return
        stage = self.session.stage if self.session is not None else None
        train = rounds.Train(
            model_digest=self.digest,
            model_bytes=len(self.models[self.digest]),
            update_bytes=self.task.layout.upload_bytes,
            evaluate=self.evaluate,
        )
        if stage is Stage.PREKEYS:
            yield 1, {"advertise": rounds.Advertise()}
        if stage in (None, Stage.PREKEYS, Stage.SHARES, Stage.UPLOADS):
            yield 2, {"train": train}
        if self.session is not None and stage is not Stage.PREKEYS:
            for effect in self._due(seat.client):
                yield NUMBERS[type(effect.message)], {"secure_aggregation": encode(effect.message)}

    def _due(self, client: bytes) -> list[Send]:
        assert self.session is not None
        try:
            effects = self.session.resend(client)
        except SecAggError:
            return []
        return [
            effect
            for effect in effects
            if isinstance(effect, Send) and type(effect.message) in NUMBERS
        ]

    def Report(self, client: bytes, request: Any) -> Any:
        payload = rounds.Report.FromString(request.report.payload)
        seat = self._seat(client, payload.assignment_id)
        self._opened(seat, request.report, "RoundService.Report")
        seat.report = payload
        self.changed.notify_all()
        return rounds.ReportResponse()

    def _opened(self, seat: Seat, envelope: Any, method: str) -> bytes:
        place = Place("t1", seat.round, seat.attempt, seat.nonce)
        return opened(envelope, method=method, place=place, key=self.keys[seat.client])

    def secagg(self, client: bytes, envelope: Any, method: str) -> None:
        message = aggregation.SecAggMessage.FromString(envelope.payload)
        seat = self._seat(client, message.assignment_id)
        self._opened(seat, envelope, f"SecAggService.{method}")
        key = (client, seat.round, seat.attempt, method)
        if method != "Complain" and self.posted.setdefault(key, message.message) != message.message:
            raise ConflictError(f"another {method}", why="one was taken before")
        assert self.session is not None
        if (seat.round, seat.attempt) != (self.round, self.attempt):
            raise PhaseError("the attempt is over")
        self.session.handle(client, decode(message.message))
        self.go_on()
        self.changed.notify_all()

    def Advertise(self, client: bytes, request: Any) -> Any:
        self.secagg(client, request.message, "Advertise")
        return aggregation.AdvertiseResponse()

    def Share(self, client: bytes, request: Any) -> Any:
        self.secagg(client, request.message, "Share")
        return aggregation.ShareResponse()

    def Complain(self, client: bytes, request: Any) -> Any:
        self.secagg(client, request.message, "Complain")
        return aggregation.ComplainResponse()

    def Confirm(self, client: bytes, request: Any) -> Any:
        self.secagg(client, request.message, "Confirm")
        return aggregation.ConfirmResponse()

    def Answer(self, client: bytes, request: Any) -> Any:
        self.secagg(client, request.message, "Answer")
        return aggregation.AnswerResponse()

    def Describe(self, client: bytes, request: Any) -> Any:
        return models.DescribeResponse(size=len(self.models[request.digest]), round=self.round)

    def GetChunk(self, client: bytes, request: Any) -> Any:
        if request.digest not in self.models:
            raise NotFoundError("no such model")
        whole = self.models[request.digest]
        data = whole[request.offset : request.offset + (request.length or 2**20)]
        return models.GetChunkResponse(data=data, crc32=crc32(data), size=len(whole))

    def Begin(self, client: bytes, request: Any) -> Any:
        seat = self._seat(client, request.assignment_id)
        if seat.upload is None:
            seat.upload = Upload(os.urandom(16), request.size, request.header)
            if self.session is not None:
                self.session.handle(client, decode(request.header))
        upload = seat.upload
        if (upload.size, upload.header) != (request.size, request.header):
            raise ConflictError("another upload was begun")
        return uploads.BeginResponse(
            upload_id=upload.upload_id,
            committed_offset=upload.committed,
            chunk_bytes=self.chunk_bytes,
            window=4,
            sealed=upload.sealed,
        )

    def PutChunk(self, client: bytes, request: Any) -> Any:
        upload = self._upload(client, request.upload_id)
        if crc32(request.data) != request.crc32:
            raise UploadError("a damaged chunk")
        upload.arrived.append((request.offset, len(request.data)))
        known = upload.pieces.setdefault(request.offset, request.data)
        if known != request.data:
            raise UploadError("a chunk was changed")
        return uploads.PutChunkResponse(committed_offset=upload.committed)

    def Commit(self, client: bytes, request: Any) -> Any:
        payload = uploads.UploadSeal.FromString(request.seal.payload)
        upload = self._upload(client, payload.upload_id)
        [seat] = [seat for seat in self.seats.values() if seat.upload is upload]
        self._opened(seat, request.seal, "UploadService.Commit")
        found = hashlib.sha256(upload.data).digest()
        if found != payload.sha256 or upload.committed != upload.size:
            raise UploadError("the upload is not whole")
        if not upload.sealed:
            upload.sealed = True
            if self.session is not None:
                sid = decode(upload.header).sid
                trailer = UploadTrailer(sid, found)
                self.session.finish_upload(client, trailer, received=found, length=upload.size)
            self.go_on()
            self.changed.notify_all()
        return uploads.CommitResponse(sha256=found)

    def _seat(self, client: bytes, assignment_id: bytes) -> Seat:
        seat = self.seats.get(assignment_id)
        if seat is None or seat.client != client:
            raise NotFoundError("no such assignment")
        return seat

    def _upload(self, client: bytes, upload_id: bytes) -> Upload:
        for seat in self.seats.values():
            if seat.client == client and seat.upload and seat.upload.upload_id == upload_id:
                return seat.upload
        raise NotFoundError("no such upload")
