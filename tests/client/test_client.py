"""Five devices go through whole rounds against a real gRPC server, masked and openly."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fedclient import Client, Outcome, Policy, Progress, Stage
from fedclient.identity import DeviceIdentity, Tls, signing_request
from fedclient.policy import BudgetRules, TaskRules, TimeRules
from fedcore.data import Dataset
from fedcore.errors import (
    CancelledError,
    ClientStateError,
    ConflictError,
    DrainingError,
    OverloadedError,
    ProgramError,
    UnauthenticatedError,
)
from fedcore.federated.programs import TrainingRequest, TrainingResult
from fedcore.federated.task import Task
from fedcore.v1 import common_pb2, round_service_pb2
from tests.client.devices import OPENLY, Crash, Crasher, join, reopened, run_all
from tests.client.server import FakeServer

Serve = Callable[..., FakeServer]
Flowers = Callable[[int], Dataset]


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
    server = serve(secure_task)
    server.retry_ms = (1, 10)
    devices = join(server, tmp_path, 5)
    opener = Thread(
        target=lambda: (server.wait_for(lambda: 0 in server.ended), server.next_round())
    )
    opener.start()
    found = run_all(devices, flowers, rounds=2)
    opener.join()
    assert [[summary.round for summary in each] for each in found] == [[0, 1]] * 5
    posted = [data for key, data in server.posted.items() if key[3] == "Advertise"]
    assert len(set(posted)) == 10
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


class Slow:
    """A program that goes on until it is cancelled."""

    def __init__(self) -> None:
        self.steps = 0

    def train(self, request: TrainingRequest, /) -> TrainingResult:
        while not request.cancelled():
            self.steps += 1
            time.sleep(0.01)
        raise CancelledError("the program was cancelled", why="it was told so")


SLOW = """
[task]
name = "slow"
seed = 1
[[model.arrays]]
name = "w"
shape = [4]
[data]
dataset = "flowers"
[training]
program = "slow"
[algorithm]
name = "fedavg"
[rounds]
count = 4
[cohort]
goal = 1
minimum = 1
[secure_aggregation]
profile = "off"
"""
ALONE = Policy.parse('[secure_aggregation]\nprofile = "off"\nsmallest_cohort = 1')


@pytest.fixture(scope="module")
def slow_task() -> Task:
    return Task.from_toml(SLOW).resolved()


def test_the_server_cancels_training_by_a_heartbeat(
    serve: Serve, slow_task: Task, flowers: Flowers, folder: Path
) -> None:
    server = serve(slow_task, goal=1)
    server.heartbeat_ms = 50
    program = Slow()

    def cancel() -> None:
        server.wait_for(lambda: bool(server.beats) and program.steps > 0)
        [seat] = server.seats.values()
        server.cancelled[seat.assignment_id] = "the operator ended the task"
        server.end(round_service_pb2.Finished.OUTCOME_CANCELLED, "the operator ended the task")

    canceller = Thread(target=cancel)
    canceller.start()
    with Client.join(server.join_string, directory=folder) as device:
        [[summary]] = run_all([device], flowers, policy=ALONE, programs={"slow": program})
    canceller.join()
    assert summary.outcome is Outcome.CANCELLED and program.steps > 0
    assert summary.reason == "the operator ended the task"


def test_the_owner_stops_training_and_the_assignment_stays_open(
    serve: Serve, slow_task: Task, flowers: Flowers, folder: Path
) -> None:
    server = serve(slow_task, goal=1)
    program = Slow()
    with Client.join(server.join_string, directory=folder) as device:

        def tell(progress: Progress) -> None:
            if progress.stage is Stage.TRAINING:
                Thread(target=device.stop).start()

        assert (
            device.run(
                datasets={"flowers": flowers(0)},
                programs={"slow": program},
                policy=ALONE,
                on_progress=tell,
            )
            == []
        )
        assert device.assignment is not None
    assert [seat.report for seat in server.seats.values()] == [None]


@pytest.mark.parametrize(
    ("policy", "data", "code"),
    [
        (
            Policy(
                tasks=TaskRules(names=("another",)), secure_aggregation=ALONE.secure_aggregation
            ),
            "flowers",
            common_pb2.FAILURE_CODE_POLICY_REFUSED,
        ),
        (ALONE, "others", common_pb2.FAILURE_CODE_DATA_MISSING),
        (ALONE, "flowers", common_pb2.FAILURE_CODE_PROGRAM_MISSING),
    ],
)
def test_what_cannot_be_done_is_reported_and_not_asked_for_at_once(
    serve: Serve,
    slow_task: Task,
    flowers: Flowers,
    folder: Path,
    policy: Policy,
    data: str,
    code: int,
) -> None:
    server = serve(slow_task, goal=1)
    with Client.join(server.join_string, directory=folder) as device:
        [summary] = device.run(datasets={data: flowers(0)}, policy=policy, rounds=1)
        assert device._state.retry_at_ms > time.time() * 1000
    [seat] = server.seats.values()
    assert seat.report is not None and seat.report.failure == code
    assert summary.outcome is Outcome.REFUSED and server.calls["GetChunk"] == 0


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


class Telltale:
    """A program whose error would tell of the data."""

    def train(self, request: TrainingRequest, /) -> TrainingResult:
        raise ProgramError(f"the first example is {request.dataset.x[0, 0]}", why="7.25")


class Defective:
    """A program with a mistake."""

    def train(self, request: TrainingRequest, /) -> TrainingResult:
        raise KeyError(f"{request.dataset.x[0, 0]}")


@pytest.mark.parametrize("program", [Telltale(), Defective()])
def test_a_report_never_tells_of_the_data(
    serve: Serve, slow_task: Task, flowers: Flowers, folder: Path, program: object
) -> None:
    server = serve(slow_task, goal=1)
    with Client.join(server.join_string, directory=folder) as device:
        run_all([device], flowers, policy=ALONE, programs={"slow": program})
    [seat] = server.seats.values()
    assert seat.report is not None and seat.report.failure
    assert not any(letter in seat.report.detail for letter in ("first", "7.25", "."))


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
