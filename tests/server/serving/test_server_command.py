"""`fed server`: a process starts, is asked, drains and stops."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedcore.console import ExitCode, exit_code
from fedcore.errors import ArgumentError, KeyFileError, UnreachableError
from fedserver.commands import server as commands
from fedserver.commands.ca import main as ca
from fedserver.commands.server import main as server
from fedserver.profiles import Profile


def start_command(place: Path) -> list[str]:
    code = "import sys; from fedcore.cli import main; sys.exit(main(sys.argv[1:]))"
    return [sys.executable, "-c", code, "server", "start", "--config", f"{place}/server.toml"]


class Running:
    """A server process, and the line that it printed when it served."""

    def __init__(self, place: Path, *options: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [*start_command(place), "--format", "jsonl", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.said = json.loads(line)["data"] if line else {}

    def end(self) -> tuple[int, str]:
        """The exit code and standard error after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def served(place: Path, *options: str, **environment: str) -> Running:
    """One that serves; if it does not, the test says why."""
    running = Running(place, *options, **environment)
    if not running.said:
        pytest.fail(running.process.communicate(timeout=60)[1])
    return running


def handshake(address: str, version: ssl.TLSVersion) -> str | None:
    """What version a port speaks with a client that offers this one at most."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as raw,
        context.wrap_socket(raw) as secured,
    ):
        return secured.version()


@pytest.mark.parametrize("answer", [b"", b"hello\r\n", b"HTTP/1.0 200 OK\r\n\r\nhello", None])
def test_where_no_server_answers_there_is_no_connection(
    answer: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        monkeypatch.setenv("FEDCORE__SERVER__OPS_PORT", str(port))

        def reply() -> None:
            with listener.accept()[0] as caller:
                caller.recv(4096)
                caller.sendall(answer or b"")

        if answer is None:
            listener.close()
        else:
            threading.Thread(target=reply, daemon=True).start()
        with pytest.raises(UnreachableError, match="no server answers") as caught:
            server(["status"])
    assert exit_code(caught.value) == ExitCode.CONNECTION


def test_who_waits_for_a_server_is_answered_as_soon_as_it_takes_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def answered(url: str) -> dict[str, object]:
        if (step := next(steps)) == "away":
            raise ConnectionRefusedError("nobody listens")
        return {"ready": step == "ready", "reasons": ["it begins"], "version": "1"}

    clock = SimpleNamespace(
        monotonic=lambda: slept[0], sleep=lambda s: slept.append(slept.pop() + s)
    )
    monkeypatch.setattr(commands, "_asked", answered)
    monkeypatch.setattr(commands, "time", clock)
    steps, slept = iter(["away", "away", "begins", "ready"]), [0.0]
    assert server(["status", "--wait", "2s"]) == 0
    found = capsys.readouterr()
    assert found.out == "ready\n" and found.err == "" and 0.5 < slept[0] < 0.7
    steps, slept = repeat("away"), [0.0]
    with pytest.raises(UnreachableError, match="nor has one for 2 s"):
        server(["status", "--wait", "2s"])
    assert 2.0 <= slept[0] < 2.5
    steps, slept = repeat("begins"), [0.0]
    assert server(["status", "--wait", "2s"]) == 1
    with pytest.raises(ArgumentError, match="no length of time"):
        server(["status", "--wait", "soon"])


def test_a_server_starts_is_asked_speaks_tls_13_alone_drains_and_stops(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    running = served(place)
    try:
        for port in ("service", "enrolment"):
            with pytest.raises(OSError):
                handshake(running.said[port], ssl.TLSVersion.TLSv1_2)
            assert handshake(running.said[port], ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
        if hasattr(os, "SCHED_BATCH"):
            assert os.sched_getscheduler(running.process.pid) == os.SCHED_BATCH
        monkeypatch.setenv("FEDCORE__SERVER__OPS_PORT", str(running.said["ops"]))
        status = ["status", "--config", f"{place}/server.toml", "--format", "json"]
        assert server(status) == 0
        assert json.loads(capsys.readouterr().out)["data"]["ready"] is True
        issue = ["issue", "--name", "ada", "--role", "operator", "--output", f"{place}/ada"]
        ca([*issue, "--address", running.said["service"], "--directory", f"{place}/ca"])
        monkeypatch.setenv("FEDCORE_PROFILE", f"{place}/ada")
        server(["drain"])
        capsys.readouterr()
        assert server(status) == 1
        reasons = json.loads(capsys.readouterr().out)["data"]["reasons"]
        assert reasons == ["the server is draining"]
        assert server([*status, "--alive"]) == 0
        capsys.readouterr()
        code, errors = running.end()
        assert code == 0
        # Every line is JSON: what was refused above has put no word of a library between them.
        events = [json.loads(line)["event"] for line in errors.splitlines()]
        assert events == ["serving", "draining", "stopping", "stopped"]
        for gone in (status, [*status, "--alive"]):
            with pytest.raises(UnreachableError, match="no server answers"):
                server(gone)
    finally:
        running.kill()
    assert (place / "state" / "audit-head.bin").stat().st_size > 64


@pytest.mark.slow
def test_a_server_that_was_killed_starts_again_as_the_same_server(place: Path) -> None:
    first = served(place)
    first.kill()
    second = served(place)
    try:
        assert second.said["server_id"] == first.said["server_id"]
        assert second.end()[0] == 0
    finally:
        second.kill()


@pytest.mark.slow
def test_failpoints_are_refused_outside_of_the_test_mode(place: Path) -> None:
    spec = {"FEDCORE_FAILPOINTS": "store.before_commit=sleep(1)"}
    refused = Running(place, **spec)
    _, errors = refused.process.communicate(timeout=60)
    assert refused.said == {} and "test mode" in errors
    taken = served(place, "--test-mode", **spec)
    try:
        assert taken.end()[0] == 0
    finally:
        taken.kill()


@pytest.mark.slow
def test_the_slow_parser_of_protobuf_is_refused(place: Path) -> None:
    refused = Running(place, PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION="python")
    _, errors = refused.process.communicate(timeout=60)
    assert refused.said == {} and "only upb" in errors and refused.process.returncode == 1


@pytest.mark.parametrize("name", ["profile.toml", "key.pem", "chain.pem", "identity.key"])
def test_a_profile_that_is_not_whole_is_told(place: Path, name: str) -> None:
    issue = ["issue", "--name", "ada", "--role", "viewer", "--output", f"{place}/ada"]
    ca([*issue, "--address", "localhost:1", "--directory", f"{place}/ca"])
    assert Profile.open(place / "ada").address == "localhost:1"
    assert "PRIVATE" not in repr(Profile.open(place / "ada"))
    if name == "profile.toml":
        (place / "ada" / name).chmod(0o600)
        (place / "ada" / name).write_text('address = "localhost:1"\n')
    else:
        (place / "ada" / name).unlink()
    with pytest.raises(KeyFileError):
        Profile.open(place / "ada")
