"""Whoever has devices gets the trained model onto them: the newest, whole, of a bounded size."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedclient import Client, Policy, Progress
from fedclient.commands import main
from fedclient.model import download_for
from fedcore.checkpoint import load_checkpoint
from fedcore.data import Dataset
from fedcore.errors import DataFormatError, DevicePolicyError, NotFoundError, TransferError
from fedcore.federated.task import Task
from tests.client.devices import Crash, Crasher, run_all
from tests.client.server import FakeServer

MIB = 2**20


@pytest.fixture
def server(serve: Callable[..., FakeServer], open_task: Task) -> FakeServer:
    found = serve(open_task, goal=1)
    found.newest = found.digest
    return found


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "model[1].safetensors"


def trained(server: FakeServer, size: int) -> bytes:
    """Makes the newest model one of `size` bytes."""
    data = os.urandom(size)
    server.newest = hashlib.sha256(data).digest()
    server.models[server.newest] = data
    return data


def fetch(
    folder: Path, output: Path, *, tell: Callable[[Progress], None] = lambda progress: None
) -> None:
    download_for(folder, "t1", output, policy=Policy(), tell=tell)


def test_a_file_that_holds_another_model_than_the_tasks_is_not_read(
    server: FakeServer, folder: Path, output: Path
) -> None:
    trained(server, 1000)
    with (
        Client.join(server.join_string, directory=folder) as device,
        pytest.raises(DataFormatError),
    ):
        device.model("t1", output)


def test_the_newest_model_is_a_checkpoint_that_can_be_read(
    server: FakeServer, folder: Path, output: Path, flowers: Callable[[int], Dataset]
) -> None:
    with Client.join(server.join_string, directory=folder) as device:
        run_all([device], flowers)  # also of a task whose last round is over
        arrays = device.model("t1", output)
        [charge] = device.charges()
    assert output.read_bytes() == server.models[server.digest]
    saved = load_checkpoint(output).arrays
    assert {name: array.shape for name, array in arrays.items()} == {
        "layers.0.weight": (4, 3),
        "layers.0.bias": (3,),
    }
    assert all(np.array_equal(array, saved[name]) for name, array in arrays.items())
    # Of an assignment it is no cost, and beside the file nothing is left.
    assert charge.bytes_down == len(server.models[server.digest])
    assert {path.name for path in output.parent.iterdir()} == {output.name, folder.name}


def test_the_command_works_while_another_process_takes_part(
    server: FakeServer, folder: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = trained(server, 3 * MIB // 2)
    where = ["--output", str(output), "--directory", str(folder)]
    with Client.join(server.join_string, directory=folder):
        assert main(["model", "t1", *where, "--format", "json"]) == 0
        shown: Any = json.loads(capsys.readouterr().out)["data"]
        assert main(["model", "t1", *where]) == 0
        assert output.name in capsys.readouterr().out
    assert output.read_bytes() == data
    assert (shown["digest"], shown["bytes"]) == (server.newest.hex(), len(data))
    assert server.calls["GetChunk"] == 2  # what is here already is not fetched again


def test_what_had_come_before_a_crash_is_not_fetched_again(
    server: FakeServer, folder: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = trained(server, 3 * MIB)
    crasher = Crasher("client.mid_download", hit=2).install(monkeypatch)
    told: list[Progress] = []
    Client.join(server.join_string, directory=folder).close()
    with pytest.raises(Crash):
        fetch(folder, output)
    assert crasher.crashed and not output.exists()
    fetch(folder, output, tell=told.append)
    assert output.read_bytes() == data
    assert [progress.share for progress in told] == [1.0]


def test_what_came_of_an_older_model_does_not_stay(
    server: FakeServer, folder: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(server, 3 * MIB)
    Crasher("client.mid_download").install(monkeypatch)
    Client.join(server.join_string, directory=folder).close()
    with pytest.raises(Crash):
        fetch(folder, output)
    assert len(list(output.parent.glob("*.part"))) == 1
    data = trained(server, 100)
    fetch(folder, output)
    assert output.read_bytes() == data and not list(output.parent.glob("*.part"))


def test_a_model_larger_than_the_owner_allows_is_not_fetched(
    server: FakeServer, folder: Path, output: Path
) -> None:
    trained(server, 101)
    policy = Policy.parse("[budget]\nlargest_download = 100")
    with (
        Client.join(server.join_string, directory=folder) as device,
        pytest.raises(DevicePolicyError) as caught,
    ):
        device.model("t1", output, policy=policy)
    assert caught.value.where == "budget.largest_download"
    assert server.calls["GetChunk"] == 0 and not output.exists()


def test_a_task_without_a_model_and_one_that_there_is_not_are_told_apart(
    server: FakeServer, folder: Path, output: Path
) -> None:
    server.newest = b""
    output.write_bytes(b"kept")

    def refuse(method: str, client: bytes) -> None:
        if method == "GetTask":
            raise NotFoundError("there is no such task")

    with Client.join(server.join_string, directory=folder) as device:
        with pytest.raises(NotFoundError, match="no model yet"):
            device.model("t1", output)
        server.before = refuse
        with pytest.raises(NotFoundError, match="no such task"):
            device.model("t2", output)
    assert output.read_bytes() == b"kept" and server.calls["GetChunk"] == 0


@pytest.mark.parametrize("newest", [b"short", None])
def test_a_server_that_sends_another_model_replaces_nothing(
    server: FakeServer, folder: Path, output: Path, newest: bytes | None
) -> None:
    trained(server, 100)
    server.models[server.newest] = bytes(100)
    server.newest = newest or server.newest
    output.write_bytes(b"kept")
    with (
        Client.join(server.join_string, directory=folder) as device,
        pytest.raises(TransferError),
    ):
        device.model("t1", output)
    assert output.read_bytes() == b"kept" and not list(output.parent.glob(".*"))


def test_a_device_that_was_off_for_long_renews_its_certificate_for_it(
    server: FakeServer, folder: Path, output: Path
) -> None:
    server.lifetime = timedelta(minutes=-1)
    Client.join(server.join_string, directory=folder).close()
    server.lifetime = timedelta(days=1)
    assert main(["model", "t1", "--output", str(output), "--directory", str(folder)]) == 0
    assert output.read_bytes() == server.models[server.digest]
    assert server.calls["Reissue"] == server.calls["GetChunk"] == 1
