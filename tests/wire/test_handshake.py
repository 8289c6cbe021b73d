"""Where gRPC cannot tell what is wrong on the way to a server, a handshake of our own does."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from fedcore.errors import HostNameError, UnreachableError
from fedcore.wire.handshake import check_name, check_port, check_server
from tests.client.authority import Authority

TWO = "two.example"


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def two_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name whose first address has nobody listening."""
    known = socket.getaddrinfo

    def found(host: str, *arguments: Any, **options: Any) -> Any:
        if host != TWO:
            return known(host, *arguments, **options)
        addresses = ("127.0.0.2", "127.0.0.1")
        return [entry for ip in addresses for entry in known(ip, *arguments, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", found)


def test_every_address_of_a_name_is_tried(port: int, two_addresses: None) -> None:
    assert check_name(TWO) == "127.0.0.1, 127.0.0.2"
    assert check_port(TWO, port) == f"{port} answers"


def test_a_port_at_which_nobody_listens_is_told_from_a_name_that_is_not_known() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(UnreachableError):
            check_port("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(HostNameError):
        check_name("no-such-host.invalid")


def test_a_name_service_that_does_not_answer_may_do_so_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_network(*arguments: Any, **options: Any) -> Any:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    with pytest.raises(UnreachableError, match="nobody can be asked"):
        check_name("server.example")


@pytest.mark.parametrize("linger", [b"", struct.pack("ii", 1, 0)], ids=["closed", "reset"])
def test_a_connection_that_breaks_in_the_handshake_may_hold_the_next_time(linger: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def end() -> None:
            connection, _ = listener.accept()
            if linger:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            connection.close()

        thread = threading.Thread(target=end)
        thread.start()
        with pytest.raises(UnreachableError):
            check_server("127.0.0.1", listener.getsockname()[1], root=Authority().pem)
        thread.join()
