"""Two servers on one database: one is killed, the other goes on, and no bit is lost."""

from __future__ import annotations

import pytest

from tests.chaos.programs import until
from tests.chaos.scene import Scene

pytestmark = [
    pytest.mark.slow,
    pytest.mark.postgres,
    pytest.mark.timeout(400),
    pytest.mark.parametrize("scene", ["postgres"], indirect=True),
]


def test_a_server_that_stands_by_goes_on_where_the_killed_one_was(scene: Scene) -> None:
    task = scene.task()
    deployment = scene.deployment
    deployment.stand_by()
    task_id = deployment.admin.submit(task)
    scene.start_devices()
    for wanted in range(1, 1 + task.rounds.count):
        until(
            lambda wanted=wanted: (
                len({u for u in scene.uploaded() if u.task == task.name}) >= wanted * 3
            ),
            "uploads are acknowledged",
        )
        deployment.fail_over()
        deployment.stand_by()
    scene.finish(task_id, task)
    rounds = deployment.admin.rounds(task_id)
    assert [entry.round.attempt for entry in rounds] == [1] * task.rounds.count
