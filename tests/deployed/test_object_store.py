"""A whole task with its models in an object store that fails in the middle of every upload."""

from __future__ import annotations

import hashlib
import shutil
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedserver.blobs import digest_name
from fedserver.objects import ObjectAddress, Objects
from tests.chaos.checks import check_acknowledged, check_models
from tests.chaos.deployment import Deployment
from tests.chaos.devices import Crowd
from tests.chaos.programs import until
from tests.chaos.tasks import DATASET, data_of, task_of, written
from tests.docs.blocks import blocks_of
from tests.server.object_store import CREDENTIALS, ObjectStore, object_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

CLIENTS = 4
TRIES = 3  # of one put; so often each has to fail, and once more


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with object_store() as made:
        yield made


class FailsUnderWay:
    """Of each object the first put fails for good: now cut off half-way, now refused."""

    def __init__(self) -> None:
        self.failed: Counter[str] = Counter()

    def __call__(self, environ: dict[str, Any]) -> bytes | None:
        path = environ["PATH_INFO"]
        if environ["REQUEST_METHOD"] != "PUT" or self.failed[path] > TRIES:
            return None
        self.failed[path] += 1
        return b"" if self.failed[path] % 2 else b"500 Internal Error"


def test_a_task_over_a_store_that_fails_under_way_comes_to_the_same_models(
    store: ObjectStore, tmp_path: Path
) -> None:
    (block,) = blocks_of("docs/object-store.md", "toml")
    settings = tomllib.loads(block.text)["server"] | {"blobs_endpoint": store.endpoint}
    del settings["state_directory"]
    address = ObjectAddress(settings["blobs_url"], store.endpoint)
    store.make_bucket(address.root.partition("/")[0])
    limits = {"calls_per_second": 1000.0, "calls_at_once": 1000}
    with Deployment(tmp_path / "server", server=settings, limits=limits) as deployment:
        deployment.start()
        names = [f"device-{i}" for i in range(CLIENTS)]
        data = {name: data_of(name) for name in names}
        files = written(data, tmp_path / "data")
        crowd = Crowd(deployment.join(*names), log=tmp_path / "crowd", dataset=DATASET, data=files)
        fault = FailsUnderWay()
        try:
            with store.failing(fault):
                task = task_of("objects", clients=CLIENTS)
                task_id = deployment.admin.submit(task)
                crowd.run()
                # In the middle of it, whatever is on this machine of models is lost.
                until(lambda: deployment.admin.task(task_id).rounds_completed, "a round is over")
                assert deployment.server.stop() == 0
                shutil.rmtree(deployment.state / "copies")
                deployment.start()
                entry = deployment.admin.wait(task_id)
            assert entry.state == "COMPLETED", (entry.reason, deployment.server.complaints)
            check_acknowledged(deployment, task_id, task, crowd.uploaded())
            rounds = deployment.admin.rounds(task_id)
            assert [entry.round.attempt for entry in rounds] == [1] * task.rounds.count
        finally:
            crowd.end()
        objects = Objects.connected(address)
        line = [model.digest for model in deployment.admin.models(task_id)]
        for digest in line:
            assert fault.failed[f"/{address.root}/{digest_name(digest)}"] == TRIES + 1
            objects.fetch(digest_name(digest), tmp_path / "model")
            assert hashlib.sha256((tmp_path / "model").read_bytes()).digest() == digest
            copy = deployment.state / "copies" / digest_name(digest)
            copy.parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "model").replace(copy)
        check_models(deployment, task_id, task, data)
        assert not (deployment.state / "blobs").exists()
