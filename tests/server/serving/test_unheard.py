"""A port that is asked more than its event loop gets to: who waits behind whom, and how long."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import grpc
import pytest

from fedcore.wire import channels
from fedserver.authority import ServerCertificate
from fedserver.calls import Context
from fedserver.ports import Credentials, Port
from tests.client.authority import Authority

NEW, BEGUN = "/test.New/Ask", "/test.Begun/Send"
ASKED = 20
TURN_S = 0.05  # for which a call keeps the loop to itself
WAIT_S = 30  # for what takes a second here


class Busy:
    """Keeps the event loop busy with each call, as work does; `heard`: whom it got to."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.first_came, self.free = threading.Event(), threading.Event()
        self.free.set()

    def handler(self, path: str) -> grpc.RpcMethodHandler[bytes, bytes]:
        async def answer(request: bytes, context: Context) -> bytes:
            self._work(path)  # the loop stands still, and not this call alone
            return request

        return grpc.unary_unary_rpc_method_handler(answer)  # type: ignore[arg-type]

    def _work(self, path: str) -> None:
        self.heard.append(path)
        self.first_came.set()
        self.free.wait(WAIT_S)
        time.sleep(TURN_S)


@asynccontextmanager
async def serving(authority: Authority, busy: Busy) -> AsyncIterator[int]:
    credentials = Credentials(ServerCertificate(*authority.server(), 0, 0), root_pem=authority.pem)
    port = Port("127.0.0.1", 0, credentials, rpcs=100, connections=10)
    port.serve(
        {"test.New": {"Ask": busy.handler(NEW)}, "test.Begun": {"Send": busy.handler(BEGUN)}}
    )
    await port.start()
    try:
        yield port.number
    finally:
        await port.stop(grace_s=0)


@contextmanager
def connected(authority: Authority, port: int) -> Iterator[grpc.Channel]:
    key, chain = authority.server()  # it says nothing of what it is for
    credentials = grpc.ssl_channel_credentials(authority.pem, key, chain)
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
        grpc.channel_ready_future(channel).result(WAIT_S)
        yield channel


def begun(channel: grpc.Channel, paths: Sequence[str]) -> list[grpc.Future]:
    return [channel.unary_unary(path).future(b"", timeout=WAIT_S) for path in paths]


async def test_begun_work_does_not_wait_behind_all_who_ask_for_new() -> None:
    authority, busy = Authority(), Busy()
    async with serving(authority, busy) as port:

        def load() -> None:
            with connected(authority, port) as channel:
                for call in begun(channel, [*[NEW] * ASKED, BEGUN]):
                    call.result(WAIT_S)

        await asyncio.to_thread(load)
    assert len(busy.heard) == ASKED + 1
    assert busy.heard.index(BEGUN) < ASKED / 2


async def test_who_is_not_heard_in_time_is_told_so_and_costs_the_loop_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = channels.server_options
    monkeypatch.setattr(
        "fedserver.ports.server_options",
        lambda **given: known(**given, unheard_s=1),
    )
    authority, busy = Authority(), Busy()
    async with serving(authority, busy) as port:

        def load() -> list[grpc.StatusCode]:
            with connected(authority, port) as channel:
                busy.free.clear()
                calls = begun(channel, [NEW])
                busy.first_came.wait(WAIT_S)
                calls += begun(channel, [NEW] * ASKED)
                until_s = time.monotonic() + 1.5
                while time.monotonic() < until_s:
                    assert not any(call.done() for call in calls)
                    time.sleep(TURN_S)
                busy.free.set()
                found = [call.code() for call in calls]  # type: ignore[attr-defined]
                assert channel.unary_unary(NEW)(b"again", timeout=WAIT_S) == b"again"
                return found

        found = await asyncio.to_thread(load)
    # gRPC itself hands one out ahead, and that one is heard though it is late.
    assert found.count(grpc.StatusCode.OK) <= 2
    assert found.count(grpc.StatusCode.CANCELLED) == 1 + ASKED - found.count(grpc.StatusCode.OK)
    assert len(busy.heard) == found.count(grpc.StatusCode.OK) + 1
