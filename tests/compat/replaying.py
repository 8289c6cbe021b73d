"""A device of the recorded release, played from its session.

It asks what was asked, in that order, in the messages of the recorded descriptors. What differs in
every session is filled in: keys, tokens, ids, digests, signatures, and the messages of secure
aggregation, whose bytes are held elsewhere. All else, and what is not there, is as it was recorded.
"""

from __future__ import annotations

import hashlib
import io
import os
import ssl
import time
import zlib
from pathlib import Path
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.message import Message

from fedclient.identity import (
    DeviceIdentity,
    Membership,
    Tls,
    authority_pem,
    secret_file,
    signing_request,
    tls_key,
)
from fedclient.policy import AggregationRules, Policy
from fedcore.data import Dataset
from fedcore.federated.contribution import Contributor
from fedcore.federated.parameters import parameters_of
from fedcore.federated.programs import TrainingRequest
from fedcore.federated.task import Task
from fedcore.federated.training import stream_of
from fedcore.model_format import read_model
from fedcore.secagg import NeedInput, SecAggClient, Send, decode, encode
from fedcore.secagg.messages import UploadChunk, UploadHeader
from fedcore.secagg.packing import pack, to_wire
from fedcore.wire.envelope import TASK, Place, opened, proof_statement, signed_bytes
from fedcore.wire.joining import JoinString
from tests.compat.descriptors import Protocol
from tests.compat.session import Exchange, Session, shape_of

__all__ = ["Replayed"]

_PAYLOADS = {"RoundService.Report": "Report", "UploadService.Commit": "UploadSeal"}
_OFFERED_S = 3600


class Replayed:
    """One device with `data`, which joins as it is made. `patience_s`: for news of the server."""

    def __init__(
        self,
        session: Session,
        protocol: Protocol,
        folder: Path,
        *,
        join_string: str,
        data: Dataset,
        patience_s: float = 120,
    ) -> None:
        self._session, self._protocol, self._data = session, protocol, data
        self._patience_s = patience_s
        self.identity = self._joined(folder, JoinString.parse(join_string))
        membership, tls = self.identity.membership, self.identity.tls
        policy = Policy(secure_aggregation=AggregationRules(profile="off", attempts=100))
        self._machine = SecAggClient(
            self.identity.signing, policy.session_policy(membership.registrars)
        )
        root = authority_pem(membership.authority)
        credentials = grpc.ssl_channel_credentials(root, tls.key, tls.chain)
        self._channel = grpc.secure_channel(membership.address, credentials)

    def close(self) -> None:
        self._channel.close()

    def play(self) -> Any:
        """One round as it was recorded: the server's last instruction."""
        self._due: list[bytes] = []
        self._upload: list[tuple[int, bytes]] = []
        self._header, self._seen = b"", 0
        for exchange in self._session.part(enrolment=False):
            method = exchange.call.partition(".")[2]
            step = getattr(self, f"_{method.lower()}", self._say)
            step(exchange)
        return self._finished

    # What is asked: a recorded request with other values in the fields that differ.

    def _ask(self, exchange: Exchange, **values: object) -> Any:
        request = self._filled(exchange, values)
        return self._protocol.ask(self._channel, exchange.call, request)

    def _filled(self, exchange: Exchange, values: dict[str, object]) -> Message:
        request: Message = self._protocol.request(exchange.call).FromString(exchange.request)
        for field, value in request.ListFields():
            if field.message_type is not None and field.message_type.name == "Envelope":
                self._seal(exchange.call, value, values)
        _fill(request, values)
        return request

    def _seal(self, call: str, envelope: Any, values: dict[str, object]) -> None:
        payload = self._protocol.message(_PAYLOADS.get(call, "SecAggMessage"))()
        payload.ParseFromString(envelope.payload)
        _fill(payload, values)
        envelope.payload = payload.SerializeToString(deterministic=True)
        signing = self.identity.signing
        envelope.key_id = signing.certificate.key
        envelope.signature = signing.sign(
            signed_bytes(envelope.payload, method=call, place=self._place)
        )

    def _heard(self, exchange: Exchange, answer: Message) -> Any:
        """The answer, which has all that was in the recorded one."""
        missing = set(exchange.heard) - set(shape_of(answer))
        assert not missing, f"{exchange.call} was answered without {sorted(missing)}"
        return answer

    # Enrolment, without a certificate.

    def _joined(self, folder: Path, invitation: JoinString) -> DeviceIdentity:
        host, _, port = invitation.address.rpartition(":")
        shown = ssl.get_server_certificate((host, int(port))).encode()
        anchors, enrol = self._session.part(enrolment=True)
        with grpc.secure_channel(
            invitation.address, grpc.ssl_channel_credentials(shown)
        ) as channel:
            request = self._filled(anchors, {})
            answer = self._protocol.ask(channel, anchors.call, request)
            authority = self._heard(anchors, answer).authority
        assert hashlib.sha256(authority).digest() == invitation.authority
        private = Ed25519PrivateKey.from_private_bytes(secret_file(folder, "signing.key"))
        key = tls_key(folder)
        asked = signing_request(key)
        values: dict[str, object] = {
            "signing_request": asked,
            "token": invitation.token,
            "identity_key": private.public_key().public_bytes_raw(),
            "identity_proof": private.sign(proof_statement(asked, authority)),
        }
        credentials = grpc.ssl_channel_credentials(authority_pem(authority))
        with grpc.secure_channel(invitation.address, credentials) as channel:
            answer = self._protocol.ask(channel, enrol.call, self._filled(enrol, values))
        found = self._heard(enrol, answer)
        membership = Membership(
            name=folder.name,
            client_id=found.client_id,
            tenant=found.tenant,
            server_id=found.server_id,
            address=found.address,
            enrolment=invitation.address,
            authority=authority,
            registrars=tuple(found.registrars),
            certificate=found.identity_certificate,
        )
        tls = Tls.certified(key, list(found.certificate_chain))
        return DeviceIdentity.enrolled(folder, membership, tls)

    # A round, a call at a time.

    def _checkin(self, exchange: Exchange) -> None:
        end = time.monotonic() + self._patience_s
        while True:
            answer = self._ask(exchange, request_id=os.urandom(16))
            if answer.WhichOneof("answer") == "assignment":
                break
            assert time.monotonic() < end, "no work came"
            time.sleep(min(answer.retry.delay_min_ms, 200) / 1000)
        found = self._heard(exchange, answer).assignment
        self._assignment = found
        self._place = Place(
            found.round.task_id, found.round.round, found.round.attempt, found.nonce
        )

    def _gettask(self, exchange: Exchange) -> None:
        answer = self._heard(exchange, self._ask(exchange, task_id=self._assignment.round.task_id))
        canonical = opened(answer.task, method=TASK, place=Place(), key=answer.task.key_id)
        self._task = Task.from_canonical(canonical)
        assert self._task.digest == self._assignment.task_digest
        self._contributor = Contributor(self._task)

    def _next(self, exchange: Exchange) -> None:
        end = time.monotonic() + self._patience_s
        while True:
            answer = self._ask(exchange, assignment_id=self._assignment.assignment_id,
                               seen=self._seen)  # fmt: skip
            kind = answer.WhichOneof("instruction")
            if kind not in (None, "wait"):
                break
            assert time.monotonic() < end, "no instruction came"
        self._heard(exchange, answer)
        self._seen = answer.number
        if kind == "advertise":
            self._obey(self._machine.offer(1, expires=int(time.time()) + _OFFERED_S))
        elif kind == "train":
            self._train = answer.train
        elif kind == "secure_aggregation":
            message = decode(answer.secure_aggregation)
            self._obey(self._machine.handle(message, now=int(time.time())))
        else:
            self._finished = answer.finished

    def _obey(self, effects: list[Any]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self._due.append(encode(effect.message))
            elif isinstance(effect, NeedInput):
                blocks = self._blocks()
                self._machine.commit(effect.sid, blocks)
                for message in self._machine.upload(effect.sid, blocks):
                    if isinstance(message, UploadHeader):
                        self._header = encode(message)
                    elif isinstance(message, UploadChunk):
                        self._upload.append((message.offset, message.data))

    def _getchunk(self, exchange: Exchange) -> None:
        whole = b""
        while len(whole) < self._train.model_bytes:
            length = min(1 << 20, self._train.model_bytes - len(whole))
            answer = self._ask(
                exchange, digest=self._train.model_digest, offset=len(whole), length=length
            )
            self._heard(exchange, answer)
            assert zlib.crc32(answer.data) == answer.crc32 and answer.data
            whole += answer.data
        assert hashlib.sha256(whole).digest() == self._train.model_digest
        self._theta = read_model(io.BytesIO(whole), parameters_of(self._task)).vector

    def _blocks(self) -> Any:
        return self._contributor.contribute(
            TrainingRequest(
                task=self._task,
                theta=self._theta,
                dataset=self._data,
                round=self._assignment.round.round,
                stream=stream_of(self.identity.membership.name),
                evaluate=self._train.evaluate,
                clipping=self._train.clipping,
            )
        )

    def _begin(self, exchange: Exchange) -> None:
        if not self._upload:
            layout, blocks = self._task.layout, self._blocks()
            for frame in layout.frames():
                block = layout.blocks[frame.block]
                words = pack(block, blocks[frame.block], frame.start, frame.words)
                self._upload.append((frame.byte, to_wire(words, frame.word_bytes)))
        self._size = sum(len(data) for _, data in self._upload)
        assert self._size == self._train.update_bytes
        answer = self._ask(
            exchange,
            assignment_id=self._assignment.assignment_id,
            size=self._size,
            header=self._header,
        )
        self._upload_id = self._heard(exchange, answer).upload_id

    def _putchunk(self, exchange: Exchange) -> None:
        for offset, data in self._upload:
            answer = self._ask(
                exchange, upload_id=self._upload_id, offset=offset, crc32=zlib.crc32(data),
                data=data,
            )  # fmt: skip
            self._heard(exchange, answer)

    def _commit(self, exchange: Exchange) -> None:
        whole = hashlib.sha256(b"".join(data for _, data in self._upload)).digest()
        answer = self._ask(exchange, upload_id=self._upload_id, size=self._size, sha256=whole)
        assert self._heard(exchange, answer).sha256 == whole

    def _say(self, exchange: Exchange) -> None:
        """A message of secure aggregation, a heartbeat or a report."""
        values: dict[str, object] = {"assignment_id": self._assignment.assignment_id}
        if exchange.call.startswith("SecAggService."):
            values["message"] = self._due.pop(0)
        self._heard(exchange, self._ask(exchange, **values))


def _fill(message: Any, values: dict[str, object]) -> None:
    for field in message.DESCRIPTOR.fields:
        if field.name in values and field.message_type is None:
            setattr(message, field.name, values[field.name])
