"""The ops port: alive, ready, figures; on loopback, by its own name only, and read only."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from typing import Any

import pytest
from starlette.applications import Starlette

from fedcore.errors import ServerError
from fedserver.health import Health
from fedserver.metrics import Metrics, resident_bytes
from fedserver.ops import Ops, application


async def get(port: int, path: str, *, method: str = "GET", host: str = "localhost") -> Any:
    """Status and body of a plain HTTP request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


@pytest.fixture
async def port_of(request: pytest.FixtureRequest) -> Any:
    running: list[Ops] = []

    async def started(app: Starlette) -> int:
        running.append(Ops(app, host="127.0.0.1", port=0))
        return await running[-1].start()

    yield started
    for ops in running:
        await ops.stop()


async def test_alive_ready_and_figures_are_told(port_of: Any) -> None:
    metrics, reasons = Metrics(), []
    metrics.rpcs.labels("AdminService.Drain", "OK").inc()
    port = await port_of(application(metrics, reasons=lambda: reasons, version="1.2.3"))
    assert await get(port, "/livez") == (200, b"alive\n")
    status, body = await get(port, "/readyz")
    assert status == 200 and json.loads(body) == {"ready": True, "reasons": [], "version": "1.2.3"}
    reasons.append("the disk is nearly full")
    status, body = await get(port, "/readyz")
    assert status == 503 and json.loads(body)["reasons"] == ["the disk is nearly full"]
    status, body = await get(port, "/metrics")
    assert b'fedcore_rpcs_total{method="AdminService.Drain",status="OK"} 1.0' in body
    assert b"fedcore_resident_bytes" in body


@pytest.mark.parametrize("path", ["/", "/docs", "/metrics/", "/../etc/passwd", "/admin"])
async def test_there_is_nothing_else(port_of: Any, path: str) -> None:
    port = await port_of(application(Metrics(), reasons=list, version=""))
    status, _ = await get(port, path)
    assert status in (307, 404)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_nothing_can_be_changed(port_of: Any, method: str) -> None:
    port = await port_of(application(Metrics(), reasons=list, version=""))
    status, _ = await get(port, "/readyz", method=method)
    assert status == 405


async def test_a_page_that_resolves_its_own_name_to_this_machine_learns_nothing(
    port_of: Any,
) -> None:
    port = await port_of(application(Metrics(), reasons=list, version=""))
    status, body = await get(port, "/metrics", host="evil.example")
    assert status == 400 and b"fedcore" not in body


async def test_whoever_asks_half_a_question_makes_room_again(
    port_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedserver.ops._CONNECTION_S", 0.5)
    port = await port_of(application(Metrics(), reasons=list, version=""))
    halves = [await asyncio.open_connection("127.0.0.1", port) for _ in range(64)]
    for _, writer in halves:
        writer.write(b"GET /livez HTTP/1.1\r\nHost: loc")
    assert (await get(port, "/livez"))[0] == 503
    for reader, writer in halves:
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 30) == b""
        writer.close()
    assert await get(port, "/livez") == (200, b"alive\n")


async def test_a_connection_is_for_one_answer(port_of: Any) -> None:
    port = await port_of(application(Metrics(), reasons=list, version=""))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    head, _, body = (await asyncio.wait_for(reader.read(), 30)).partition(b"\r\n\r\n")
    assert b"connection: close" in head and body == b"alive\n"
    writer.close()


async def test_a_port_in_use_is_told(port_of: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ops = Ops(Starlette(), host="127.0.0.1", port=taken.getsockname()[1])
        with pytest.raises(ServerError, match="cannot listen"):
            await ops.start()


async def test_health_gathers_every_reason_and_stopping_outlasts_them_all() -> None:
    reasons = {"disk": "", "lag": ""}
    metrics = Metrics()
    health = Health(
        ["fedcore.v1.RoundService"],
        checks=[lambda: reasons["disk"], lambda: reasons["lag"]],
        metrics=metrics,
    )
    assert health.reasons() == ["the server is starting"]
    await health.started()
    assert health.reasons() == [] and b"fedcore_ready 1.0" in metrics.exposition()
    reasons.update(disk="full", lag="late")
    await health.tell()
    assert health.reasons() == ["full", "late"] and b"fedcore_ready 0.0" in metrics.exposition()
    reasons.update(disk="", lag="")
    await health.stopping()
    await health.started()
    assert health.reasons() == ["the server is stopping"]


def test_every_figure_has_its_own_registry() -> None:
    first, second = Metrics(), Metrics()
    first.check_ins.labels("retry").inc()
    assert b'answer="retry"' not in second.exposition()


def test_memory_is_counted_in_bytes() -> None:
    assert 10 << 20 < resident_bytes() < 64 << 30
