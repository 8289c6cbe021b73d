"""A program that is slow, missing, defective or not let in ends in a report that tells no data."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest

from fedclient import Client, Outcome, Policy, Progress, Stage
from fedclient.policy import TaskRules
from fedcore.data import Dataset
from fedcore.errors import (
    CancelledError,
    ProgramError,
)
from fedcore.federated.programs import TrainingRequest, TrainingResult
from fedcore.federated.task import Task
from fedcore.v1 import common_pb2, round_service_pb2
from tests.client.devices import run_all
from tests.client.server import FakeServer

Serve = Callable[..., FakeServer]
Flowers = Callable[[int], Dataset]


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
