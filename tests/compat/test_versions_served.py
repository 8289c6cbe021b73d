"""A device whose version is not served any more is told so, and what to install."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from fedclient import Client
from fedcore.errors import VersionError
from fedcore.wire.failures import error_from
from fedcore.wire.versions import check_version
from fedserver.authority import Authority
from tests.chaos.tasks import DATASET, data_of, task_of, written
from tests.client.server import FakeServer
from tests.compat.session import Exchange, Session
from tests.server.serving.conftest import World, a_world

LATER = "0.9.0"  # which serves those from 0.7.0 on
OLDEST = "0.7.0"


def recorded(call: str) -> Exchange:
    [found] = [one for one in Session.load("open").exchanges if one.call == call]
    return found


@pytest.fixture
async def later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """A server of a later release."""
    monkeypatch.setattr("fedserver.app.installed_version", lambda: LATER)
    authority = Authority.create(tmp_path / "ca", trust_domain="fl.test", now=int(time.time()))
    async with a_world(tmp_path, authority) as world:
        yield world


@pytest.mark.parametrize("call", ["ClientService.CheckIn", "EnrolmentService.Enrol"])
async def test_a_recorded_request_that_came_too_late_is_refused_with_the_version_to_install(
    later: World, call: str
) -> None:
    enrolment = call.startswith("Enrolment")
    holder = None if enrolment else await later.client(client_id=b"c" * 16)
    method = f"/fedcore.v1.{call.replace('.', '/')}"
    code, _, failed = await later.call(holder, method, recorded(call).request, enrolment=enrolment)
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    error = error_from(failed)
    assert isinstance(error, VersionError) and error.retry is None
    assert error.code == "FED-2110"
    assert "too old" in error.what and OLDEST in error.why
    assert error.fix == f"update the client to {OLDEST} or newer"
    check_version(OLDEST, server=LATER)


@pytest.mark.slow
def test_the_device_ends_and_says_what_to_install(tmp_path: Path) -> None:
    server = FakeServer(task_of("later", clients=1, secure=False), goal=1).start()
    try:
        Client.join(server.join_string, directory=tmp_path / "old", name="old").close()

        def refuse(method: str, client: bytes) -> None:
            check_version("0.1.0", server=LATER)

        server.before = refuse
        [data] = written({"old": data_of("old")}, tmp_path / "data")
        code = "import sys; from fedcore.cli import main; sys.exit(main(sys.argv[1:]))"
        run = ["client", "run", "--directory", str(tmp_path / "old"), "--data", f"{DATASET}={data}"]
        done = subprocess.run(
            [sys.executable, "-c", code, *run],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    finally:
        server.stop()
    assert done.returncode != 0
    assert "FED-2110" in done.stderr and f"update the client to {OLDEST} or newer" in done.stderr


@pytest.mark.parametrize(
    ("client", "maximum", "named"),
    [("2.0.0", "", "version 0"), ("0.9.0", "0.8.3", "0.8.3"), ("2.0.0", "1.0.0", "version 0")],
)
def test_a_client_that_is_too_new_is_told_the_newest_that_is_served(
    client: str, maximum: str, named: str
) -> None:
    with pytest.raises(VersionError) as caught:
        check_version(client, server=LATER, maximum=maximum)
    assert f"{named} or older" in caught.value.fix
