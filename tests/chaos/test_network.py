"""The network of the tests does to a connection what it says, and the same again with its seed."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress

import grpc
import pytest
from hypothesis import given, strategies as st

from tests.chaos.network.calls import LossyCalls
from tests.chaos.network.faults import (
    Fault,
    any_of,
    constantly,
    delayed,
    half_open,
    refusing,
    resetting,
)
from tests.chaos.network.proxy import FaultProxy
from tests.chaos.programs import until

DRAW = any_of(delayed, resetting(1, 100), half_open(1, 100), refusing(0.5))


class Echo:
    """Sends back what it gets; `got`: how many bytes that were, of all connections."""

    def __init__(self) -> None:
        self.got, self.ended = 0, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while data := connection.recv(65_536):
                self.got += len(data)
                connection.sendall(data)
        self.ended += 1


@pytest.fixture
def echo() -> Iterator[Echo]:
    with closing(Echo()) as made:
        yield made


@pytest.fixture
def proxy(echo: Echo) -> Iterator[FaultProxy]:
    with FaultProxy(echo.port) as made:
        yield made


def dialled(proxy: FaultProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=20)


def received(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := connection.recv(count - len(data))):
        data += more
    return data


def test_undisturbed_it_is_a_wire(proxy: FaultProxy) -> None:
    data = random.Random(1).randbytes(1_000_000)
    with dialled(proxy) as connection:
        threading.Thread(target=connection.sendall, args=(data,)).start()
        assert received(connection, len(data)) == data
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""


def test_a_delay_keeps_the_order_and_holds_back_nothing_else(proxy: FaultProxy) -> None:
    proxy.draw = constantly(Fault(delay_s=(0.02, 0.05)))
    data = random.Random(1).randbytes(3_000_000)
    with dialled(proxy) as connection:
        begun_s = time.monotonic()
        threading.Thread(target=connection.sendall, args=(data,)).start()
        assert received(connection, len(data)) == data
        assert time.monotonic() - begun_s >= 2 * 0.02


def test_a_rate_limits_what_is_moved(proxy: FaultProxy) -> None:
    proxy.draw = constantly(Fault(bytes_per_s=1024))
    with dialled(proxy) as connection:
        begun_s = time.monotonic()
        connection.sendall(bytes(256))
        assert received(connection, 256) == bytes(256)
        assert time.monotonic() - begun_s >= 0.2  # the last 52 bytes wait for the first 204


@pytest.mark.parametrize("after", [1, 1000, 70_000])
def test_a_reset_comes_after_so_many_bytes(proxy: FaultProxy, echo: Echo, after: int) -> None:
    proxy.draw = constantly(Fault(reset_after=after))
    with dialled(proxy) as connection:
        with pytest.raises(OSError):
            while True:
                connection.sendall(bytes(500))
                connection.recv(500)
        until(lambda: proxy.resets == 1, "it is counted")
        assert echo.got <= after


@pytest.mark.parametrize("way", ["up", "down"])
def test_half_open_one_direction_is_silent_and_the_other_goes_on(
    proxy: FaultProxy, echo: Echo, way: str
) -> None:
    proxy.draw = constantly(Fault(lost=way, lost_after=10))  # type: ignore[arg-type]
    with dialled(proxy) as connection:
        connection.sendall(bytes(15))
        assert received(connection, 10) == bytes(10)
        connection.settimeout(0.05)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        assert echo.got == (10 if way == "up" else 15)
    # Who is gone is missed only where his end gets through.
    if way == "down":
        until(lambda: echo.ended == 1, "the server learns of the end")
    else:
        assert proxy.open_links == 1 and echo.ended == 0


def test_what_is_sent_in_a_partition_arrives_after_it(proxy: FaultProxy, echo: Echo) -> None:
    with dialled(proxy) as before:
        before.sendall(b"a")
        assert received(before, 1) == b"a"
        with proxy.partition():
            before.sendall(b"bc")
            with dialled(proxy) as during:
                during.sendall(b"d")
                during.settimeout(0.05)
                with pytest.raises(TimeoutError):
                    during.recv(1)
        assert received(before, 2) == b"bc"


def test_who_is_refused_gets_nothing(proxy: FaultProxy, echo: Echo) -> None:
    proxy.draw = constantly(Fault(refused=True))
    with suppress(OSError), dialled(proxy) as connection:
        assert connection.recv(1) == b""
    assert echo.got == 0


def test_all_connections_are_reset_at_once(proxy: FaultProxy) -> None:
    with dialled(proxy) as one, dialled(proxy) as other:
        for connection in (one, other):
            connection.sendall(b"a")
            assert received(connection, 1) == b"a"
        proxy.reset()
        assert proxy.open_links == 0
        for connection in (one, other):
            with pytest.raises(ConnectionResetError):
                connection.recv(1)


def test_the_same_seed_draws_the_same_faults(echo: Echo) -> None:
    def drawn(seed: int) -> list[Fault]:
        with FaultProxy(echo.port, draw=DRAW, seed=seed) as proxy:
            for number in range(6):
                with suppress(OSError), dialled(proxy):
                    until(lambda number=number: len(proxy.faults) > number, "it is taken")
            return proxy.faults

    assert drawn(1) == drawn(1) != drawn(2)


# Calls.


class Call:
    def __init__(self, request: str) -> None:
        self.request = request

    def result(self, timeout: float | None = None) -> str:
        return f"answer to {self.request}"

    def done(self) -> bool:
        return True

    def add_done_callback(self, callback: object) -> None:
        """It is never over, as far as this test goes."""


class Details:
    method = "/fedcore.v1.RoundService/Report"


@given(st.integers(0, 2**32))
def test_a_lost_call_is_told_as_a_broken_connection_and_is_sent_as_often_as_it_says(
    seed: int,
) -> None:
    sent: list[str] = []
    said: list[str] = []

    def send(details: object, request: str) -> Call:
        sent.append(request)
        return Call(request)

    calls = LossyCalls(seed=seed, say=said.append)
    lost = 0
    for number in range(200):
        try:
            answer = calls.intercept_unary_unary(send, Details(), str(number)).result()  # type: ignore[arg-type]
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            lost += 1
        else:
            assert answer == f"answer to {number}"
    happened = calls.happened
    assert lost == happened["unsent"] + happened["unanswered"]
    assert len(sent) == 200 - happened["unsent"] + happened["repeated"]
    assert len(said) == happened.total() and 20 < happened.total() < 110
