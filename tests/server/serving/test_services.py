"""The services: every field has bounds, and what passes them arrives as plain types."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings, strategies as st

from fedcore.errors import FedcoreError, InvalidRequestError, RefusedError
from fedcore.secagg import encode, messages
from fedcore.v1 import (
    admin_service_pb2 as admin,
    client_service_pb2 as client,
    common_pb2 as common,
    model_service_pb2 as model,
    round_service_pb2 as rounds,
    secagg_service_pb2 as secagg,
    upload_service_pb2 as upload,
)
from fedcore.wire.envelope import Place
from fedcore.wire.joining import JoinString
from fedcore.wire.transfer import CHUNK_BYTES, WINDOW, crc32
from fedserver.authorisation import Caller
from fedserver.federation import interface
from fedserver.metrics import Metrics
from fedserver.services import fields
from fedserver.services.assignment import RoundService, SecAggService
from fedserver.services.client import ClientService
from fedserver.services.transfer import ModelService, UploadService
from fedserver.serving import SERVICES
from fedserver.store.records import ClientState, RoundRef

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
    metrics = Metrics()
    return {
        "ClientService": ClientService(
            federation,
            NoRenewal(),
            version="0.1.0",
            metrics=metrics,
            now_ms=lambda: 77,
        ),
        "RoundService": RoundService(federation, now_ms=lambda: 77),
        "SecAggService": SecAggService(federation),
        "UploadService": UploadService(federation, metrics=metrics),
        "ModelService": ModelService(federation, metrics=metrics),
    }


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


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
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


# --- Operators, over the network and a real store


async def mutate(world: Any, holder: Any, method: str, payload: Any, field: str) -> Any:
    kind = GetMessageClass(SERVICES["AdminService"].methods_by_name[method].input_type)
    envelope = holder.seal(payload, f"AdminService.{method}", Place(nonce=world.server_id))
    return await world.call(holder, f"/fedcore.v1.AdminService/{method}", kind(**{field: envelope}))


async def read(world: Any, holder: Any, method: str, request: Any) -> Any:
    code, data, error = await world.call(holder, f"/fedcore.v1.AdminService/{method}", request)
    assert code is OK, error
    output = SERVICES["AdminService"].methods_by_name[method].output_type
    return GetMessageClass(output).FromString(data)


async def test_a_token_is_made_once_and_the_join_string_holds_what_the_store_knows(
    world: Any,
) -> None:
    operator = world.user("operator")
    grant = admin.TokenGrant(request_id=R16, uses=3, lifetime_s=60, attributes={"ward": "7"})
    first = await mutate(world, operator, "CreateToken", grant, "grant")
    again = await mutate(world, operator, "CreateToken", grant, "grant")
    assert first[:2] == again[:2] and first[0] is OK
    invitation = JoinString.parse(admin.CreateTokenResponse.FromString(first[1]).join_string)
    assert invitation.address == world.addresses.enrolment
    assert invitation.authority == world.authority.root_digest
    token = await world.store.token(hashlib.sha256(invitation.token).digest())
    assert (token.max_uses, token.tenant, token.attributes) == (3, "default", {"ward": "7"})
    grant.uses = 4
    code, _, _ = await mutate(world, operator, "CreateToken", grant, "grant")
    assert code is grpc.StatusCode.ALREADY_EXISTS
    entries = [record.entry for record in await world.store.audit_entries()]
    [made] = [entry for entry in entries if entry.action == "token.create"]
    assert made.actor == "user:default/ada" and made.request_id == R16
    assert invitation.token.hex() not in str(made)


@pytest.mark.parametrize(
    "grant",
    [
        {"uses": 0, "lifetime_s": 60},
        {"uses": 100_001, "lifetime_s": 60},
        {"uses": 1, "lifetime_s": 0},
        {"uses": 1, "lifetime_s": 30 * 86_400 + 1},
        {"uses": 1, "lifetime_s": 60, "attributes": {"": "x"}},
        {"uses": 1, "lifetime_s": 60, "attributes": {str(n): "x" for n in range(17)}},
        {"uses": 1, "lifetime_s": 60, "request_id": b"short"},
    ],
    ids=str,
)
async def test_a_token_out_of_its_bounds_is_not_made(world: Any, grant: dict[str, Any]) -> None:
    payload = admin.TokenGrant(**{"request_id": R16} | grant)
    code, _, _ = await mutate(world, world.user("operator"), "CreateToken", payload, "grant")
    assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_revoked_client_is_refused_from_then_on(world: Any) -> None:
    victim = await world.client(client_id=b"v" * 16)
    beat = client.HeartbeatRequest(assignment_id=A16)
    path = "/fedcore.v1.ClientService/Heartbeat"
    assert (await world.call(victim, path, beat))[0] is grpc.StatusCode.NOT_FOUND
    order = admin.Revocation(request_id=R16, client_id=b"v" * 16, reason="stolen")
    operator = world.user("operator")
    for _ in range(2):
        code, _, _ = await mutate(world, operator, "RevokeClient", order, "revocation")
        assert code is OK
    assert (await world.call(victim, path, beat))[0] is grpc.StatusCode.UNAUTHENTICATED
    assert set(world.revoked) == {b"v" * 16}
    assert (await world.store.client(b"v" * 16)).state is ClientState.REVOKED


async def test_what_is_shown_is_what_the_store_holds(world: Any) -> None:
    await world.client(client_id=b"c" * 16)
    await world.client(client_id=b"d" * 16)
    await world.client(client_id=b"e" * 16, tenant="other")
    viewer, operator = world.user("viewer"), world.user("operator")
    status = await read(world, viewer, "GetStatus", admin.GetStatusRequest())
    assert (status.server_id, status.role, status.tenant) == (world.server_id, "viewer", "default")
    assert (status.tasks_running, status.rounds_open, status.draining) == (1, 1, False)
    clients = await read(world, operator, "ListClients", admin.ListClientsRequest(limit=1))
    assert [one.client_id for one in clients.clients] == [b"c" * 16]
    following = admin.ListClientsRequest(after=b"c" * 16)
    clients = await read(world, operator, "ListClients", following)
    assert [one.client_id for one in clients.clients] == [b"d" * 16]
    tasks = await read(world, viewer, "ListTasks", admin.ListTasksRequest())
    [entry] = tasks.tasks
    assert (entry.task_id, entry.model_digest, entry.epsilon_budget) == (
        "digits-1",
        world.model,
        3.0,
    )
    shown = await read(world, viewer, "ShowTask", admin.ShowTaskRequest(task_id="digits-1"))
    assert shown.spec == b"{}" and shown.task == entry
    models = await read(world, viewer, "ListModels", admin.ListModelsRequest(task_id="digits-1"))
    assert [(one.digest, one.head) for one in models.models] == [(world.model, True)]


async def test_a_round_is_shown_with_whom_it_lost_and_what_it_waits_for(world: Any) -> None:
    viewer = world.user("viewer")
    request = admin.ListRoundsRequest(task_id="digits-1", wait_ms=10**6)
    page = await read(world, viewer, "ListRounds", request)
    [entry] = page.rounds
    assert (entry.round.round, entry.phase, dict(entry.lost)) == (3, "PENDING", {"SHARES": 2})
    assert ("changed", ("digits-1", 0, 20.0)) in world.federation.calls
    ref = common.RoundRef(task_id="digits-1", round=3, attempt=1)
    shown = await read(world, viewer, "ShowRound", admin.ShowRoundRequest(round=ref))
    assert shown.waiting_for == "uploads" and list(shown.pending) == [b"c" * 16]
    assert ("show_round", (RoundRef("digits-1", 3, 1),)) in world.federation.calls
    ref.round = 4
    request = admin.ShowRoundRequest(round=ref)
    code, _, _ = await world.call(viewer, "/fedcore.v1.AdminService/ShowRound", request)
    assert code is grpc.StatusCode.NOT_FOUND


async def test_a_submission_reaches_the_federation_with_what_makes_it_happen_once(
    world: Any,
) -> None:
    researcher = world.user("researcher")
    payload = admin.Submission(request_id=R16, task=b"{}", signature=b"s" * 64, model=b"m")
    code, data, _ = await mutate(world, researcher, "SubmitTask", payload, "submission")
    assert code is OK
    assert admin.SubmitTaskResponse.FromString(data).task_id == "digits-1"
    [(_, (submission, once))] = [call for call in world.federation.calls if call[0] == "submit"]
    assert submission == interface.Submission(b"{}", b"s" * 64, b"m")
    assert (once.principal, once.method) == ("user:default/ada", "AdminService.SubmitTask")
    assert once.request_sha256 == hashlib.sha256(payload.SerializeToString()).digest()


async def test_the_audit_log_is_exported_with_its_signed_head(world: Any) -> None:
    auditor = world.user("auditor")
    await mutate(world, world.user("admin"), "Drain", admin.Drain(request_id=R16), "drain")
    await world.heads.sign()
    found = await read(world, auditor, "ExportAudit", admin.ExportAuditRequest())
    assert b"server.drain" in b"".join(found.entries) and len(found.head) > 64
    status = await read(world, auditor, "GetStatus", admin.GetStatusRequest())
    assert status.draining and world.federation.draining
