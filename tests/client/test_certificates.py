"""A device stays certified while it takes part, and after it was off for longer than that."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fedclient import Client, Outcome
from fedclient.identity import DeviceIdentity, Tls, signing_request
from fedcore.data import Dataset
from fedcore.errors import OverloadedError, UnauthenticatedError
from fedcore.federated.task import Task
from tests.client.devices import Crasher, run_all
from tests.client.server import FakeServer

Serve = Callable[..., FakeServer]
Flowers = Callable[[int], Dataset]


def test_certificates_are_renewed_between_rounds(
    serve: Serve, open_task: Task, flowers: Flowers, folder: Path
) -> None:
    server = serve(open_task, goal=1)
    server.lifetime = timedelta(seconds=20 * 60)  # begun an hour ago: two thirds are over
    device = Client.join(server.join_string, directory=folder)
    before, old = device.certificate_expires, device.membership.certificate
    server.lifetime = timedelta(days=1)
    run_all([device], flowers)
    assert device.certificate_expires > before and server.calls["Renew"] == 1
    assert device.membership.certificate[:48] == old[:48]
    device.close()


def test_a_device_that_was_off_for_longer_than_its_certificate_takes_part_again(
    serve: Serve, open_task: Task, flowers: Flowers, folder: Path
) -> None:
    server = serve(open_task, goal=1)
    server.lifetime = timedelta(minutes=-1)
    with Client.join(server.join_string, directory=folder) as device:
        before = device.membership
    server.lifetime = timedelta(days=1)
    with Client.open(folder) as device:
        [[summary]] = run_all([device], flowers)
        after = device.membership
    assert summary.outcome is Outcome.COMPLETED
    assert (server.calls["Reissue"], server.calls["Renew"], server.calls["Enrol"]) == (1, 0, 1)
    assert after.certificate[:48] == before.certificate[:48]  # the same client and key


def test_a_device_whose_certificate_expired_under_an_assignment_goes_on_with_it(
    serve: Serve,
    open_task: Task,
    flowers: Flowers,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = serve(open_task, goal=1)
    device = Client.join(server.join_string, directory=folder)
    Crasher("client.after_checkin").install(monkeypatch)

    def reopened_later(device: Client) -> Client:
        device.close()
        identity = DeviceIdentity(folder / "identity")
        key = ec.generate_private_key(ec.SECP256R1())
        chain = server.authority.client(
            signing_request(key), identity.membership.client_id, ends=timedelta(minutes=-1)
        )
        identity.renewed(Tls.certified(key, chain), identity.membership.certificate)
        return Client.open(folder)

    [[summary]] = run_all([device], flowers, restart=reopened_later)
    assert summary.outcome is Outcome.COMPLETED
    assert (server.calls["Reissue"], server.calls["CheckIn"]) == (1, 1)


def test_a_device_that_was_forgotten_while_its_certificate_expired_is_told_so(
    serve: Serve, open_task: Task, flowers: Flowers, folder: Path
) -> None:
    server = serve(open_task, goal=1)
    server.lifetime = timedelta(minutes=-1)
    with Client.join(server.join_string, directory=folder) as device:
        server.keys.clear()
        with pytest.raises(UnauthenticatedError):
            device.run(datasets={"flowers": flowers(0)}, rounds=1)
    assert server.calls["CheckIn"] == 0


def test_a_device_whose_certificate_counts_no_more_gets_another_and_goes_on(
    serve: Serve, open_task: Task, flowers: Flowers, folder: Path
) -> None:
    """As after the key that signed it was retired: the server knows the device's own key still."""
    server = serve(open_task, goal=1)
    with Client.join(server.join_string, directory=folder) as device:
        before = device.membership

        def retired(method: str, client: bytes) -> None:
            if client and not server.calls["Reissue"]:
                raise UnauthenticatedError("a certificate does not say who sends the request")

        server.before = retired
        [[summary]] = run_all([device], flowers)
        after = device.membership
    assert summary.outcome is Outcome.COMPLETED
    assert (server.calls["Reissue"], server.calls["Enrol"]) == (1, 1)
    assert after.client_id == before.client_id and after.begins >= before.begins


def test_a_device_waits_for_an_enrolment_port_that_does_not_answer_before_it_gets_another(
    serve: Serve, open_task: Task, flowers: Flowers, folder: Path
) -> None:
    server, asked = serve(open_task, goal=1), []

    def retired(method: str, client: bytes) -> None:
        if method == "Reissue":
            asked.append(method)
            if len(asked) < 3:
                raise OverloadedError("too many ask at once", retry=(10, 20))
        elif client and not server.calls["Reissue"]:
            raise UnauthenticatedError("a certificate does not say who sends the request")

    with Client.join(server.join_string, directory=folder) as device:
        server.before = retired
        [[summary]] = run_all([device], flowers)
    assert summary.outcome is Outcome.COMPLETED and len(asked) == 3


def test_a_device_that_was_revoked_gets_no_other_certificate_and_is_told_why(
    serve: Serve, open_task: Task, flowers: Flowers, folder: Path
) -> None:
    server = serve(open_task, goal=1)
    with Client.join(server.join_string, directory=folder) as device:
        server.revoked.add(device.membership.client_id)
        with pytest.raises(UnauthenticatedError, match="revoked"):
            device.run(datasets={"flowers": flowers(0)}, rounds=1)
    assert (server.calls["CheckIn"], server.calls["Reissue"]) == (1, 1)


def test_a_device_asks_once_for_another_certificate_where_that_is_not_taken_either(
    serve: Serve, open_task: Task, flowers: Flowers, folder: Path
) -> None:
    server = serve(open_task, goal=1)

    def nobody(method: str, client: bytes) -> None:
        if client:
            raise UnauthenticatedError("a certificate does not say who sends the request")

    with Client.join(server.join_string, directory=folder) as device:
        server.before = nobody
        with pytest.raises(UnauthenticatedError, match="does not say who"):
            device.run(datasets={"flowers": flowers(0)}, rounds=1)
    assert server.calls["Reissue"] == 1
