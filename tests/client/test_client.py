"""Devices go through whole rounds against a real gRPC server, masked and openly."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from fedclient import Client, Outcome, Policy, Progress, Stage
from fedclient.policy import BudgetRules, TimeRules
from fedcore.data import Dataset
from fedcore.errors import (
    ClientStateError,
    ConflictError,
    DrainingError,
    OverloadedError,
)
from fedcore.federated.task import Task
from fedcore.v1 import common_pb2, round_service_pb2
from tests.client.devices import OPENLY, Crash, Crasher, join, reopened, run_all
from tests.client.server import FakeServer

Serve = Callable[..., FakeServer]
Flowers = Callable[[int], Dataset]


@pytest.mark.slow
def test_masked_and_open_sums_are_equal_to_the_bit(
    serve: Serve, open_task: Task, secure_task: Task, flowers: Flowers, tmp_path: Path
) -> None:
    sums = []
    for name, task in (("open", open_task), ("secure", secure_task)):
        server = serve(task)
        devices = join(server, tmp_path / name, 5)
        found = run_all(devices, flowers)
        assert all(summary.outcome is Outcome.COMPLETED for [summary] in found)
        reports = [seat.report for seat in server.seats.values()]
        assert all(report is not None and report.bytes_up > 0 for report in reports)
        for device in devices:
            assert device.assignment is None
            device.close()
        sums.append(server.totals[0])
    assert all(np.array_equal(a, b) for a, b in zip(*sums, strict=True))
    assert any(np.any(block) for block in sums[0])


def test_rounds_follow_one_another_and_prekeys_are_new_each_time(
    serve: Serve, secure_task: Task, flowers: Flowers, tmp_path: Path
) -> None:
    server = serve(secure_task, goal=4)
    server.retry_ms = (1, 10)
    devices = join(server, tmp_path, 4)
    opener = Thread(
        target=lambda: (server.wait_for(lambda: 0 in server.ended), server.next_round())
    )
    opener.start()
    found = run_all(devices, flowers, rounds=2)
    opener.join()
    assert [[summary.round for summary in each] for each in found] == [[0, 1]] * 4
    posted = [data for key, data in server.posted.items() if key[3] == "Advertise"]
    assert len(set(posted)) == 8
    for device in devices:
        assert not [key for key in device._state.records() if key.startswith(("session", "prekey"))]
        device.close()


def test_a_second_process_cannot_open_the_same_folder(
    serve: Serve, open_task: Task, folder: Path
) -> None:
    server = serve(open_task)
    with (
        Client.join(server.join_string, directory=folder),
        pytest.raises(ClientStateError, match="in use"),
    ):
        Client.open(folder)


def test_a_retry_window_is_kept_across_a_restart(
    serve: Serve, open_task: Task, flowers: Flowers, folder: Path
) -> None:
    server = serve(open_task, goal=1)
    server.end(round_service_pb2.Finished.OUTCOME_COMPLETED)
    server.retry_ms = (60_000, 120_000)
    device = Client.join(server.join_string, directory=folder)
    waits: list[Progress] = []

    def until_waiting(device: Client) -> None:
        def tell(progress: Progress) -> None:
            if progress.stage is Stage.WAITING:
                waits.append(progress)
                device.stop()

        device.run(datasets={"flowers": flowers(0)}, policy=OPENLY, on_progress=tell)

    until_waiting(device)
    asked = server.calls["CheckIn"]
    until = device._state.retry_at_ms
    assert 50_000 < until - time.time() * 1000 < 130_000
    device.close()
    with Client.open(folder) as again:
        until_waiting(again)
        assert again._state.retry_at_ms == until
    assert server.calls["CheckIn"] == asked == 1 and len(waits) == 2


def test_a_check_in_whose_answer_was_lost_gets_the_same_assignment(
    serve: Serve, open_task: Task, flowers: Flowers, folder: Path
) -> None:
    server = serve(open_task, goal=1)
    lost = iter([True])

    def faults(moment: str, method: str) -> None:
        if (moment, method) == ("after", "CheckIn") and next(lost, False):
            raise Crash

    Client.join(server.join_string, directory=folder).close()
    device = Client(folder, faults=faults)
    [[summary]] = run_all([device], flowers, restart=reopened)
    assert summary.outcome is Outcome.COMPLETED
    assert len(server.seats) == 1 and server.calls["CheckIn"] == 2


def test_a_round_that_costs_more_bytes_than_the_day_has_left_moves_none(
    serve: Serve, open_task: Task, flowers: Flowers, folder: Path
) -> None:
    server = serve(open_task, goal=1)
    budget = BudgetRules(bytes_a_day=open_task.layout.upload_bytes)
    policy = replace(OPENLY, budget=budget)
    with Client.join(server.join_string, directory=folder) as device:
        [summary] = device.run(datasets={"flowers": flowers(0)}, policy=policy, rounds=1)
    assert summary.outcome is Outcome.REFUSED and "budget.bytes_a_day" in summary.reason
    assert server.calls["GetChunk"] == server.calls["Begin"] == 0
    [seat] = server.seats.values()
    assert seat.report is not None
    assert seat.report.failure == common_pb2.FAILURE_CODE_POLICY_REFUSED


def test_outside_of_its_hours_a_device_does_not_even_ask(
    serve: Serve, open_task: Task, flowers: Flowers, folder: Path
) -> None:
    server = serve(open_task, goal=1)
    hour = (time.localtime().tm_hour + 2) % 24
    policy = Policy(times=TimeRules(hours=(f"{hour:02}:00-{hour:02}:30",)))
    with Client.join(server.join_string, directory=folder) as device:
        told: list[str] = []

        def tell(progress: Progress) -> None:
            told.append(str(progress))
            device.stop()

        device.run(datasets={"flowers": flowers(0)}, policy=policy, on_progress=tell)
    assert server.calls["CheckIn"] == 0 and "times.hours" in told[0]


def test_a_server_that_restarts_is_waited_for(
    serve: Serve, open_task: Task, flowers: Flowers, folder: Path
) -> None:
    server = serve(open_task, goal=1)
    device = Client.join(server.join_string, directory=folder)
    server.server.stop(0).wait()
    told: list[Progress] = []

    def tell(progress: Progress) -> None:
        told.append(progress)

    starter = Thread(target=lambda: (time.sleep(0.5), server.start(server.port)))
    starter.start()
    [[summary]] = run_all([device], flowers, policy=OPENLY, on_progress=tell)
    starter.join()
    assert summary.outcome is Outcome.COMPLETED
    device.close()


def test_a_server_that_is_shutting_down_or_full_is_asked_later(
    serve: Serve,
    open_task: Task,
    flowers: Flowers,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fedclient.client._CHECK_IN_PATIENCE_S", 0.0)
    server = serve(open_task, goal=1)
    left = [DrainingError, OverloadedError] * 3

    def refuse(method: str, client: bytes) -> None:
        if method in ("CheckIn", "PutChunk") and left:
            raise left.pop()("not now", why="it is busy", retry=(1, 20))

    with Client.join(server.join_string, directory=folder) as device:
        server.before = refuse
        [[summary]] = run_all([device], flowers)
    assert summary.outcome is Outcome.COMPLETED and not left


def test_what_is_installed_may_change_while_a_check_in_is_open(
    serve: Serve, open_task: Task, flowers: Flowers, folder: Path
) -> None:
    server = serve(open_task, goal=1)
    refused: list[bool] = []

    def refuse(method: str, client: bytes) -> None:
        if method == "CheckIn" and not refused:
            refused.append(True)
            raise ConflictError("the request was made with other content")

    with Client.join(server.join_string, directory=folder) as device:
        server.before = refuse
        [[summary]] = run_all([device], flowers)
    assert summary.outcome is Outcome.COMPLETED


def test_crashes_are_what_the_harness_makes_of_them(
    serve: Serve,
    open_task: Task,
    flowers: Flowers,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = serve(open_task, goal=1)
    device = Client.join(server.join_string, directory=folder)
    crasher = Crasher("client.after_checkin").install(monkeypatch)
    [[summary]] = run_all([device], flowers, restart=reopened)
    assert crasher.crashed and summary.outcome is Outcome.COMPLETED
    assert server.calls["CheckIn"] == 1
