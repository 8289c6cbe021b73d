"""Where gRPC cannot tell what is wrong on the way to a server, a handshake of our own does."""

from __future__ import annotations

import socket
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


def test_what_closes_the_connection_may_be_a_server_that_ends() -> None:
    """A device that took it for good would never come back after a restart behind a balancer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: listener.accept()[0].close())
        thread.start()
        with pytest.raises(UnreachableError, match="handshake"):
            check_server("127.0.0.1", listener.getsockname()[1], root=Authority().pem)
        thread.join()
