"""Three servers serve one federation at once, and its models are those of a single one, to the bit.

Two tasks, whose leases are held by different servers, and devices that come to any of the three.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedcore.federated.task import Task
from tests.chaos.checks import check_acknowledged, check_ledger, check_models
from tests.chaos.devices import Crowd
from tests.chaos.fleet import Fleet
from tests.chaos.programs import until
from tests.chaos.tasks import DATASET, RECORDS, data_of, task_of, written
from tests.postgres import Postgres

pytestmark = [pytest.mark.postgres, pytest.mark.slow, pytest.mark.timeout(600)]

DEVICES = 5
ROUNDS = 3
OTHER = "other"
UNLIMITED = {"calls_per_second": 1000.0, "calls_at_once": 1000}


class Half:
    """The devices that have one of two data sets, and the task that is for them."""

    def __init__(self, fleet: Fleet, dataset: str, task: Task) -> None:
        self.fleet, self.task, self.task_id = fleet, task, ""
        names = [f"{dataset}-{i}" for i in range(DEVICES)]
        self.data = {name: data_of(name) for name in names}
        paths = written(self.data, fleet.folder / "data")
        log = fleet.folder / f"crowd-{dataset}"
        self.crowd = Crowd(fleet.join(*names), log=log, dataset=dataset, data=paths)
        fleet.ending(self.crowd.end)

    def check(self) -> None:
        """Waits for the end of the task, and checks all that has to hold."""
        entry = self.fleet.admin.wait(self.task_id, timeout_s=300.0)
        assert entry.state == "COMPLETED", entry.reason
        if self.task.privacy is None:
            check_models(self.fleet, self.task_id, self.task, self.data)
        else:
            check_ledger(self.fleet, self.task_id, self.task)
        check_acknowledged(self.fleet, self.task_id, self.task, self.crowd.uploaded())


@pytest.fixture
def fleet(tmp_path: Path, postgres: Postgres) -> Iterator[Fleet]:
    with Fleet(tmp_path, postgres, limits=UNLIMITED).start() as made:
        yield made


def halves(fleet: Fleet, *, privacy: str = "", rounds: int = ROUNDS) -> list[Half]:
    """Two tasks that run, each at the server it was submitted to, and their devices at work."""
    tasks = (
        task_of("first", clients=DEVICES, rounds=rounds, attempts=100),
        task_of(
            "second", clients=DEVICES, rounds=rounds, attempts=100, dataset=OTHER, privacy=privacy
        ),
    )
    found = [
        Half(fleet, dataset, task) for dataset, task in zip((DATASET, OTHER), tasks, strict=True)
    ]
    for number, half in enumerate(found, start=1):
        half.task_id = fleet.user(number).submit(half.task)
        assert fleet.holder_of(half.task_id) == number
        half.crowd.run()
    return found


def completed(fleet: Fleet, half: Half) -> int:
    return int(fleet.admin.task(half.task_id).rounds_completed)


def test_devices_find_every_task_through_any_server(fleet: Fleet) -> None:
    found = halves(fleet)
    for half in found:
        half.check()
    assert {fleet.holder(half.task_id) for half in found} <= {None, 1, 2}


def test_a_server_that_is_killed_once_a_round_changes_no_bit(fleet: Fleet) -> None:
    found = halves(fleet, privacy=RECORDS)
    for round in range(ROUNDS):
        for half in found:
            until(lambda h=half, r=round: completed(fleet, h) >= r, "a round ends", timeout_s=200)
            if completed(fleet, half) < ROUNDS:
                fleet.start_again_one(fleet.holder_of(half.task_id))
    for half in found:
        half.check()


def test_a_server_that_stands_still_past_its_lease_is_stood_in_for(fleet: Fleet) -> None:
    found = halves(fleet)
    victim = fleet.holder_of(found[0].task_id)
    fleet.pause(victim)
    until(
        lambda: fleet.holder(found[0].task_id) not in (None, victim),
        "another server takes the task up",
    )
    until(lambda: completed(fleet, found[0]) >= 1, "it goes on with it", timeout_s=200)
    fleet.go_on(victim)
    for half in found:
        half.check()
