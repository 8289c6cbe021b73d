"""The token goes to the pinned authority or nowhere; enrolment that broke off goes on the same."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from fedclient import Client
from fedclient.identity import DeviceIdentity, Membership
from fedcore.errors import (
    ArgumentError,
    ClientCertificateError,
    ClientStateError,
    ConnectError,
    HostNameError,
    JoinStringError,
    TokenError,
    UnreachableError,
    UntrustedServerError,
)
from fedcore.federated.task import Task
from fedcore.wire.joining import JoinString
from tests.client.devices import Crash
from tests.client.server import FakeServer

Serve = Callable[..., FakeServer]


@pytest.fixture
def server(serve: Serve, open_task: Task) -> FakeServer:
    return serve(open_task, goal=1)


def test_a_member_is_what_the_server_says_and_keeps_its_secrets_to_itself(
    server: FakeServer, folder: Path
) -> None:
    with Client.join(server.join_string, directory=folder, name="writer-03") as device:
        membership = device.membership
    assert membership.name == "writer-03" and membership.client_id in server.keys
    assert membership.registrars == (server.registrar.public_key,)
    assert membership.address == f"127.0.0.1:{server.port}"
    files = {path.name: path for path in (folder / "identity").iterdir()}
    assert files.keys() == {"device.key", "membership.json", "signing.key", "tls.pem"}
    for name in ("device.key", "signing.key", "tls.pem"):
        assert files[name].stat().st_mode & 0o777 == 0o400
    assert folder.stat().st_mode & 0o777 == 0o700
    shown = files["membership.json"].read_text()
    for name in ("device.key", "signing.key"):
        assert files[name].read_bytes().hex() not in shown
    assert server.token.hex() not in shown and Membership.decode(shown.encode()) == membership


def test_only_a_name_that_the_owner_gave_reaches_the_operator(
    server: FakeServer, folder: Path
) -> None:
    Client.join(server.join_string, directory=folder / "unnamed", attributes={"a": "b"}).close()
    assert server.attributes == {"a": "b"}
    Client.join(server.join_string, directory=folder / "named", name="Station Süd 3").close()
    assert server.attributes == {"name": "Station Süd 3"}


@pytest.mark.parametrize("name", ["a\x1b[31mb", "a\nb", "x" * 65, " "])
def test_a_name_that_cannot_be_shown_is_refused_before_anything_is_made(
    server: FakeServer, folder: Path, name: str
) -> None:
    with pytest.raises(ArgumentError, match="name"):
        Client.join(server.join_string, directory=folder, name=name)
    assert not folder.exists() and server.calls["Anchors"] == 0


def test_the_token_is_not_sent_to_a_server_of_another_authority(
    server: FakeServer, folder: Path
) -> None:
    honest = JoinString.parse(server.join_string)
    invitation = JoinString(honest.address, os.urandom(32), honest.token)
    with pytest.raises(UntrustedServerError):
        Client.join(invitation.encode(), directory=folder)
    assert server.calls["Enrol"] == 0 and not (folder / "identity").exists()


def test_a_server_that_shows_the_right_authority_without_being_certified_gets_no_token(
    server: FakeServer, serve: Serve, open_task: Task, folder: Path
) -> None:
    """It can repeat the public root, but has no key that the root vouches for."""
    liar = serve(open_task)
    seen: list[str] = []
    liar.before = lambda method, client: seen.append(method)
    pinned, liar.authority = liar.authority, server.authority
    invitation = JoinString(
        f"127.0.0.1:{liar.enrolment_port}",
        JoinString.parse(server.join_string).authority,
        server.token,
    )
    monkey = pytest.MonkeyPatch()
    monkey.setattr("fedclient.join._PATIENCE_S", 0.1)
    with pytest.raises(ConnectError):
        Client.join(invitation.encode(), directory=folder)
    monkey.undo()
    assert seen == ["Anchors"] and pinned is not server.authority


def test_an_enrolment_whose_answer_was_lost_gives_the_same_client(
    server: FakeServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*arguments: object) -> None:
        raise Crash

    monkeypatch.setattr(DeviceIdentity, "enrolled", crash)
    with pytest.raises(Crash):
        Client.join(server.join_string, directory=folder)
    monkeypatch.undo()
    with pytest.raises(ClientStateError):
        Client.open(folder)
    Client.join(server.join_string, directory=folder).close()
    assert server.calls["Enrol"] == 2 and len(server.uses) == 1


def test_a_member_does_not_join_again_until_its_certificate_has_expired(
    server: FakeServer, folder: Path
) -> None:
    server.lifetime = timedelta(minutes=-1)
    with Client.join(server.join_string, directory=folder) as device:
        first = device.membership
        key = device._identity.signing.certificate.key
    server.lifetime = timedelta(days=1)
    with Client.join(server.join_string, directory=folder) as device:
        assert device.membership.client_id != first.client_id
        assert device._identity.signing.certificate.key == key
    with pytest.raises(ClientStateError, match="member already"):
        Client.join(server.join_string, directory=folder)


def test_a_token_that_does_not_count_is_told_as_such(server: FakeServer, folder: Path) -> None:
    server.token, known = os.urandom(32), server.token
    stale = JoinString.parse(server.join_string)
    server.token = known
    with pytest.raises(TokenError):
        Client.join(stale.encode(), directory=folder)


@pytest.mark.parametrize(
    ("address", "wanted"),
    [("no-such-host.invalid:7443", HostNameError), ("127.0.0.1:1", UnreachableError)],
)
def test_an_address_where_nobody_is(folder: Path, address: str, wanted: type[ConnectError]) -> None:
    invitation = JoinString(address, bytes(32), bytes(32))
    with pytest.raises(wanted):
        Client.join(invitation.encode(), directory=folder)


def test_a_damaged_join_string_touches_nothing(folder: Path) -> None:
    with pytest.raises(JoinStringError):
        Client.join("fed1.nonsense", directory=folder)
    assert not folder.exists()


def test_certificates_of_another_key_are_not_taken(server: FakeServer, folder: Path) -> None:
    answered = server._certified

    def another(request: object, client_id: bytes) -> tuple[list[bytes], bytes]:
        _, certificate = answered(request, client_id)
        return [server.authority.der], certificate

    server._certified = another  # type: ignore[method-assign]
    with pytest.raises(ClientCertificateError):
        Client.join(server.join_string, directory=folder)


def test_a_registrar_that_certified_another_client_is_not_believed(
    server: FakeServer, folder: Path
) -> None:
    answered = server._certified

    def another(request: object, client_id: bytes) -> tuple[list[bytes], bytes]:
        chain, _ = answered(request, client_id)
        key = request.identity_key  # type: ignore[attr-defined]
        return chain, server.registrar.issue(bytes(16), key, expires=2**40).encode()

    server._certified = another  # type: ignore[method-assign]
    with pytest.raises(ClientCertificateError):
        Client.join(server.join_string, directory=folder)
