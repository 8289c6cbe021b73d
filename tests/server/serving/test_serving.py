"""The gate: what it lets out, what it refuses to serve at all, and what it leaves behind."""

from __future__ import annotations

import asyncio
import gc
import itertools
import weakref
from collections.abc import Mapping
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from structlog.testing import capture_logs

from fedcore.errors import (
    ConflictError,
    FedcoreError,
    LeaseLostError,
    OverloadedError,
    PhaseError,
    ServerError,
    StoreError,
)
from fedcore.v1 import (
    admin_service_pb2 as admin,
    client_service_pb2 as client,
    common_pb2 as common,
    round_service_pb2 as rounds,
)
from fedcore.wire.failures import FAILURE_KEY, error_from
from fedserver.authorisation import PERMISSIONS, ROLES, Caller, authorise, permission_of
from fedserver.serving import SERVICES, Gate, methods_of
from fedserver.store.sqlite.store import SqliteStore

BEAT = "/fedcore.v1.ClientService/Heartbeat"
A_BEAT = client.HeartbeatRequest(assignment_id=b"a" * 16)


def failure_in(error: Any) -> common.Failure:
    [raw] = [value for key, value in error.trailing_metadata() if key == FAILURE_KEY]
    return common.Failure.FromString(raw)


class Nothing:
    """A service without methods."""

    payloads: Mapping[str, type[Message]] = {}

    async def place(self, caller: Caller, payload: Any, /) -> Any:
        raise AssertionError


def any_gate() -> Any:
    return object.__new__(Gate)


def test_a_service_that_lacks_an_rpc_is_not_served() -> None:
    with pytest.raises(ServerError, match="has no CheckIn"):
        methods_of(Nothing(), "ClientService", gate=any_gate())


def test_an_rpc_without_a_permission_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {path: row for path, row in PERMISSIONS.items() if path != BEAT}
    monkeypatch.setattr("fedserver.authorisation.PERMISSIONS", rows)
    service = Nothing()
    for method in SERVICES["ClientService"].methods:
        setattr(service, method.name, object())
    with pytest.raises(ServerError, match="has no permission"):
        methods_of(service, "ClientService", gate=any_gate())


@pytest.mark.parametrize("payloads", [{}, {"Report": rounds.Report, "Next": rounds.Report}])
def test_a_service_that_is_unclear_about_what_is_signed_is_not_served(
    payloads: dict[str, Any],
) -> None:
    service = Nothing()
    service.payloads = payloads
    for method in SERVICES["RoundService"].methods:
        setattr(service, method.name, object())
    with pytest.raises(ServerError, match="not clear whether it is signed"):
        methods_of(service, "RoundService", gate=any_gate())


def test_no_role_may_do_everything_and_no_user_is_a_client() -> None:
    for path, row in PERMISSIONS.items():
        assert row.roles < ROLES or row.roles == {"anonymous"} or "Model" in path
        assert ("client" in row.roles) <= ("AdminService" not in path)
        assert bool(row.roles & {"viewer", "auditor"}) <= (not row.envelope)


def test_an_unknown_role_may_do_nothing() -> None:
    for path in PERMISSIONS:
        with pytest.raises(FedcoreError):
            authorise(Caller("user", role="superuser"), path)
    with pytest.raises(ServerError):
        permission_of("/fedcore.v1.ClientService/Unknown")


async def test_a_refusal_reaches_the_client_as_the_same_error(world: Any) -> None:
    holder = await world.client(client_id=b"c" * 16)
    for error in (
        ConflictError("another upload", why="it was sealed", fix="begin anew"),
        PhaseError("too late"),
        OverloadedError("no room", retry=(5, 9)),
    ):
        world.federation.raises = error
        _, _, failed = await world.call(holder, BEAT, A_BEAT)
        found = error_from(failed)
        assert type(found) is type(error)
        assert (found.what, found.why, found.fix) == (error.what, error.why, error.fix)


async def test_a_fault_of_the_server_says_nothing_of_its_inside(world: Any) -> None:
    holder = await world.client(client_id=b"c" * 16)
    for error, code in (
        (RuntimeError("the password is hunter2"), grpc.StatusCode.INTERNAL),
        (ServerError("/var/lib/fed is gone", why="hunter2"), grpc.StatusCode.INTERNAL),
        (StoreError("hunter2"), grpc.StatusCode.UNAVAILABLE),
        (LeaseLostError("hunter2"), grpc.StatusCode.UNAVAILABLE),
    ):
        world.federation.raises = error
        with capture_logs():  # a traceback in colours takes longer than all the rest
            found, _, failed = await world.call(holder, BEAT, A_BEAT)
        assert found is code, error
        told = f"{failed.details()} {failed.trailing_metadata()}"
        assert "hunter2" not in told and "/var" not in told, error
        assert type(error).__name__ not in told
        assert failure_in(failed).code == "FED-2200", error
        assert "the operator finds it under" in failed.details(), error


class Known:
    """Something that a call knew, such as a round and its secrets."""


async def test_what_a_refused_call_knew_is_let_go_of_at_once(world: Any) -> None:
    freed: asyncio.Queue[int] = asyncio.Queue()
    number = itertools.count()

    async def refuses() -> None:
        known = Known()
        weakref.finalize(known, freed.put_nowait, next(number))
        raise PhaseError("too late")

    world.federation.block = refuses
    holder = await world.client(client_id=b"c" * 16)
    gc.disable()  # it would find what lies in circles, some minutes later
    try:
        for call in range(3):
            await world.call(holder, BEAT, A_BEAT)
            assert await asyncio.wait_for(freed.get(), 5.0) == call
    finally:
        gc.enable()


async def test_a_client_that_goes_away_frees_its_place(world: Any) -> None:
    holder = await world.client(client_id=b"c" * 16)
    entered, left = asyncio.Event(), asyncio.Event()

    async def block() -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    world.federation.block = block
    call = world.channel(holder).unary_unary(BEAT)(A_BEAT.SerializeToString(), timeout=30)
    await asyncio.wait_for(entered.wait(), 10)
    call.cancel()
    await asyncio.wait_for(left.wait(), 10)
    world.federation.block = None
    code, _, _ = await world.call(holder, BEAT, A_BEAT)
    assert code is grpc.StatusCode.OK


async def test_a_caller_that_asks_too_often_is_told_when_to_return(make_world: Any) -> None:
    async with make_world(limits={"calls_per_second": 0.001, "calls_at_once": 3}) as world:
        holder = await world.client(client_id=b"c" * 16)
        codes = [(await world.call(holder, BEAT, A_BEAT))[0] for _ in range(4)]
        assert codes == [grpc.StatusCode.OK] * 3 + [grpc.StatusCode.RESOURCE_EXHAUSTED]
        _, _, failed = await world.call(holder, BEAT, A_BEAT)
        assert failure_in(failed).retry.delay_min_ms > 0
        other = await world.client(client_id=b"o" * 16)
        code, _, _ = await world.call(other, BEAT, A_BEAT)
        assert code is grpc.StatusCode.NOT_FOUND


async def test_a_caller_that_calls_from_many_addresses_counts_as_one(
    make_world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = map("ipv6:[2001:db8::{}]".format, itertools.count())
    monkeypatch.setattr("fedserver.app.peer_address", lambda _: next(addresses))
    async with make_world(limits={"calls_per_second": 0.001, "calls_at_once": 3}) as world:
        holder = await world.client(client_id=b"c" * 16)
        codes = [(await world.call(holder, BEAT, A_BEAT))[0] for _ in range(4)]
        assert codes == [grpc.StatusCode.OK] * 3 + [grpc.StatusCode.RESOURCE_EXHAUSTED]
        assert next(addresses).endswith("::4]")


async def test_too_much_metadata_is_refused(world: Any) -> None:
    holder = await world.client(client_id=b"c" * 16)
    rpc = world.channel(holder).unary_unary(BEAT)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await rpc(A_BEAT.SerializeToString(), timeout=10, metadata=(("x", "y" * 9000),))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_calls_are_counted_by_method_and_status(world: Any) -> None:
    holder = await world.client(client_id=b"c" * 16)
    await world.call(holder, BEAT, A_BEAT)
    await world.call(holder, BEAT, client.HeartbeatRequest(assignment_id=b"short"))
    viewer = world.user("viewer")
    await world.call(viewer, "/fedcore.v1.AdminService/ExportAudit", admin.ExportAuditRequest())
    figures = world.metrics.exposition().decode()
    for line in (
        'fedcore_rpcs_total{method="ClientService.Heartbeat",status="OK"} 1.0',
        'fedcore_rpcs_total{method="ClientService.Heartbeat",status="INVALID_ARGUMENT"} 1.0',
        'fedcore_rpcs_total{method="AdminService.ExportAudit",status="PERMISSION_DENIED"} 1.0',
        'fedcore_refusals_total{code="FED-2102"} 1.0',
    ):
        assert line in figures


async def test_one_caller_cannot_fill_the_audit_log(world: Any) -> None:
    viewer = world.user("viewer")
    path = "/fedcore.v1.AdminService/ListClients"
    for _ in range(40):
        await world.call(viewer, path, admin.ListClientsRequest())
    entries = await world.store.audit_entries()
    refused = [one for one in entries if one.entry.action == "AdminService.ListClients"]
    assert 20 <= len(refused) <= 22


async def test_a_refusal_holds_while_the_audit_log_cannot_be_written(
    make_world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise StoreError("the disk is gone", why="EIO")

    monkeypatch.setattr("fedserver.store.sqlite.store.SqliteStore.append_audit", broken)
    async with make_world() as world:
        path = "/fedcore.v1.AdminService/ListClients"
        code, _, _ = await world.call(world.user("viewer"), path, admin.ListClientsRequest())
        assert code is grpc.StatusCode.PERMISSION_DENIED


async def test_who_hangs_up_while_its_refusal_is_audited_is_counted_logged_and_audited(
    make_world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go, written, slowly = (asyncio.Event() for _ in range(4))
    append = SqliteStore.append_audit

    async def slow(*given: Any, **named: Any) -> Any:
        if slowly.is_set():
            begun.set()
            await go.wait()
        head = await append(*given, **named)
        if slowly.is_set():
            written.set()
        return head

    monkeypatch.setattr(SqliteStore, "append_audit", slow)
    async with make_world() as world:
        unknown = await world.client(client_id=b"c" * 16, enrolled=False)
        slowly.set()
        with capture_logs() as logs:
            call = world.channel(unknown).unary_unary(BEAT)(A_BEAT.SerializeToString(), timeout=30)
            await asyncio.wait_for(begun.wait(), 10)
            call.cancel()
            go.set()
            await asyncio.wait_for(written.wait(), 10)
        assert "refused" in [entry["event"] for entry in logs]
        figures = world.metrics.exposition().decode()
        ended = 'fedcore_rpcs_total{method="ClientService.Heartbeat",status="'
        assert ended + 'UNAUTHENTICATED"} 1.0' in figures and figures.count(ended) == 1
