"""`AdminService` with a real store: orders happen once, and what is shown is so."""

from __future__ import annotations

import hashlib
from typing import Any

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass

from fedcore.v1 import (
    admin_service_pb2 as admin,
    client_service_pb2 as client,
    common_pb2 as common,
)
from fedcore.wire.envelope import Place
from fedcore.wire.joining import JoinString
from fedserver.audit_heads import public_keys
from fedserver.federation import interface
from fedserver.federation.interface import Spent
from fedserver.serving import SERVICES
from fedserver.store.audit import read_head
from fedserver.store.records import ClientState, RoundRef

OK = grpc.StatusCode.OK
A16, R16 = b"a" * 16, b"r" * 16


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


OUT_OF_BOUNDS: list[dict[str, Any]] = [
    {"uses": 0, "lifetime_s": 60},
    {"uses": 100_001, "lifetime_s": 60},
    {"uses": 1, "lifetime_s": 0},
    {"uses": 1, "lifetime_s": 30 * 86_400 + 1},
    {"uses": 1, "lifetime_s": 60, "attributes": {"": "x"}},
    {"uses": 1, "lifetime_s": 60, "attributes": {str(n): "x" for n in range(17)}},
    {"uses": 1, "lifetime_s": 60, "request_id": b"short"},
]


async def test_a_token_out_of_its_bounds_is_not_made(world: Any) -> None:
    operator = world.user("operator")
    for grant in OUT_OF_BOUNDS:
        payload = admin.TokenGrant(**{"request_id": R16} | grant)
        code, _, _ = await mutate(world, operator, "CreateToken", payload, "grant")
        assert code is grpc.StatusCode.INVALID_ARGUMENT, grant


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
    # Durable and signed, so that no backup of before is taken for the newest state.
    head = await world.store.audit_head()
    assert read_head(world.heads.newest, world.server_id, *public_keys([b"s" * 32])) == head
    assert (await world.call(victim, path, beat))[0] is grpc.StatusCode.UNAUTHENTICATED
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


async def test_what_is_amiss_with_a_ledger_is_the_reason_of_its_task(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def spent(*_: Any) -> Spent:
        return Spent(secret_sample=True, trouble="FED-1509 the ledger is older")

    monkeypatch.setattr(world.federation, "spent", spent)
    tasks = await read(world, world.user("viewer"), "ListTasks", admin.ListTasksRequest())
    assert [(one.state, one.reason) for one in tasks.tasks] == [
        ("RUNNING", "FED-1509 the ledger is older")
    ]


async def test_a_round_is_shown_with_whom_it_lost_and_what_it_waits_for(world: Any) -> None:
    viewer = world.user("viewer")
    request = admin.ListRoundsRequest(task_id="digits-1", wait_ms=10**6)
    page = await read(world, viewer, "ListRounds", request)
    [entry] = page.rounds
    assert (entry.round.round, entry.phase, dict(entry.lost)) == (3, "PENDING", {"SHARES": 2})
    assert ("changed", ("digits-1", 0, 20.0)) in world.federation.calls
    ref = common.RoundRef(task_id="digits-1", round=3, attempt=1)
    shown = await read(world, viewer, "ShowRound", admin.ShowRoundRequest(round=ref))
    assert shown.waiting_for == "waits for uploads" and list(shown.pending) == [b"c" * 16]
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


async def test_a_submission_names_a_first_model_or_holds_it(world: Any) -> None:
    researcher = world.user("researcher")
    payload = admin.Submission(
        request_id=R16, task=b"{}", signature=b"s" * 64, model_sha256=b"m" * 32
    )
    code, _, _ = await mutate(world, researcher, "SubmitTask", payload, "submission")
    assert code is OK
    [(_, (submission, _))] = [call for call in world.federation.calls if call[0] == "submit"]
    assert submission == interface.Submission(b"{}", b"s" * 64, b"", b"m" * 32)
    for wrong in ({"model": b"m"}, {"model_sha256": b"m" * 31}):
        payload.MergeFrom(admin.Submission(**wrong))
        code, _, _ = await mutate(world, researcher, "SubmitTask", payload, "submission")
        assert code is grpc.StatusCode.INVALID_ARGUMENT, wrong
        payload.model = b""
    assert [call[0] for call in world.federation.calls].count("submit") == 1


async def test_among_several_tenants_the_audit_log_is_for_administrators(world: Any) -> None:
    method, request = "/fedcore.v1.AdminService/ExportAudit", admin.ExportAuditRequest()
    auditor = world.user("auditor")
    assert (await world.call(auditor, method, request))[0] is grpc.StatusCode.OK
    await world.client(client_id=b"o" * 16, tenant="other")
    for tenant in ("default", "other"):
        holder = world.user("auditor", tenant=tenant)
        assert (await world.call(holder, method, request))[0] is grpc.StatusCode.PERMISSION_DENIED
    assert (await world.call(world.user("admin"), method, request))[0] is grpc.StatusCode.OK


async def test_the_audit_log_is_exported_with_its_signed_head(world: Any) -> None:
    auditor = world.user("auditor")
    await mutate(world, world.user("admin"), "Drain", admin.Drain(request_id=R16), "drain")
    await world.heads.sign()
    found = await read(world, auditor, "ExportAudit", admin.ExportAuditRequest())
    assert b"server.drain" in b"".join(found.entries) and len(found.head) > 64
    status = await read(world, auditor, "GetStatus", admin.GetStatusRequest())
    assert status.draining and world.federation.draining
