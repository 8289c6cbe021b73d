"""Every RPC of the descriptors against every sort of caller, over real mTLS on loopback.

The table of expectations is generated from PERMISSIONS. An RPC without a row, or for which this
file knows no valid request, fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass

from fedcore.secagg import encode, messages
from fedcore.v1 import (
    admin_service_pb2 as admin,
    client_service_pb2 as client,
    common_pb2 as common,
    enrolment_service_pb2 as enrolment,
    model_service_pb2 as model,
    model_upload_service_pb2 as model_upload,
    round_service_pb2 as rounds,
    secagg_service_pb2 as secagg,
    upload_service_pb2 as upload,
)
from fedcore.wire.envelope import Place
from fedserver.authorisation import PERMISSIONS, READERS, ROLES
from fedserver.serving import SERVICES
from fedserver.store.records import ClientState
from tests.variants import mostly_slow

Code = grpc.StatusCode
CLIENT_ID = b"c" * 16
A16, U16 = b"a" * 16, b"u" * 16
ROUND = common.RoundRef(task_id="digits-1", round=3, attempt=1)

SHARES = messages.Shares(b"s" * 32, b"c" * 100, b"h" * 32, b"g" * 64)
SECAGG: dict[str, messages.Message] = {
    "Advertise": messages.Advertise(b"c" * 120, b"b" * 176),
    "Share": SHARES,
    "Complain": messages.Complaint(b"s" * 32, 1, messages.ComplaintReason.OTHER_HASH, b"g" * 64),
    "Confirm": messages.Confirmation(b"s" * 32, b"d" * 32, b"g" * 64),
    "Answer": messages.UnmaskAnswer(b"s" * 32, b"b" * 32, b"\x01", 1, b"s" * 36, b"h" * 32),
}


@dataclass(frozen=True)
class Signed:
    """A payload, the request that carries it, and whether its place is an assignment's."""

    payload: Any
    wrap: Callable[[common.Envelope], Any]
    assigned: bool


def a_signed(payload: Any, kind: Any, name: str, *, assigned: bool) -> Signed:
    return Signed(payload, lambda envelope: kind(**{name: envelope}), assigned)


R16 = b"r" * 16
REQUESTS: dict[str, Any] = {
    "EnrolmentService.Anchors": enrolment.AnchorsRequest(),
    "EnrolmentService.Enrol": enrolment.EnrolRequest(signing_request=b"x"),
    "EnrolmentService.Reissue": enrolment.ReissueRequest(
        client_id=R16, signing_request=b"x", identity_proof=b"p" * 64
    ),
    "ClientService.CheckIn": client.CheckInRequest(request_id=R16, sdk_version="0.1.0"),
    "ClientService.Heartbeat": client.HeartbeatRequest(assignment_id=A16, progress=3),
    "ClientService.GetTask": client.GetTaskRequest(task_id="digits-1"),
    "ClientService.Renew": client.RenewRequest(signing_request=b"x"),
    "RoundService.Next": rounds.NextRequest(assignment_id=A16, wait_ms=1),
    "RoundService.Report": a_signed(
        rounds.Report(assignment_id=A16, failure=common.FAILURE_CODE_DIVERGED, detail="loss"),
        rounds.ReportRequest,
        "report",
        assigned=True,
    ),
    **{
        f"SecAggService.{name}": a_signed(
            secagg.SecAggMessage(assignment_id=A16, message=encode(message)),
            getattr(secagg, f"{name}Request"),
            "message",
            assigned=True,
        )
        for name, message in SECAGG.items()
    },
    "UploadService.Begin": upload.BeginRequest(assignment_id=A16, size=10),
    "UploadService.PutChunk": upload.PutChunkRequest(upload_id=U16, data=b"abc", crc32=1),
    "UploadService.Commit": a_signed(
        upload.UploadSeal(upload_id=U16, size=10, sha256=b"d" * 32),
        upload.CommitRequest,
        "seal",
        assigned=True,
    ),
    "ModelUploadService.BeginModel": model_upload.BeginModelRequest(sha256=b"m" * 32, size=10),
    "ModelUploadService.PutModelChunk": model_upload.PutModelChunkRequest(
        sha256=b"m" * 32, data=b"abc", crc32=1
    ),
    "ModelUploadService.CommitModel": model_upload.CommitModelRequest(sha256=b"m" * 32, size=10),
    "ModelService.Describe": model.DescribeRequest(digest=b"m" * 32),
    "ModelService.GetChunk": model.GetChunkRequest(digest=b"m" * 32, offset=1),
    "AdminService.GetStatus": admin.GetStatusRequest(),
    "AdminService.Drain": a_signed(
        admin.Drain(request_id=R16), admin.DrainRequest, "drain", assigned=False
    ),
    "AdminService.CreateToken": a_signed(
        admin.TokenGrant(request_id=R16, uses=2, lifetime_s=60),
        admin.CreateTokenRequest,
        "grant",
        assigned=False,
    ),
    "AdminService.ListClients": admin.ListClientsRequest(),
    "AdminService.RevokeClient": a_signed(
        admin.Revocation(request_id=R16, client_id=b"v" * 16, reason="lost"),
        admin.RevokeClientRequest,
        "revocation",
        assigned=False,
    ),
    "AdminService.SubmitTask": a_signed(
        admin.Submission(request_id=R16, task=b"{}", signature=b"s" * 64),
        admin.SubmitTaskRequest,
        "submission",
        assigned=False,
    ),
    "AdminService.CancelTask": a_signed(
        admin.Cancellation(request_id=R16, task_id="digits-1", reason="enough"),
        admin.CancelTaskRequest,
        "cancellation",
        assigned=False,
    ),
    "AdminService.ListTasks": admin.ListTasksRequest(),
    "AdminService.ShowTask": admin.ShowTaskRequest(task_id="digits-1"),
    "AdminService.ListRounds": admin.ListRoundsRequest(task_id="digits-1", wait_ms=1),
    "AdminService.ShowRound": admin.ShowRoundRequest(round=ROUND),
    "AdminService.ListModels": admin.ListModelsRequest(task_id="digits-1"),
    "AdminService.ShowPrivacy": admin.ShowPrivacyRequest(task_id="digits-1"),
    "AdminService.ExportAudit": admin.ExportAuditRequest(),
}
# What a caller of another tenant is told: OK where there is nothing of its own to see.
OTHER_TENANT: dict[str, grpc.StatusCode] = {
    name: Code.OK
    for name in (
        "ModelUploadService.BeginModel",
        "AdminService.GetStatus",
        "AdminService.Drain",
        "AdminService.CreateToken",
        "AdminService.ListClients",
        "AdminService.SubmitTask",
        "AdminService.ListTasks",
        "AdminService.ExportAudit",
    )
}
METHODS = sorted(
    f"{service.name}.{method.name}" for service in SERVICES.values() for method in service.methods
)
BEHIND_MTLS = [name for name in METHODS if not name.startswith("Enrolment")]
SIGNED = [name for name in METHODS if isinstance(REQUESTS.get(name), Signed)]


def path_of(name: str) -> str:
    return f"/fedcore.v1.{name.replace('.', '/')}"


def role_for(name: str) -> str:
    """One role that may call it."""
    return min(PERMISSIONS[path_of(name)].roles)


class Callers:
    """One caller of each role, and a client, all of one tenant."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.by_role: dict[str, Any] = {}

    async def of(self, role: str) -> Any:
        if role not in self.by_role:
            self.by_role[role] = (
                await self.world.client(client_id=CLIENT_ID)
                if role == "client"
                else self.world.user(role)
            )
        return self.by_role[role]

    def request(self, name: str, holder: Any, **changes: Any) -> Any:
        """A valid request, or one that differs: `place`, `method`, `payload`, `signer`."""
        found = REQUESTS[name]
        if not isinstance(found, Signed):
            return found
        place = self.world.place if found.assigned else Place(nonce=self.world.server_id)
        envelope = changes.get("signer", holder).seal(
            found.payload, changes.get("method", name), changes.get("place", place)
        )
        if "payload" in changes:
            envelope.payload = changes["payload"](found.payload).SerializeToString()
        return found.wrap(envelope)


def test_every_rpc_has_a_permission_and_every_permission_an_rpc() -> None:
    assert sorted(PERMISSIONS) == sorted(path_of(name) for name in METHODS)


def test_this_file_has_a_request_for_every_rpc_of_its_own_type() -> None:
    assert sorted(REQUESTS) == METHODS
    for name, request in REQUESTS.items():
        service, method = name.split(".")
        kind = GetMessageClass(SERVICES[service].methods_by_name[method].input_type)
        found = request.wrap(common.Envelope()) if isinstance(request, Signed) else request
        assert isinstance(found, kind)


async def test_whoever_may_call_is_served(world: Any) -> None:
    callers = Callers(world)
    await world.client(client_id=b"v" * 16)
    for name in BEHIND_MTLS:
        holder = await callers.of(role_for(name))
        code, _, error = await world.call(holder, path_of(name), callers.request(name, holder))
        expected = Code.INVALID_ARGUMENT if name == "ClientService.Renew" else Code.OK
        assert code is expected, (name, error)


async def test_every_role_that_has_no_permission_is_refused(world: Any) -> None:
    callers = Callers(world)
    for name in BEHIND_MTLS:
        for role in sorted(ROLES - PERMISSIONS[path_of(name)].roles):
            holder = await callers.of(role)
            code, _, _ = await world.call(holder, path_of(name), callers.request(name, holder))
            assert code is Code.PERMISSION_DENIED, (name, role)


async def test_without_a_certificate_of_this_authority_nothing_is_answered(
    world: Any, stranger: Any
) -> None:
    two_days_s = 2 * 86_400
    strangers = {
        "none": None,
        "client of another authority": await world.client(
            client_id=b"x" * 16, authority=stranger, enrolled=False
        ),
        "user of another authority": world.user("admin", authority=stranger),
        "expired": await world.client(client_id=b"y" * 16, age_s=two_days_s),
        "expired user": world.user("admin", age_s=100 * 86_400),
    }
    callers = Callers(world)
    signer = await callers.of("client")
    for name in BEHIND_MTLS:
        for sort, holder in strangers.items():
            request = callers.request(name, holder or signer)
            code, _, _ = await world.call(holder, path_of(name), request)
            assert code is Code.UNAVAILABLE, (name, sort)
    assert world.federation.calls == []


async def test_who_was_revoked_suspended_or_never_enrolled_is_not_known(world: Any) -> None:
    server = world.authority.peer_certificate(now=int(time.time()))  # which calls for nobody
    holders = {
        "revoked client": await world.client(client_id=b"1" * 16),
        "suspended": await world.client(client_id=b"2" * 16),
        "never enrolled": await world.client(client_id=b"3" * 16, enrolled=False),
        "of another tenant": await world.client(client_id=b"4" * 16, certified_tenant="other"),
        "revoked user": world.user("admin"),
        "another server": replace(
            world.user("admin"), key_pem=server.key, chain_pem=server.chain, fingerprint=b"server"
        ),
    }
    await world.store.set_client_state(b"1" * 16, ClientState.REVOKED)
    await world.store.set_client_state(b"2" * 16, ClientState.SUSPENDED)
    world.authority.lists.revoke(holders["revoked user"].fingerprint, reason="left", now=0)
    callers = Callers(world)
    for name in BEHIND_MTLS:
        for sort, holder in holders.items():
            code, _, _ = await world.call(holder, path_of(name), callers.request(name, holder))
            assert code is Code.UNAUTHENTICATED, (name, sort)
    assert world.federation.calls == []


async def test_another_tenants_objects_do_not_exist(world: Any) -> None:
    await world.client(client_id=b"v" * 16)
    for name in BEHIND_MTLS:
        roles = PERMISSIONS[path_of(name)].roles & READERS
        if not roles:
            continue
        holder = world.user(min(roles), tenant="other")
        request = Callers(world).request(name, holder)
        code, answer, _ = await world.call(holder, path_of(name), request)
        assert code is OTHER_TENANT.get(name, Code.NOT_FOUND), name
        if name in ("AdminService.ListClients", "AdminService.ListTasks"):
            assert answer == b""


async def test_another_clients_objects_do_not_exist(world: Any) -> None:
    other = await world.client(client_id=b"o" * 16)
    for name in BEHIND_MTLS:
        if role_for(name) != "client" or name in ("ClientService.CheckIn", "ClientService.Renew"):
            continue
        code, _, _ = await world.call(other, path_of(name), Callers(world).request(name, other))
        assert code is Code.NOT_FOUND, name


@pytest.mark.parametrize("name", mostly_slow(SIGNED, quick=4))
async def test_a_signature_holds_for_one_content_rpc_place_and_key(world: Any, name: str) -> None:
    callers = Callers(world)
    holder = await callers.of(role_for(name))
    another = next(other for other in SIGNED if other != name)
    assigned = REQUESTS[name].assigned
    elsewhere = (
        Place("digits-1", 3, 2, world.place.nonce) if assigned else Place(nonce=b"another server!!")
    )
    wrong = {
        "replayed in another place": callers.request(name, holder, place=elsewhere),
        "replayed by another RPC": callers.request(name, holder, method=another),
        "with an unknown key": callers.request(name, holder, signer=world.user("viewer")),
        "altered": callers.request(name, holder, payload=_altered),
    }
    for sort, request in wrong.items():
        world.federation.calls.clear()
        code, _, _ = await world.call(holder, path_of(name), request)
        assert code is Code.UNAUTHENTICATED, (name, sort)
        assert {call for call, _ in world.federation.calls} <= {"place"}


async def test_enrolment_alone_is_served_without_a_certificate(world: Any) -> None:
    callers = Callers(world)
    signer = await callers.of("client")
    for name in METHODS:
        request = callers.request(name, signer)
        code, _, _ = await world.call(None, path_of(name), request, enrolment=True)
        expected = {
            "EnrolmentService.Anchors": Code.OK,
            "EnrolmentService.Enrol": Code.INVALID_ARGUMENT,
            "EnrolmentService.Reissue": Code.UNAUTHENTICATED,
        }.get(name, Code.UNIMPLEMENTED)
        assert code is expected, name
        if name.startswith("Enrolment"):
            code, _, _ = await world.call(signer, path_of(name), request)
            assert code is Code.UNIMPLEMENTED, name


async def test_a_call_without_a_deadline_or_with_bytes_that_are_no_request_is_refused(
    world: Any,
) -> None:
    callers = Callers(world)
    for name in BEHIND_MTLS:
        holder = await callers.of(role_for(name))
        request = callers.request(name, holder)
        code, _, _ = await world.call(holder, path_of(name), request, limit_s=None)
        assert code is Code.INVALID_ARGUMENT, name
        code, _, _ = await world.call(holder, path_of(name), b"\xff\xff\xff")
        assert code is Code.INVALID_ARGUMENT, name
    assert world.federation.calls == []


async def test_refusals_stand_in_the_audit_log(world: Any) -> None:
    viewer = world.user("viewer")
    await world.call(viewer, path_of("AdminService.ListClients"), admin.ListClientsRequest())
    unknown = await world.client(client_id=b"3" * 16, enrolled=False)
    await world.call(unknown, path_of("ModelService.Describe"), model.DescribeRequest())
    entries = [record.entry for record in await world.store.audit_entries()]
    refused = [entry for entry in entries if entry.decision.startswith("refused")]
    assert [(entry.actor, entry.action) for entry in refused] == [
        ("user:default/ada", "AdminService.ListClients"),
        (refused[1].actor, "ModelService.Describe"),
    ]
    assert "FED-2102" in refused[0].decision and "FED-2101" in refused[1].decision


def _altered(payload: Any) -> Any:
    """The payload with its last field changed, so that it is still found where it belongs."""
    changed = type(payload)()
    changed.CopyFrom(payload)
    descriptor = payload.DESCRIPTOR.fields[-1]
    if payload.DESCRIPTOR.name == "Drain":
        changed.request_id = b"q" * 16
    elif payload.DESCRIPTOR.name == "TokenGrant":
        changed.uses += 1
    elif payload.DESCRIPTOR.name == "Report":
        changed.failure = common.FAILURE_CODE_INTERNAL
    else:
        value = getattr(changed, descriptor.name)
        grown = value + "x" if isinstance(value, str) else value + b"x"
        setattr(changed, descriptor.name, grown)
    return changed
