"""Kill -9 of one of three servers at every named place: the others end what it began."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.chaos.fleet import Fleet
from tests.chaos.supervisor import Supervisor
from tests.chaos.tasks import DATASET, RECORDS, task_of
from tests.chaos.test_fleet import DEVICES, UNLIMITED, Half
from tests.chaos.test_kills import SERVER, later
from tests.postgres import Postgres

pytestmark = [pytest.mark.postgres, pytest.mark.slow, pytest.mark.timeout(600)]

VICTIM = 1


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[Half]:
    """Three servers and five devices; each test has a task of its own."""
    folder = tmp_path_factory.mktemp("fleet")
    with Fleet(folder, postgres, limits=UNLIMITED).start() as fleet:
        yield Half(fleet, DATASET, task_of("none", clients=DEVICES))


@pytest.mark.parametrize("name", SERVER)
def test_a_server_of_several_that_is_killed_loses_nothing(half: Half, name: str) -> None:
    fleet, points = half.fleet, [f"{name}=kill@{later(name)}"]
    half.crowd.end()
    privacy = RECORDS if name.startswith("release.") else ""
    half.task = task_of(re.sub(r"\W|_", "-", name), clients=DEVICES, attempts=100, privacy=privacy)
    with Supervisor(
        lambda failpoints: fleet.start_again_one(VICTIM, failpoints=failpoints), points
    ) as supervisor:
        half.task_id = fleet.user(VICTIM).submit(half.task)
        half.crowd.run()
        half.check()
    assert supervisor.killed == points
