"""Whoever dials and says nothing, or vanishes, is shed, and keeps nobody's place for long."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from fedcore.wire import channels
from fedserver.admission import Admission, LoopLag
from fedserver.authority import ServerCertificate
from fedserver.connections import Connections
from fedserver.health_rpcs import health_methods
from fedserver.ports import Credentials, Port
from tests.client.authority import Authority

MOST = 8
SHORT: dict[str, int | str] = {
    "grpc.server_handshake_timeout_ms": 1_000,
    "grpc.keepalive_time_ms": 1_000,
    "grpc.keepalive_timeout_ms": 500,
    "grpc.http2.ping_timeout_ms": 500,
}
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
WAIT_S = 30  # for what takes a second here


@asynccontextmanager
async def serving(authority: Authority) -> AsyncIterator[Port]:
    certificate = ServerCertificate(*authority.server(), 0, 0)
    credentials = Credentials(certificate, root_pem=authority.pem)
    port = Port("127.0.0.1", 0, credentials, rpcs=10, connections=MOST)
    admission = Admission(now_s=time.monotonic, lag=LoopLag(), disk_free=lambda: 1.0)
    port.serve(
        {health.SERVICE_NAME: health_methods(health.aio.HealthServicer(), admission=admission)}
    )
    await port.start()
    try:
        yield port
    finally:
        await port.stop(grace_s=0)


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The patience of a port is a second."""
    known = channels.server_options

    def options(**given: object) -> channels.Options:
        return tuple({**dict(known(**given)), **SHORT}.items())  # type: ignore[arg-type]

    monkeypatch.setattr("fedserver.ports.server_options", options)


async def answers(port: Port, authority: Authority) -> bool:
    key, chain = authority.server()  # it says nothing of what it is for
    credentials = grpc.ssl_channel_credentials(authority.pem, key, chain)
    async with grpc.aio.secure_channel(f"127.0.0.1:{port.number}", credentials) as channel:
        asked = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=WAIT_S, wait_for_ready=True
        )
        return bool((await asked).status == health_pb2.HealthCheckResponse.SERVING)


def ended(connection: socket.socket, *, within_s: float) -> bool:
    connection.settimeout(within_s)
    try:
        while connection.recv(4096):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


async def test_strangers_who_say_nothing_are_bounded_and_make_room(
    authority: Authority, soon: None
) -> None:
    async with serving(authority) as port:
        with ExitStack() as held:

            def dial() -> list[socket.socket]:
                return [
                    held.enter_context(socket.create_connection(("127.0.0.1", port.number)))
                    for _ in range(3 * MOST)
                ]

            strangers = await asyncio.to_thread(dial)
            assert await answers(port, authority)
            for stranger in strangers:
                assert await asyncio.to_thread(ended, stranger, within_s=WAIT_S)


async def test_a_byte_now_and_then_earns_no_more_time(authority: Authority, soon: None) -> None:
    async with serving(authority) as port:

        def trickle() -> float:
            with socket.create_connection(("127.0.0.1", port.number)) as stranger:
                sent = 0
                while not ended(stranger, within_s=0.05):
                    stranger.send(b"\x16\x03\x01\x02\x00\x01"[sent : sent + 1] or b"\x00")
                    sent += 1
                return sent * 0.05

        assert await asyncio.to_thread(trickle) < WAIT_S


async def test_a_member_that_answers_no_ping_is_shed_also_when_it_asks_nothing(
    authority: Authority, soon: None, tmp_path: Path
) -> None:
    pair = tmp_path / "pair.pem"
    pair.write_bytes(b"".join(authority.server()))
    context = ssl.create_default_context(cadata=authority.pem.decode())
    context.load_cert_chain(pair)
    context.set_alpn_protocols(["h2"])
    async with serving(authority) as port:

        def vanish() -> bool:
            with (
                socket.create_connection(("127.0.0.1", port.number)) as plain,
                context.wrap_socket(plain, server_hostname="localhost") as secure,
            ):
                secure.sendall(PREFACE)
                return ended(secure, within_s=WAIT_S)

        assert await asyncio.to_thread(vanish)
        assert await answers(port, authority)


@pytest.mark.parametrize("files", [300, 1024, 65_536])
def test_connections_leave_files_for_the_database(files: int) -> None:
    found = Connections.within(15_000, files=files)
    assert found.members + found.strangers <= files - 200
    assert found.members <= 15_000 and found.strangers >= 16


def test_a_server_opens_as_many_files_as_it_may() -> None:
    asked = (
        "import resource as r; from fedserver.connections import Connections, open_more_files;"
        "most = r.getrlimit(r.RLIMIT_NOFILE)[1]; r.setrlimit(r.RLIMIT_NOFILE, (300, most));"
        "few = Connections.within(15_000); open_more_files();"
        "assert r.getrlimit(r.RLIMIT_NOFILE)[0] == most;"
        "assert most == 300 or Connections.within(15_000).members > few.members"
    )
    subprocess.run([sys.executable, "-c", asked], check=True)
