"""Kill -9 at every named place: what was acknowledged is in the sum once, with the same bits."""

from __future__ import annotations

import pytest

from fedcore.failpoints import NAMES
from tests.chaos.scene import Scene, points_of
from tests.chaos.supervisor import Supervisor
from tests.chaos.tasks import RECORDS

# What happens in a device does not depend on the server's database.
sqlite_only = pytest.mark.parametrize("scene", ["sqlite"], indirect=True)

# Of processes that have to share their cores with other tests.
pytestmark = pytest.mark.timeout(400)

CLIENT = tuple(name for name in NAMES if name.startswith("client."))
SERVER = tuple(name for name in NAMES if name not in CLIENT)
# At the first time it is reached, and at a later one: these are reached more than twice a task.
LATER = {
    "aggregate": 4,
    "blob": 3,
    "client.after_persist": 5,
    "round": 8,
    "secagg": 3,
    "store": 30,
    "upload": 4,
}


def later(name: str) -> int:
    return LATER.get(name, LATER.get(name.partition(".")[0], 2))


def killed_server(scene: Scene, points: list[str]) -> None:
    """A whole task, while the server is killed at one point after the other."""
    privacy = RECORDS if any(point.startswith("release.") for point in points) else ""
    task = scene.task(privacy=privacy)
    scene.end_devices()
    with Supervisor(scene.start_server, points) as supervisor:
        task_id = scene.deployment.admin.submit(task)
        scene.start_devices()
        scene.finish(task_id, task)
    assert supervisor.killed == points


def killed_client(scene: Scene, points: list[str]) -> None:
    """A whole task, while one device is killed at one point after the other."""
    task = scene.task()
    scene.end_devices()
    task_id = scene.deployment.admin.submit(task)
    scene.alone.forget_pause()
    scene.crowd.run()
    with Supervisor(scene.start_alone, points) as supervisor:
        scene.finish(task_id, task)
    assert supervisor.killed == points


@pytest.mark.slow
def test_a_server_that_is_killed_twice_on_the_way_ends_with_the_same_bits(
    scene: Scene,
) -> None:
    points = ["upload.after_seal=kill@3", "complete.before_commit=kill"]
    killed_server(scene, points)


@pytest.mark.slow
@pytest.mark.parametrize("name", SERVER)
def test_a_server_that_is_killed_loses_nothing(scene: Scene, name: str) -> None:
    killed_server(scene, points_of(name, [1, later(name)]))


@pytest.mark.slow
@sqlite_only
@pytest.mark.parametrize("name", CLIENT)
def test_a_device_that_is_killed_gives_its_update_once(scene: Scene, name: str) -> None:
    killed_client(scene, points_of(name, [1, later(name)]))


def test_every_failpoint_is_killed_at_on_one_side() -> None:
    assert sorted(SERVER + CLIENT) == list(NAMES)
    assert SERVER and CLIENT
