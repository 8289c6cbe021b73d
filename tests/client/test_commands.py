"""`fed client` as an owner uses it, and what an edge install may load."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedclient import Client, Progress, Stage
from fedclient.bound_data import BoundData
from fedclient.commands import main
from fedcore.data import Dataset
from fedcore.errors import ArgumentError, ClientStateError, DatasetError, TaskError
from fedcore.federated.task import Task
from fedcore.v1 import round_service_pb2
from tests.client.devices import OPENLY
from tests.client.server import FakeServer

Serve = Callable[..., FakeServer]
RUN = "import sys; from fedclient.commands import main; sys.exit(main(sys.argv[1:]))"
WORKING = "numpy fedcore.federated fedcore.secagg fedcore.tensor fedcore.data cryptography.x509"
POLICY = '[secure_aggregation]\nprofile = "off"\n'


@pytest.fixture
def server(serve: Serve, open_task: Task) -> FakeServer:
    return serve(open_task, goal=1)


def output(capsys: pytest.CaptureFixture[str]) -> object:
    return json.loads(capsys.readouterr().out)["data"]


def test_from_a_join_string_to_a_round(
    server: FakeServer,
    folder: Path,
    flowers: Callable[[int], Dataset],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    in_folder = ["--directory", str(folder), "--format", "json"]
    assert main(["join", server.join_string, "--name", "writer-03", *in_folder]) == 0
    assert output(capsys)["name"] == "writer-03"  # type: ignore[index]
    data = flowers(0)
    np.savez(tmp_path / "flowers.npz", x=data.x, y=data.y)
    (tmp_path / "policy.toml").write_text(POLICY)
    arguments = ["--data", f"flowers={tmp_path / 'flowers.npz'}", "--rounds", "1"]
    policy = ["--policy", str(tmp_path / "policy.toml")]
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    try:
        assert main(["run", *arguments, *policy, *in_folder]) == 0
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])
    [summary] = output(capsys)  # type: ignore[misc]
    assert summary["outcome"] == "completed" and summary["energy"] in ("measured", "estimated")
    assert main(["status", *in_folder]) == 0
    status = output(capsys)
    assert status["working_on"] is None  # type: ignore[index]
    assert [charge["update_given"] for charge in status["charges"]] == [True]  # type: ignore[index]
    assert main(["doctor", *in_folder]) == 0
    assert all(finding["ok"] for finding in output(capsys))  # type: ignore[union-attr]
    server.stop()
    assert main(["doctor", *in_folder]) == 2
    assert output(capsys)[-1]["code"] == "FED-2312"  # type: ignore[index]


def test_the_status_is_told_while_another_process_takes_part(
    server: FakeServer, folder: Path, flowers: Callable[[int], Dataset], capsys: Any
) -> None:
    shown: list[Any] = []

    def look(progress: Progress) -> None:
        if progress.stage is Stage.UPLOADING and not shown:
            assert main(["status", "--directory", str(folder)]) == 0
            assert "works on" in capsys.readouterr().out
            assert main(["status", "--directory", str(folder), "--format", "json"]) == 0
            shown.append(output(capsys))

    with Client.join(server.join_string, directory=folder, name="ward-3") as device:
        device.run(datasets={"flowers": flowers(0)}, policy=OPENLY, on_progress=look, rounds=1)
        [status] = shown
        assert status["name"] == "ward-3" and status["certificate_until"].endswith("UTC")
        assert status["working_on"]["round"] == 0
        assert [charge["outcome"] for charge in status["charges"]] == ["open"]


def test_data_come_from_files_or_from_a_function_of_the_owner(
    flowers: Callable[[int], Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedclient.commands import _setup

    (tmp_path / "a.csv").write_text("w,h,kind\n1,2,0\n3,4,1\n")
    (tmp_path / "b.csv").write_text("w,h\n1,0.5\n3,4\n")
    files = {"a": tmp_path / "a.csv", "b": tmp_path / "b.csv"}
    found = BoundData(files, {"c": flowers(0)})
    assert sorted(found) == ["a", "b", "c"] and len(found) == 3 and "d" not in found
    assert found["a"].x.tolist() == [[1, 2], [3, 4]] and found["a"].y.dtype == np.int64
    assert found["b"].y.dtype == np.float32 and len(found["c"]) == len(flowers(0))
    assert found["a"] is found["a"] and sorted(found) == ["a", "b", "c"]
    (tmp_path / "my_devices.py").write_text("def setup():\n    return {'a': 1}, {'b': 2}\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert _setup("my_devices:setup") == ({"a": 1}, {"b": 2})
    for name in ("my_devices:other", "no_such_module:setup", ":", ""):
        with pytest.raises(ArgumentError):
            _setup(name)


def test_a_file_that_holds_no_data_is_refused_at_once_and_a_damaged_one_when_it_is_read(
    tmp_path: Path,
) -> None:
    np.savez(tmp_path / "others.npz", features=np.zeros(3))
    (tmp_path / "text.npz").write_text("no archive")
    for path in ("others.npz", "text.npz", "none.npz", "none.csv", "what.txt"):
        with pytest.raises(ArgumentError, match="flowers"):
            BoundData({"flowers": tmp_path / path}, {})
    np.savez(tmp_path / "objects.npz", x=np.array([None]), y=np.zeros(1))
    bound = BoundData({"flowers": tmp_path / "objects.npz"}, {})
    for _ in range(2):
        with pytest.raises(DatasetError, match="flowers"):
            bound["flowers"]


def test_neither_a_pipe_nor_a_damaged_archive_nor_a_name_that_is_none_stops_a_device(
    tmp_path: Path,
) -> None:
    paths = [tmp_path / name for name in ("pipe.npz", "pipe.csv", "a\0b.npz", "a\0b.csv")]
    for pipe in paths[:2]:
        os.mkfifo(pipe)
    np.savez(tmp_path / "whole.npz", x=np.zeros((2, 2)), y=np.zeros(2))
    whole = (tmp_path / "whole.npz").read_bytes()
    entry = whole.index(b"PK\1\2")  # of the central directory: the version, and how names are coded
    for number, (place, byte) in enumerate([(6, 99), (9, 8)]):
        damaged = bytearray(whole)
        damaged[entry + place] = byte
        damaged[entry + 46] = 0xFF
        paths.append(tmp_path / f"{number}.npz")
        paths[-1].write_bytes(damaged)
    for path in paths:
        with pytest.raises(ArgumentError, match="--data flowers: the file"):
            BoundData({"flowers": path}, {})


@pytest.mark.parametrize("arguments", [["status"], ["doctor"], ["run", "--data"]])
def test_without_a_membership_nothing_works(
    folder: Path, arguments: list[str], flowers: Callable[[int], Dataset], tmp_path: Path
) -> None:
    np.savez(tmp_path / "flowers.npz", x=flowers(0).x, y=flowers(0).y)
    if arguments[-1] == "--data":
        arguments = [*arguments, f"flowers={tmp_path / 'flowers.npz'}"]
    with pytest.raises(ClientStateError, match="no member"):
        main([*arguments, "--directory", str(folder)])


def test_mistakes_of_arguments_are_told_before_anything_happens(folder: Path) -> None:
    for arguments in (["run", "--data", "x"], ["run", "--rounds", "0"], ["fly"], []):
        with pytest.raises(ArgumentError):
            main([*arguments, *(["--directory", str(folder)] if arguments else [])])
    assert not folder.exists()


def test_a_run_to_which_no_data_are_bound_ends_before_it_begins(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bare_devices.py").write_text("def setup():\n    return {}, {'mine': None}\n")
    monkeypatch.syspath_prepend(tmp_path)
    for arguments in ([], ["--setup", "bare_devices:setup"]):
        with pytest.raises(ArgumentError) as caught:
            main(["run", *arguments, "--directory", str(folder)])
        assert "--data" in caught.value.fix and "--setup" in caught.value.fix


def test_a_policy_that_cannot_be_read_stops_everything(folder: Path) -> None:
    with pytest.raises(TaskError):
        main(["run", "--policy", str(folder / "none.toml"), "--directory", str(folder)])


def test_failpoints_are_armed_only_in_the_test_mode(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDCORE_FAILPOINTS", "client.after_checkin=kill")
    with pytest.raises(ArgumentError, match="failpoints"):
        main(["run", "--directory", str(folder)])


@pytest.mark.slow
def test_a_client_process_that_is_killed_and_one_that_is_asked_to_end(
    server: FakeServer, folder: Path, flowers: Callable[[int], Dataset], tmp_path: Path
) -> None:
    main(["join", server.join_string, "--directory", str(folder)])
    np.savez(tmp_path / "flowers.npz", x=flowers(0).x, y=flowers(0).y)
    (tmp_path / "policy.toml").write_text(POLICY)
    command = [
        *(sys.executable, "-c", RUN, "run", "--test-mode"),
        *("--directory", str(folder), "--policy", str(tmp_path / "policy.toml")),
        *("--data", f"flowers={tmp_path / 'flowers.npz'}", "--format", "json"),
    ]
    killed = subprocess.run(
        command,
        env={**os.environ, "FEDCORE_FAILPOINTS": "client.before_upload=kill"},
        capture_output=True,
        timeout=60,
    )
    assert killed.returncode == -signal.SIGKILL
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    asked = server.calls["CheckIn"]
    server.wait_for(lambda: any(seat.report for seat in server.seats.values()), 60)
    server.wait_for(lambda: server.calls["CheckIn"] > asked)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    [summary] = json.loads(out)["data"]
    assert summary["outcome"] == "completed" and len(server.seats) == 1


FORBIDDEN = (
    *("alembic", "pydantic", "rich", "safetensors", "scipy", "sklearn", "sqlalchemy", "starlette"),
    *("structlog", "typer", "uvicorn", "prometheus_client", "asyncio", "fedserver"),
)


def test_a_device_that_waits_loads_nothing_for_work_and_reads_no_certificate(
    server: FakeServer, folder: Path, flowers: Callable[[int], Dataset], tmp_path: Path
) -> None:
    server.end(round_service_pb2.Finished.OUTCOME_COMPLETED)
    server.retry_ms = (60_000, 60_000)
    Client.join(server.join_string, directory=folder).close()
    np.savez(tmp_path / "flowers.npz", x=flowers(0).x, y=flowers(0).y)
    text = (
        "import sys\n"
        "from pathlib import Path\n"
        "from fedclient import Client, Stage\n"
        "from fedclient.bound_data import BoundData\n"
        f"client = Client.open({str(folder)!r})\n"
        f"bound = BoundData({{'flowers': Path({str(tmp_path / 'flowers.npz')!r})}}, {{}})\n"
        "def tell(progress):\n"
        "    assert progress.stage is Stage.WAITING\n"
        "    client.stop()\n"
        "client.run(datasets=bound, on_progress=tell)\n"
        f"print([name for name in {WORKING.split()!r} if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60)
    assert found.stdout.strip() == "[]", found.stderr
    assert server.calls["CheckIn"] == 1


def test_an_edge_install_loads_nothing_that_it_has_not() -> None:
    text = (
        "import sys, fedclient, fedclient.commands, fedclient.doctor, fedclient.attempt\n"
        "import fedcore.federated.contribution, fedcore.federated.task\n"
        f"print([name for name in {FORBIDDEN[:-2]!r} if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60)
    assert found.stdout.strip() == "[]", found.stderr


def test_to_import_the_client_loads_neither_grpc_nor_what_works_with_numbers() -> None:
    unwanted = ["grpc", "google.protobuf", *WORKING.split()]
    text = f"import sys, fedclient\nprint([name for name in {unwanted!r} if name in sys.modules])"
    began = time.monotonic()
    found = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60)
    assert found.stdout.strip() == "[]", found.stderr
    assert time.monotonic() - began < 30
