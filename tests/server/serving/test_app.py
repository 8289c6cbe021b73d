"""The server as a whole: how it starts, renews its certificate, and ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import tempfile
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from cryptography import x509
from grpc_health.v1 import health_pb2
from structlog.testing import capture_logs

from fedcore.errors import ServerError, StoreError
from fedcore.v1 import client_service_pb2 as client, upload_service_pb2 as upload
from fedserver.admission import LoopLag
from fedserver.app import now_ms
from fedserver.memory_limit import MemoryLimit

CHECK_IN = "/fedcore.v1.ClientService/CheckIn"
BEAT = "/fedcore.v1.ClientService/Heartbeat"
PUT = "/fedcore.v1.UploadService/PutChunk"
HEALTH = "/grpc.health.v1.Health/Check"
A_BEAT = client.HeartbeatRequest(assignment_id=b"a" * 16)
A_CHECK_IN = client.CheckInRequest(request_id=b"r" * 16, sdk_version="0.1.0")
OK = grpc.StatusCode.OK


async def shown_at(address: str) -> int:
    """The serial of the certificate that a port shows at a handshake."""
    host, _, port = address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])

    def handshake() -> bytes:
        with (
            socket.create_connection((host, int(port)), timeout=10) as raw,
            context.wrap_socket(raw) as secured,
        ):
            found = secured.getpeercert(binary_form=True)
            assert found is not None and secured.version() == "TLSv1.3"
            return found

    return x509.load_der_x509_certificate(await asyncio.to_thread(handshake)).serial_number


async def health_of(world: Any, holder: Any, service: str = "") -> Any:
    request = health_pb2.HealthCheckRequest(service=service)
    code, data, _ = await world.call(holder, HEALTH, request)
    return health_pb2.HealthCheckResponse.FromString(data).status if code is OK else code


async def test_health_is_told_to_whoever_has_a_certificate(world: Any) -> None:
    holder = await world.client(client_id=b"c" * 16)
    serving = health_pb2.HealthCheckResponse.SERVING
    assert await health_of(world, holder) == serving
    assert await health_of(world, holder, "fedcore.v1.RoundService") == serving
    assert await health_of(world, holder, "unknown") is grpc.StatusCode.NOT_FOUND
    assert await health_of(world, None) is grpc.StatusCode.UNAVAILABLE
    await world.server.drain()
    assert await health_of(world, holder) == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_a_renewed_certificate_is_shown_without_a_restart(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = await world.client(client_id=b"c" * 16)
    assert (await world.call(holder, BEAT, A_BEAT))[0] is OK
    old = await shown_at(world.addresses.service)
    assert await shown_at(world.addresses.enrolment) == old
    monkeypatch.setattr("fedserver.authority.due", lambda *_, **__: True)
    await world.server.renew()
    for address in (world.addresses.service, world.addresses.enrolment):
        renewed = await shown_at(address)
        assert renewed != old and await shown_at(address) == renewed
    assert (await world.call(holder, BEAT, A_BEAT))[0] is OK


async def test_while_it_drains_check_ins_get_a_delay_and_uploads_go_on(world: Any) -> None:
    holder = await world.client(client_id=b"c" * 16)
    await world.server.drain()
    code, data, _ = await world.call(holder, CHECK_IN, A_CHECK_IN)
    assert code is OK and client.CheckInResponse.FromString(data).retry.delay_min_ms == 1000
    chunk = upload.PutChunkRequest(upload_id=b"u" * 16, data=b"abc")
    assert (await world.call(holder, PUT, chunk))[0] is OK


async def test_a_call_that_was_begun_is_answered_before_the_end(world: Any) -> None:
    holder = await world.client(client_id=b"c" * 16)
    entered, release = asyncio.Event(), asyncio.Event()

    async def block() -> None:
        entered.set()
        await release.wait()

    world.federation.block = block
    call = asyncio.create_task(world.call(holder, BEAT, A_BEAT))
    await asyncio.wait_for(entered.wait(), 10)
    world.federation.block = None
    stopping = asyncio.create_task(world.server.stop())
    await asyncio.wait_for(world.federation.drained.wait(), 10)
    release.set()
    assert (await call)[0] is OK
    await stopping
    assert world.federation.stopped
    code, _, _ = await world.call(holder, BEAT, A_BEAT)
    assert code is grpc.StatusCode.UNAVAILABLE


async def test_a_stop_is_told_to_probes_and_balancers_before_anybody_is_sent_away(
    world: Any,
) -> None:
    holder = await world.client(client_id=b"c" * 16)
    reached, held = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        reached.set()
        await held.wait()

    world.federation.drain = hold
    stopping = asyncio.create_task(world.server.stop())
    await asyncio.wait_for(reached.wait(), 10)
    url = f"http://127.0.0.1:{world.addresses.ops}"
    with pytest.raises(urllib.error.HTTPError) as refused:
        await asyncio.to_thread(urllib.request.urlopen, f"{url}/readyz", timeout=10)
    with refused.value as answer:
        assert answer.code == 503 and b"the server is stopping" in answer.read()
    with await asyncio.to_thread(urllib.request.urlopen, f"{url}/livez", timeout=10) as answer:
        assert answer.status == 200
    assert await health_of(world, holder) == health_pb2.HealthCheckResponse.NOT_SERVING
    assert (await world.call(holder, BEAT, A_BEAT))[0] is OK  # who is here is served all the same
    held.set()
    await stopping


async def test_a_call_that_never_ends_is_cut_off(make_world: Any) -> None:
    async with make_world(server={"drain_s": 0.05}) as world:
        holder = await world.client(client_id=b"c" * 16)
        entered = asyncio.Event()

        async def block() -> None:
            entered.set()
            await asyncio.Event().wait()

        world.federation.block = block
        call = asyncio.create_task(world.call(holder, BEAT, A_BEAT))
        await asyncio.wait_for(entered.wait(), 10)
        await asyncio.wait_for(world.server.stop(), 10)
        assert (await call)[0] is not OK


async def test_a_signal_stops_and_a_second_one_ends_at_once(world: Any) -> None:
    exits: asyncio.Queue[int] = asyncio.Queue()
    world.server.exit_now = exits.put_nowait
    serving = asyncio.create_task(world.server.serve_until_stopped())
    reached, held = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        reached.set()
        await held.wait()

    world.federation.drain = hold
    with world.server.heeding_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(reached.wait(), 10)
        assert exits.empty()
        os.kill(os.getpid(), signal.SIGINT)
        assert await asyncio.wait_for(exits.get(), 10) == 1
        held.set()
        await serving
    assert world.federation.stopped


async def test_a_port_in_use_is_told_and_nothing_is_left_open(make_world: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        for name in ("port", "enrolment_port", "ops_port"):
            with pytest.raises(ServerError, match="cannot listen"):
                async with make_world(server={name: number}):
                    raise AssertionError


async def test_not_ready_says_why(world: Any) -> None:
    assert world.server.reasons() == []
    await world.server.drain()
    assert world.server.reasons() == ["the server is draining"]


async def test_a_database_that_takes_no_writes_makes_the_server_not_ready(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise StoreError("the disk is gone")

    monkeypatch.setattr("fedserver.store.sqlite.store.SqliteStore.node_heartbeat", broken)
    with pytest.raises(StoreError):
        await world.server.show_life()
    assert world.server.reasons() == ["the database takes no writes"]
    monkeypatch.undo()
    await world.server.show_life()
    assert world.server.reasons() == []
    [node] = await world.store.nodes()
    assert not node.draining


async def test_the_figures_tell_how_large_the_database_is(world: Any) -> None:
    await world.server.show_life()
    size = await world.store.size()
    assert size.database_bytes > 0 and size.wal_bytes > 0
    metrics = world.server._parts.metrics
    assert metrics.database_bytes.collect()[0].samples[0].value == size.database_bytes
    assert metrics.wal_bytes.collect()[0].samples[0].value > 0


async def test_a_late_event_loop_makes_the_server_not_ready(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lag: LoopLag = world.server.lag
    lag.sample(2.0, now_s=2.0)
    monkeypatch.setattr(lag, "sample", lambda *_, **__: None)
    assert world.server.reasons() == ["the event loop is late"]
    holder = await world.client(client_id=b"c" * 16)
    code, _, _ = await world.call(holder, CHECK_IN, A_CHECK_IN)
    beat, _, _ = await world.call(holder, BEAT, A_BEAT)
    assert (code, beat) == (grpc.StatusCode.RESOURCE_EXHAUSTED, OK)


async def test_answers_that_are_old_are_forgotten_and_new_ones_kept(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.client(client_id=b"c" * 16)
    ask = {"wanted": "", "task_id": "digits-1", "offer": {}}
    await world.store.check_in(b"c" * 16, b"r" * 16, **ask, retry=(7, 8))
    await world.server.prune()
    kept = await world.store.check_in(b"c" * 16, b"r" * 16, **ask, retry=(1, 2))
    assert kept.retry == (7, 8)
    later = now_ms() + 8 * 24 * 3600 * 1000
    monkeypatch.setattr("fedserver.app.now_ms", lambda: later)
    await world.server.prune()
    anew = await world.store.check_in(b"c" * 16, b"r" * 16, **ask, retry=(1, 2))
    assert anew.retry == (1, 2)


async def test_who_was_disowned_is_known_after_its_certificates_are_forgotten(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.client(client_id=b"c" * 16)
    [held] = await world.store.certificates(b"c" * 16)
    newer = replace(held, serial=b"n" * 16, fingerprint=b"n" * 32, not_after_ms=2**50)
    await world.store.add_certificate(newer)
    world.authority.lists.revoke(held.fingerprint, reason="stolen", now=1)
    later = now_ms() + 400 * 24 * 3600 * 1000
    monkeypatch.setattr("fedserver.app.now_ms", lambda: later)
    await world.server.prune()
    assert await world.store.disowned(b"c" * 16, ())


async def test_a_process_that_holds_too_much_memory_is_not_ready(make_world: Any) -> None:
    async with make_world(limits={"memory_bytes": 1}) as world:
        holder = await world.client(client_id=b"c" * 16)
        [reason] = world.server.reasons()
        assert "limits.memory_bytes" in reason
        assert await health_of(world, holder) == health_pb2.HealthCheckResponse.NOT_SERVING
        assert (await world.call(holder, BEAT, A_BEAT))[0] is OK


def test_memory_on_the_edge_of_its_limit_is_told_once() -> None:
    held = 0.0
    limit = MemoryLimit(100, resident=lambda: held)
    with structlog.testing.capture_logs() as logs:
        for held in (99, 101, 99, 101, 91, 120, 89, 99):
            assert bool(limit()) == (held in (101, 91, 120) or (held == 99 and len(logs) == 1))
    assert [(line["over"], line["resident_bytes"]) for line in logs] == [(True, 101), (False, 89)]


@pytest.mark.parametrize("named", [True, False], ids=["file", "abstract"])
async def test_the_service_manager_hears_of_ready_and_stopping(
    make_world: Any, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        address = f"{folder}/notify" if named else f"@{folder}"
        manager.bind(address if named else "\0" + address[1:])
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        async with make_world():
            assert manager.recv(64) == b"READY=1"
        assert manager.recv(64) == b"STOPPING=1"


async def test_a_service_manager_that_is_gone_keeps_nobody_from_serving(
    make_world: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    async with make_world() as world:
        assert world.server.reasons() == []


@pytest.mark.parametrize("reflection", [False, True])
async def test_reflection_is_off_unless_it_is_asked_for(make_world: Any, reflection: bool) -> None:
    path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    async with make_world(server={"reflection": reflection}) as world:
        holder = await world.client(client_id=b"c" * 16)
        stream = world.channel(holder).stream_stream(path)(timeout=10)
        await stream.done_writing()
        assert (await stream.code() is OK) is reflection


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), StoreError("no room")])
async def test_what_is_done_again_and_again_outlives_a_failure(
    world: Any, error: Exception
) -> None:
    done = asyncio.Event()
    failures = [error, error]

    async def work() -> None:
        if failures:
            raise failures.pop()
        done.set()

    with capture_logs() as logs:
        again = asyncio.ensure_future(world.server._again(work, every_s=0.001))
        await asyncio.wait_for(done.wait(), 5.0)
    again.cancel()
    assert [entry["event"] for entry in logs].count("housekeeping failed") == 2
