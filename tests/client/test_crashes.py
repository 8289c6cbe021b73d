"""Whenever a program dies and starts again, the sum is exact, and nothing is given twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedclient import Client, Outcome
from fedclient.state import State
from fedcore.data import Dataset
from fedcore.errors import UnreachableError
from fedcore.federated.contribution import Contributor
from fedcore.federated.programs import TrainingRequest
from fedcore.federated.task import Task
from tests.client.devices import Crasher, join, reopened, run_all
from tests.client.server import FakeServer
from tests.variants import mostly_slow

Serve = Callable[..., FakeServer]
Flowers = Callable[[int], Dataset]
PLACES = (
    "client.mid_upload",
    "client.mid_download",
    "client.after_checkin",
    "client.before_upload",
    "client.after_upload",
    "client.before_report",
)
# Prekey; roster, shares; mask request; release, digests; confirmation; tombstone, without answer.
RECORDS = 9
DEVICES = 4  # as few as a masked round of this task may have


@pytest.fixture(scope="module")
def total(open_task: Task, flowers: Flowers) -> list[np.ndarray]:
    """What all devices' vectors add up to."""
    from fedcore.federated.models import initial_theta
    from fedcore.federated.training import stream_of

    blocks = [
        Contributor(open_task).contribute(
            TrainingRequest(
                task=open_task,
                theta=initial_theta(open_task),
                dataset=flowers(i),
                round=0,
                stream=stream_of(f"device-{i}"),
            )
        )
        for i in range(DEVICES)
    ]
    return [np.sum(column, axis=0) for column in zip(*blocks, strict=True)]


def crash_and_go_on(
    server: FakeServer, folder: Path, flowers: Flowers, crasher: Crasher
) -> list[Client]:
    devices = join(server, folder, DEVICES)
    found = run_all(devices, flowers, restart=reopened)
    assert crasher.crashed
    assert all(summary.outcome is Outcome.COMPLETED for [summary] in found)
    return devices


def check(server: FakeServer, devices: list[Client], total: list[np.ndarray]) -> None:
    [found] = server.totals
    assert all(np.array_equal(a, b) for a, b in zip(found, total, strict=True))
    assert len(server.seats) == DEVICES
    for seat in server.seats.values():
        assert seat.upload is not None and seat.report is not None and not seat.report.failure
        # Pieces on their way when a program dies may come again, the same; nothing else does.
        assert len(seat.upload.pieces) == len(set(seat.upload.arrived))
    for device in devices:
        assert device.assignment is None
        assert not list((device._folder / "contributions").iterdir())
        device.close()


@pytest.mark.parametrize("place", mostly_slow(PLACES))
def test_a_crash_anywhere_in_an_open_round_changes_nothing(
    serve: Serve,
    open_task: Task,
    flowers: Flowers,
    total: list[np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    server = serve(open_task, goal=DEVICES)
    # A download runs in a thread without a name of its own: there any device may be the one.
    thread = "local work" if place == "client.mid_download" else "device-0"
    crasher = Crasher(place, thread=thread).install(monkeypatch)
    devices = crash_and_go_on(server, tmp_path, flowers, crasher)
    check(server, devices, total)


def masked(
    serve: Serve,
    task: Task,
    flowers: Flowers,
    total: list[np.ndarray],
    folder: Path,
    patch: pytest.MonkeyPatch,
    place: str,
    hit: int,
) -> None:
    server = serve(task, goal=DEVICES)
    crasher = Crasher(place, hit=hit, thread="device-0").install(patch)
    check(server, crash_and_go_on(server, folder, flowers, crasher), total)
    for key, data in server.posted.items():
        assert data == server.posted[key]


@pytest.mark.parametrize("hit", [6])
def test_a_crash_after_a_record_never_gives_a_second_vector(
    serve: Serve,
    secure_task: Task,
    flowers: Flowers,
    total: list[np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hit: int,
) -> None:
    place = "client.after_persist"
    masked(serve, secure_task, flowers, total, tmp_path, monkeypatch, place, hit)


@pytest.mark.slow
@pytest.mark.parametrize("hit", range(1, RECORDS + 1))
@pytest.mark.parametrize("place", ["before persist", "client.after_persist"])
def test_a_crash_before_or_after_any_record_never_gives_a_second_vector(
    serve: Serve,
    secure_task: Task,
    flowers: Flowers,
    total: list[np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    hit: int,
) -> None:
    masked(serve, secure_task, flowers, total, tmp_path, monkeypatch, place, hit)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["client.before_upload", "client.mid_upload"])
def test_a_crash_within_a_masked_upload_sends_the_same_bytes(
    serve: Serve,
    secure_task: Task,
    flowers: Flowers,
    total: list[np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    masked(serve, secure_task, flowers, total, tmp_path, monkeypatch, place, 1)


def test_the_vector_that_was_kept_is_the_one_that_is_given_whatever_training_would_find(
    serve: Serve,
    secure_task: Task,
    flowers: Flowers,
    total: list[np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As under privacy, where noise is drawn anew at every call."""
    contribute, calls = Contributor.contribute, []

    def another_each_time(self: Contributor, request: TrainingRequest) -> object:
        calls.append(request.stream)
        blocks = contribute(self, request)
        return tuple(block + calls.count(request.stream) - 1 for block in blocks)

    monkeypatch.setattr(Contributor, "contribute", another_each_time)
    masked(serve, secure_task, flowers, total, tmp_path, monkeypatch, "client.before_upload", 1)
    assert len(calls) == DEVICES


@pytest.mark.slow
def test_a_vector_that_was_lost_is_not_replaced_by_another(
    serve: Serve,
    secure_task: Task,
    flowers: Flowers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = serve(secure_task)
    devices = join(server, tmp_path, 5)
    Crasher("client.before_upload", thread="device-0").install(monkeypatch)

    def restart(device: Client) -> Client:
        device.close()
        for path in (tmp_path / "0" / "contributions").iterdir():
            path.unlink()
        server.wait_for(
            lambda: sum(bool(s.upload and s.upload.sealed) for s in server.present()) == 4
        )
        return Client.open(tmp_path / "0")

    def close_without_it() -> None:
        server.wait_for(
            lambda: any(seat.report and seat.report.failure for seat in server.seats.values()), 30
        )
        with server.lock:
            assert server.session is not None
            server.close(server.session.stage)

    from threading import Thread

    closer = Thread(target=close_without_it)
    closer.start()
    found = run_all(devices, flowers, restart=restart)
    closer.join()
    outcomes = [summary.outcome for [summary] in found]
    assert outcomes == [Outcome.FAILED] + [Outcome.COMPLETED] * 4
    [lost] = [seat for seat in server.seats.values() if seat.report and seat.report.failure]
    assert lost.upload is None
    for device in devices:
        device.close()


@pytest.mark.parametrize(
    "method",
    [
        "Commit",
        *[
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("Share", "Confirm", "Answer", "Begin")
        ],
    ],
)
def test_an_answer_that_was_lost_is_asked_for_again_with_the_same_bytes(
    serve: Serve,
    secure_task: Task,
    flowers: Flowers,
    total: list[np.ndarray],
    tmp_path: Path,
    method: str,
) -> None:
    server = serve(secure_task, goal=DEVICES)
    devices = join(server, tmp_path, DEVICES)
    lost: list[str] = []

    def faults(moment: str, called: str) -> None:
        if (moment, called) == ("after", method) and len(lost) < 2:
            lost.append(called)
            raise UnreachableError("the answer was lost")

    devices[0].close()
    devices[0] = Client(tmp_path / "0", faults=faults)
    found = run_all(devices, flowers)
    assert set(lost) == {method}
    assert all(summary.outcome is Outcome.COMPLETED for [summary] in found)
    check(server, devices, total)


def test_a_second_attempt_gets_no_vector_unless_the_owner_allows_it(
    serve: Serve, open_task: Task, flowers: Flowers, folder: Path
) -> None:
    server = serve(open_task, goal=1)
    server.retry_ms = (1, 5)
    with Client.join(server.join_string, directory=folder) as device:
        run_all([device], flowers)
        server.next_round(attempt=True)
        [[summary]] = run_all([device], flowers)
        assert summary.outcome is Outcome.REFUSED and "attempts" in summary.reason
        assert isinstance(device._state, State)
        assert device._state.given(open_task.digest) == {(0, 1)}
