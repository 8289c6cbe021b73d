"""SIGTERM and a start again, as in an upgrade: no upload fails, no attempt or bit is lost."""

from __future__ import annotations

import pytest

from tests.chaos.programs import until
from tests.chaos.scene import Scene

# Of processes that have to share their cores with other tests.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def test_a_server_that_is_told_to_stop_under_way_fails_no_upload(scene: Scene) -> None:
    task = scene.task()
    deployment = scene.deployment
    task_id = deployment.admin.submit(task)
    scene.start_devices()
    for wanted in range(1, 1 + task.rounds.count):
        until(
            lambda wanted=wanted: (
                len({u for u in scene.uploaded() if u.task == task.name}) >= wanted * 3
            ),
            "uploads are acknowledged",
        )
        assert deployment.server.stop() == 0
        deployment.start()
    scene.finish(task_id, task)
    rounds = deployment.admin.rounds(task_id)
    assert [entry.round.attempt for entry in rounds] == [1] * task.rounds.count
    assert [entry.reported for entry in rounds] == [entry.selected for entry in rounds]
    said = deployment.server.err.read_text()
    assert said.count('"event": "stopped"') == task.rounds.count
