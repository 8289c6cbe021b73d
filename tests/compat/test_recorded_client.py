"""A device of the recorded release takes part under a server of today, beside devices of today."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fedcore.wire.versions import check_version, installed_version
from tests.chaos.checks import check_acknowledged, check_models
from tests.chaos.deployment import Deployment
from tests.chaos.devices import Crowd
from tests.chaos.tasks import DATASET, data_of, task_of, written
from tests.compat.descriptors import Protocol, recorded_files
from tests.compat.recording import MODES
from tests.compat.replaying import Replayed
from tests.compat.session import Session

RECORDED_CALLS = {
    "open": {"CheckIn", "GetTask", "Next", "GetChunk", "Begin", "PutChunk", "Commit", "Report"},
    "masked": {"Advertise", "Share", "Confirm", "Answer"},
}
OLD, NEW = 3, 1
COMPLETED = 1


@pytest.mark.parametrize("mode", MODES)
def test_a_recorded_session_goes_from_joining_to_the_report(mode: str) -> None:
    calls = {exchange.call.partition(".")[2] for exchange in Session.load(mode).exchanges}
    wanted = RECORDED_CALLS["open"] | (RECORDED_CALLS["masked"] if mode == "masked" else set())
    assert calls == wanted | {"Anchors", "Enrol", "Heartbeat"}


@pytest.mark.parametrize("mode", MODES)
def test_the_recorded_release_is_one_that_is_still_served(mode: str) -> None:
    check_version(Session.load(mode).version, server=installed_version())


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    limits = {"calls_per_second": 1000.0, "calls_at_once": 1000}
    with Deployment(tmp_path_factory.mktemp("server"), limits=limits) as made:
        yield made.start()


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("mode", MODES)
def test_devices_of_both_releases_train_one_model_together(
    deployment: Deployment, mode: str, tmp_path: Path
) -> None:
    names = [f"{mode}-{i}" for i in range(OLD + NEW)]
    data = {name: data_of(name) for name in names}
    files = written(data, tmp_path / "data")
    session, protocol = Session.load(mode), Protocol(recorded_files())
    join_string = deployment.admin.token(uses=OLD)
    old = [
        Replayed(session, protocol, tmp_path / name, join_string=join_string, data=data[name])
        for name in names[:OLD]
    ]
    crowd = Crowd(
        deployment.join(*names[OLD:]), log=tmp_path / "crowd", dataset=DATASET, data=files[OLD:]
    )
    task = task_of(f"mixed-{mode}", clients=OLD + NEW, rounds=2, secure=MODES[mode])
    task_id = deployment.admin.submit(task)
    failed = threading.Event()

    def rounds_of(device: Replayed) -> list[int]:
        found = []
        for _ in range(task.rounds.count):
            assert not failed.is_set(), "another device failed"
            found.append(device.play().outcome)
        return found

    crowd.run()
    try:
        with ThreadPoolExecutor(OLD) as pool:
            futures = [pool.submit(rounds_of, device) for device in old]
            for future in futures:
                future.add_done_callback(lambda done: failed.set() if done.exception() else None)
            outcomes = [future.result() for future in futures]
        assert outcomes == [[COMPLETED] * task.rounds.count] * OLD
        deployment.admin.wait(task_id)
        check_models(deployment, task_id, task, data)
        check_acknowledged(deployment, task_id, task, crowd.uploaded())
        rounds = deployment.admin.rounds(task_id)
        assert [entry.round.attempt for entry in rounds] == [1] * task.rounds.count
        assert [entry.reported for entry in rounds] == [OLD + NEW] * task.rounds.count
    finally:
        crowd.end()
        for device in old:
            device.close()
