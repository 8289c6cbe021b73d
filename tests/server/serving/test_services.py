"""The services: every field has bounds, and what passes them arrives as plain types."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings, strategies as st

from fedcore.errors import FedcoreError, InvalidRequestError, RefusedError
from fedcore.secagg import encode, messages
from fedcore.v1 import (
    client_service_pb2 as client,
    common_pb2 as common,
    model_service_pb2 as model,
    model_upload_service_pb2 as model_upload,
    round_service_pb2 as rounds,
    secagg_service_pb2 as secagg,
    upload_service_pb2 as upload,
)
from fedcore.wire.transfer import CHUNK_BYTES, WINDOW, crc32
from fedserver.authorisation import Caller
from fedserver.federation import interface
from fedserver.services import fields
from fedserver.services.assignment import RoundService, SecAggService
from fedserver.services.client import ClientService
from fedserver.services.transfer import ModelService, ModelUploadService, UploadService
from fedserver.serving import SERVICES
from tests.random_examples import thorough

OK = grpc.StatusCode.OK
A16, R16, U16, D32 = b"a" * 16, b"r" * 16, b"u" * 16, b"d" * 32
OWNER = Caller("client", id=b"c" * 16, name="63" * 16, tenant="default", role="client")
CHECK_IN = {"request_id": R16, "sdk_version": "0.1.0"}


@pytest.fixture
def federation(canned: Any) -> Any:
    return canned(OWNER.id)


class NoRenewal:
    """Is never reached."""

    async def renew(self, client_id: bytes, signing_request: bytes, /) -> Any:
        raise AssertionError


def services_of(federation: Any) -> dict[str, Any]:
    return {
        "ClientService": ClientService(
            federation,
            NoRenewal(),
            version="0.1.0",
            now_ms=lambda: 77,
        ),
        "RoundService": RoundService(federation, now_ms=lambda: 77),
        "SecAggService": SecAggService(federation),
        "UploadService": UploadService(federation),
        "ModelUploadService": ModelUploadService(federation),
        "ModelService": ModelService(federation),
    }


async def test_pieces_of_uploads_that_are_not_theirs_take_nothing_from_others(
    federation: Any,
) -> None:
    service = UploadService(federation)
    stranger = replace(OWNER, id=b"x" * 16)
    for index in range(64):
        piece = upload.PutChunkRequest(upload_id=index.to_bytes(16), data=b"abc")
        with pytest.raises(FedcoreError):
            await service.PutChunk(stranger, piece)
    begun = await service.Begin(OWNER, upload.BeginRequest(assignment_id=A16, size=9))
    assert (begun.window, begun.chunk_bytes) == (WINDOW, CHUNK_BYTES)


def test_the_numbers_of_the_plain_types_are_those_of_the_wire() -> None:
    assert {code.value for code in interface.FailureCode} == set(common.FailureCode.values())
    for code in interface.FailureCode:
        name = "UNSPECIFIED" if code is interface.FailureCode.NONE else code.name
        assert common.FailureCode.Value(f"FAILURE_CODE_{name}") == code
    for outcome in interface.Outcome:
        assert rounds.Finished.Outcome.Value(f"OUTCOME_{outcome.name}") == outcome


@pytest.mark.parametrize(
    "request_",
    [
        client.CheckInRequest(**CHECK_IN | {"request_id": b"short"}),
        client.CheckInRequest(**CHECK_IN, task_id="../etc"),
        client.CheckInRequest(**CHECK_IN, task_id="t" * 129),
        client.CheckInRequest(**CHECK_IN | {"sdk_version": "1" * 65}),
        client.CheckInRequest(**CHECK_IN, programs=["p"] * 65),
        client.CheckInRequest(**CHECK_IN, datasets=[""]),
        client.CheckInRequest(**CHECK_IN, models=["m" * 129]),
        client.CheckInRequest(**CHECK_IN, models=["\x1b[2J"]),
        client.HeartbeatRequest(assignment_id=b""),
        client.HeartbeatRequest(assignment_id=A16, progress=1001),
        client.GetTaskRequest(task_id=""),
        client.RenewRequest(),
        client.RenewRequest(signing_request=bytes(16385)),
        rounds.NextRequest(assignment_id=A16 + b"x"),
        rounds.Report(assignment_id=A16, detail="d" * 257),
        rounds.Report(assignment_id=A16, energy_j=math.nan),
        rounds.Report(assignment_id=A16, energy_j=-1.0),
        rounds.Report(assignment_id=A16, bytes_up=2**63),
        rounds.Report(assignment_id=A16, failure=99),  # type: ignore[arg-type]
        secagg.SecAggMessage(assignment_id=A16, message=b""),
        secagg.SecAggMessage(assignment_id=A16, message=b"\x01\x63"),
        upload.BeginRequest(assignment_id=A16),
        upload.BeginRequest(assignment_id=A16, size=2**63),
        upload.BeginRequest(assignment_id=A16, size=1, header=bytes(1025)),
        upload.BeginRequest(assignment_id=A16, size=1, header=b"\x01\x06"),
        upload.PutChunkRequest(upload_id=U16),
        upload.PutChunkRequest(upload_id=U16, data=bytes(CHUNK_BYTES + 1)),
        upload.PutChunkRequest(upload_id=U16, data=b"x", offset=2**64 - 1),
        upload.UploadSeal(upload_id=U16, size=1, sha256=b"short"),
        model_upload.BeginModelRequest(sha256=D32),
        model_upload.BeginModelRequest(sha256=D32[:-1], size=1),
        model_upload.PutModelChunkRequest(sha256=D32),
        model_upload.PutModelChunkRequest(sha256=D32, data=bytes(CHUNK_BYTES + 1)),
        model_upload.PutModelChunkRequest(sha256=D32, data=b"x", offset=2**63),
        model_upload.CommitModelRequest(sha256=D32),
        model_upload.CommitModelRequest(sha256=b"", size=1),
        model.DescribeRequest(digest=D32[:-1]),
        model.GetChunkRequest(digest=D32, length=CHUNK_BYTES + 1),
        model.GetChunkRequest(digest=D32, offset=2**63),
    ],
    ids=lambda request: type(request).__name__,
)
async def test_a_field_out_of_its_bounds_never_reaches_the_federation(
    federation: Any, request_: Any
) -> None:
    for name, service in services_of(federation).items():
        for method in SERVICES[name].methods:
            taken = service.payloads.get(method.name) or GetMessageClass(method.input_type)
            if isinstance(request_, taken):
                with pytest.raises(FedcoreError):
                    await getattr(service, method.name)(OWNER, request_)
    assert federation.calls == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=thorough(200))
@given(st.data())
async def test_bytes_from_anywhere_are_answered_or_refused(canned: Any, data: Any) -> None:
    """Fields of random content never raise what would be a fault of the server."""
    name, service = data.draw(st.sampled_from(sorted(services_of(canned(OWNER.id)).items())))
    if name == "ClientService":
        return
    method = data.draw(st.sampled_from(list(SERVICES[name].methods)))
    kind = service.payloads.get(method.name) or GetMessageClass(method.input_type)
    request = kind()
    for field in kind.DESCRIPTOR.fields:
        strategy = {
            field.TYPE_BYTES: st.binary(max_size=64) | st.sampled_from([A16, D32]),
            field.TYPE_STRING: st.text(max_size=300),
            field.TYPE_UINT32: st.integers(0, 2**32 - 1),
            field.TYPE_UINT64: st.integers(0, 2**64 - 1),
            field.TYPE_DOUBLE: st.floats(),
            field.TYPE_BOOL: st.booleans(),
            field.TYPE_ENUM: st.integers(0, 20),
        }[field.type]
        setattr(request, field.name, data.draw(strategy))
    try:
        answer = await getattr(service, method.name)(OWNER, request)
    except FedcoreError as error:
        assert isinstance(error, RefusedError) or error.code.startswith("FED-14")
    else:
        answer.SerializeToString()


async def test_a_check_in_arrives_as_it_was_sent_and_is_answered_with_the_time(
    federation: Any,
) -> None:
    service = services_of(federation)["ClientService"]
    request = client.CheckInRequest(
        **CHECK_IN, task_id="digits-1", programs=["local"], datasets=["digits"]
    )
    answer = await service.CheckIn(OWNER, request)
    [(_, (caller, ask))] = federation.calls
    assert caller is OWNER
    assert ask == interface.CheckIn(
        R16, "digits-1", "0.1.0", frozenset({"local"}), frozenset({"digits"}), frozenset()
    )
    assert answer.assignment.round.round == 3 and answer.assignment.server_time_ms == 77
    await federation.drain()
    answer = await service.CheckIn(OWNER, request)
    assert (answer.retry.delay_min_ms, answer.retry.delay_max_ms) == (1000, 2000)


async def test_a_client_of_another_version_is_told(federation: Any) -> None:
    service = services_of(federation)["ClientService"]
    with pytest.raises(FedcoreError, match="too new"):
        await service.CheckIn(OWNER, client.CheckInRequest(request_id=R16, sdk_version="9.0.0"))


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (interface.Wait(), rounds.NextResponse(wait=rounds.Wait())),
        (interface.Advertise(), rounds.NextResponse(advertise=rounds.Advertise())),
        (interface.SecureAggregation(b"m"), rounds.NextResponse(secure_aggregation=b"m")),
        (
            interface.Train(D32, 5, 6, b"{}", True),
            rounds.NextResponse(
                train=rounds.Train(
                    model_digest=D32, model_bytes=5, update_bytes=6, clipping=b"{}", evaluate=True
                )
            ),
        ),
        (
            interface.Finished(interface.Outcome.DROPPED, "late", D32),
            rounds.NextResponse(
                finished=rounds.Finished(
                    outcome=rounds.Finished.OUTCOME_DROPPED, reason="late", model_digest=D32
                )
            ),
        ),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_each_order_becomes_its_instruction(
    federation: Any, monkeypatch: pytest.MonkeyPatch, order: Any, expected: Any
) -> None:
    async def following(*_: Any, seen: int, wait_s: float) -> Any:
        assert wait_s == 20.0
        return interface.Instruction(seen + 1, 9, order)

    monkeypatch.setattr(federation, "next", following)
    request = rounds.NextRequest(assignment_id=A16, seen=4, wait_ms=10**6)
    answer = await services_of(federation)["RoundService"].Next(OWNER, request)
    expected.number, expected.deadline_ms, expected.server_time_ms = 5, 9, 77
    assert answer == expected
    assert answer.WhichOneof("instruction") == expected.WhichOneof("instruction")


KINDS = {
    "Advertise": messages.Advertise(b"c" * 120, b"b" * 176),
    "Share": messages.Shares(D32, b"c" * 100, b"h" * 32, b"g" * 64),
    "Complain": messages.Complaint(D32, 1, messages.ComplaintReason.OTHER_HASH, b"g" * 64),
    "Confirm": messages.Confirmation(D32, D32, b"g" * 64),
    "Answer": messages.UnmaskAnswer(D32, D32, b"\x01", 1, b"s" * 36, b"h" * 32),
    "nothing": messages.UploadTrailer(D32, D32),
    "none": messages.Abort(D32, messages.AbortReason.CANCELLED),
}


@pytest.mark.parametrize("name", [name for name in KINDS if name[0].isupper()])
@pytest.mark.parametrize("kind", KINDS)
async def test_each_rpc_of_secure_aggregation_takes_its_own_message(
    federation: Any, name: str, kind: str
) -> None:
    request = secagg.SecAggMessage(assignment_id=A16, message=encode(KINDS[kind]))
    method = getattr(services_of(federation)["SecAggService"], name)
    if name == kind:
        await method(OWNER, request)
        assert federation.calls == [("secagg", (A16, KINDS[kind]))]
    else:
        with pytest.raises(InvalidRequestError, match="another kind"):
            await method(OWNER, request)


async def test_an_upload_begins_with_the_rules_of_the_transfer(federation: Any) -> None:
    header = messages.UploadHeader(D32, D32, 10, b"g" * 64)
    service = services_of(federation)["UploadService"]
    answer = await service.Begin(
        OWNER, upload.BeginRequest(assignment_id=A16, size=10, header=encode(header))
    )
    assert federation.calls == [("begin_upload", (A16, {"size": 10, "header": header}))]
    assert (answer.chunk_bytes, answer.window, answer.committed_offset) == (CHUNK_BYTES, WINDOW, 5)
    await service.Begin(OWNER, upload.BeginRequest(assignment_id=A16, size=10))
    assert federation.calls[1][1][1]["header"] is None


async def test_a_chunk_of_a_model_comes_with_its_checksum(federation: Any) -> None:
    service = services_of(federation)["ModelService"]
    answer = await service.GetChunk(OWNER, model.GetChunkRequest(digest=D32, offset=1))
    assert (answer.data, answer.crc32, answer.size) == (b"odel", crc32(b"odel"), 5)
    assert federation.calls == [("model_chunk", (D32, 1, CHUNK_BYTES))]


@given(st.binary(max_size=40))
def test_an_id_has_sixteen_bytes_and_a_digest_thirty_two(value: bytes) -> None:
    for check, length in ((fields.identifier, 16), (fields.digest, 32)):
        if len(value) == length:
            assert check(value, "x") == value
        else:
            with pytest.raises(InvalidRequestError):
                check(value, "x")


@given(st.text(max_size=300))
def test_a_text_that_passes_can_be_printed_and_is_short(value: str) -> None:
    try:
        fields.text(value, "x")
    except InvalidRequestError as error:
        assert value not in str(error) or len(value) < 5
    else:
        assert len(value) <= 256 and value.isprintable()
