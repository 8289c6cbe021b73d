"""Each way in which a server cannot be reached has its own class, found out over real sockets."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from fedclient import Client
from fedclient.connection import is_passing
from fedclient.doctor import diagnose, examine
from fedclient.identity import DeviceIdentity, Tls, now_utc, signing_request
from fedclient.join import enrol
from fedclient.stopping import Stop
from fedcore.data import Dataset
from fedcore.errors import (
    ClientCertificateError,
    ClockError,
    DeviceTimeoutError,
    FedcoreError,
    ForbiddenError,
    HostNameError,
    NotAuthorisedError,
    ServerVersionError,
    UnreachableError,
    UntrustedServerError,
    VersionError,
)
from fedcore.federated.task import Task
from fedcore.wire.joining import JoinString
from tests.chaos.network.faults import resetting
from tests.chaos.network.proxy import FaultProxy
from tests.client.authority import DAY, Authority
from tests.client.devices import OPENLY
from tests.client.server import FakeServer

Serve = Callable[..., FakeServer]


@pytest.fixture
def server(serve: Serve, open_task: Task) -> FakeServer:
    return serve(open_task, goal=1)


@pytest.fixture
def identity(server: FakeServer, folder: Path) -> DeviceIdentity:
    invitation = JoinString.parse(server.join_string)
    return enrol(invitation, folder=folder / "identity", name="", attributes={}, stop=Stop())


def moved(identity: DeviceIdentity, address: str) -> DeviceIdentity:
    identity.membership = replace(identity.membership, address=address)
    return identity


def expect(identity: DeviceIdentity, wanted: type[FedcoreError], word: str = "") -> FedcoreError:
    found = diagnose(identity, stop=Stop())
    assert type(found) is wanted, found
    assert found.why and found.fix and word in f"{found.what} {found.why}"
    return found


def with_certificate(
    server: FakeServer,
    identity: DeviceIdentity,
    *,
    authority: Authority | None = None,
    begins: timedelta = -DAY,
    ends: timedelta = DAY,
) -> DeviceIdentity:
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    chain = (authority or server.authority).client(
        signing_request(key), identity.membership.client_id, begins=begins, ends=ends
    )
    identity.renewed(Tls.certified(key, chain), identity.membership.certificate)
    return identity


def test_a_sound_way_has_nothing_wrong(identity: DeviceIdentity) -> None:
    found = list(examine(identity, stop=Stop()))
    assert [finding.error for finding in found] == [None] * 6
    assert diagnose(identity, stop=Stop()) is None


def test_a_name_that_is_not_known(identity: DeviceIdentity) -> None:
    expect(moved(identity, "no-such-host.invalid:7443"), HostNameError)


def test_a_port_where_nothing_answers(identity: DeviceIdentity) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    expect(moved(identity, f"127.0.0.1:{port}"), UnreachableError)


def test_a_server_of_another_authority(
    identity: DeviceIdentity, serve: Serve, open_task: Task
) -> None:
    other = serve(open_task)
    expect(moved(identity, f"127.0.0.1:{other.port}"), UntrustedServerError, "authority")


@pytest.fixture
def restarted(server: FakeServer, identity: DeviceIdentity) -> Iterator[Callable[..., None]]:
    """Serves the same client with another certificate, on the same port."""

    def restart(**options: object) -> None:
        server.stop()
        server._pair = server.authority.server(**options)  # type: ignore[arg-type]
        server.start(server.port)

    yield restart


@pytest.mark.parametrize(
    ("options", "wanted", "word"),
    [
        ({"begins": -3 * DAY, "ends": -DAY}, ClockError, "expired"),
        ({"begins": DAY, "ends": 2 * DAY}, ClockError, "not valid yet"),
        ({"hosts": ("elsewhere.example",)}, UntrustedServerError, "not for"),
    ],
)
def test_a_certificate_of_the_server_that_does_not_hold_here(
    identity: DeviceIdentity,
    restarted: Callable[..., None],
    options: dict[str, object],
    wanted: type[FedcoreError],
    word: str,
) -> None:
    restarted(**options)
    expect(identity, wanted, word)


def test_a_clock_that_is_behind(identity: DeviceIdentity) -> None:
    [finding] = examine(identity, stop=Stop(), now=lambda: now_utc() - 2 * DAY)
    assert type(finding.error) is ClockError


def test_a_certificate_of_the_device_that_has_expired(
    server: FakeServer, identity: DeviceIdentity
) -> None:
    """Another is to be had at the enrolment port, so that this is the port that has to answer."""
    with_certificate(server, identity, begins=-2 * DAY, ends=-DAY)
    found = list(examine(identity, stop=Stop()))
    assert [finding.error for finding in found] == [None] * 4 and "expired" in found[0].detail
    server.enrolment_server.stop(0).wait()
    expect(identity, UnreachableError)


def test_a_certificate_of_the_device_that_only_the_server_finds_expired(
    server: FakeServer, identity: DeviceIdentity
) -> None:
    """The device's clock is late, the server's is right."""
    with_certificate(server, identity, begins=-2 * DAY, ends=-DAY)
    *_, finding = examine(identity, stop=Stop(), now=lambda: now_utc() - 1.5 * DAY)
    assert finding.check == "client's certificate"
    assert type(finding.error) is ClientCertificateError


def test_a_certificate_of_the_device_of_another_authority(
    server: FakeServer, identity: DeviceIdentity
) -> None:
    found = with_certificate(server, identity, authority=Authority("another"))
    expect(found, ClientCertificateError)


def test_a_device_that_shows_no_certificate(
    server: FakeServer, identity: DeviceIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", lambda self, path: None)
    expect(identity, ClientCertificateError)


def test_a_certificate_that_was_revoked(server: FakeServer, identity: DeviceIdentity) -> None:
    server.revoked.add(identity.membership.client_id)
    expect(identity, ClientCertificateError, "revoked")


@pytest.mark.parametrize(
    ("raised", "wanted"),
    [(ForbiddenError, NotAuthorisedError), (VersionError, ServerVersionError)],
)
def test_what_the_server_says_after_it_took_the_certificate(
    server: FakeServer,
    identity: DeviceIdentity,
    raised: type[FedcoreError],
    wanted: type[FedcoreError],
) -> None:
    def refuse(method: str, client: bytes) -> None:
        raise raised("no", why="it is suspended", fix="ask")

    server.before = refuse
    expect(identity, wanted, "suspended")


@contextmanager
def silent(answer: bytes) -> Iterator[int]:
    """The port of a listener that takes connections, says `answer` and no more."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as connections:

        def accept() -> None:
            while True:
                try:
                    found, _ = listener.accept()
                except OSError:
                    return
                connections.enter_context(found)
                with suppress(OSError):
                    found.sendall(answer)

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()


def test_a_port_that_speaks_no_tls(identity: DeviceIdentity) -> None:
    with silent(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        expect(moved(identity, f"127.0.0.1:{port}"), ServerVersionError)


def test_a_port_that_says_nothing(
    identity: DeviceIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedcore.wire.handshake._STEP_S", 0.2)
    with silent(b"") as port:
        expect(moved(identity, f"127.0.0.1:{port}"), DeviceTimeoutError)


def test_a_client_ends_with_the_cause_and_does_not_wait_for_ever(
    server: FakeServer,
    folder: Path,
    flowers: Callable[[int], Dataset],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Client.join(server.join_string, directory=folder).close()
    server.stop()
    server._pair = Authority("another").server()
    server.start(server.port)
    monkeypatch.setattr("fedclient.client._CHECK_IN_PATIENCE_S", 0.2)
    with Client.open(folder) as device, pytest.raises(UntrustedServerError):
        device.run(datasets={"flowers": flowers(0)}, policy=OPENLY, rounds=1)


def test_grpc_alone_would_not_tell(identity: DeviceIdentity, server: FakeServer) -> None:
    """Why the doctor shakes hands itself."""
    credentials = grpc.ssl_channel_credentials(server.authority.pem)
    with grpc.secure_channel(f"127.0.0.1:{server.port}", credentials) as channel:
        call = channel.unary_unary("/fedcore.v1.ClientService/CheckIn")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "certificate" not in caught.value.details().lower()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_network_that_breaks_connections_is_no_reason_to_give_up_for_good(
    server: FakeServer, identity: DeviceIdentity, seed: int
) -> None:
    """Wherever in the handshakes or the call it happens."""
    with FaultProxy(server.port, draw=resetting(0, 6_000), seed=seed) as proxy:
        way = moved(identity, f"127.0.0.1:{proxy.port}")
        for _ in range(8):
            error = diagnose(way, stop=Stop())
            assert error is None or is_passing(error), error
        assert proxy.resets >= 5
