"""Cut in the middle of a model or an update: it goes on where it was, and little is sent again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fedclient.state import Charge
from fedcore.data import Dataset
from fedcore.federated.task import Task
from fedcore.wire.transfer import CHUNK_BYTES, WINDOW
from tests.chaos.checks import check_models
from tests.chaos.deployment import Deployment, Figures
from tests.chaos.network.faults import resetting, undisturbed
from tests.chaos.network.proxy import FaultProxy
from tests.chaos.programs import Program, until
from tests.chaos.supervisor import Supervisor
from tests.chaos.tasks import written

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

INPUTS, OUTPUTS = 1_000, 12_500  # 50 MB of float32
MIB = 2**20
SIZE = 4 * (INPUTS + 1) * OUTPUTS
IN_FLIGHT = CHUNK_BYTES * WINDOW
# What a server that is killed may have taken and not brought onto the disk: the spool syncs every
# 16 MiB, and what a sync is known to have brought there is what came before the one before it.
UNSYNCED = 2 * 16 * CHUNK_BYTES
POLICY = '[secure_aggregation]\nprofile = "off"\nattempts = 3\nsmallest_cohort = 1\n'


def large_task(name: str) -> Task:
    """One round of one device, which sends as much as it is sent."""
    phases = ("selecting", "compute", "upload")
    deadlines = "\n".join(f"{phase}_s = 600.0" for phase in phases)
    return Task.from_toml(f"""
[task]
name = "{name}"
seed = 3
[model]
[[model.layers]]
kind = "linear"
inputs = {INPUTS}
outputs = {OUTPUTS}
[data]
dataset = "large"
[training]
loss = "cross_entropy"
steps = 1
batch_size = 2
[training.optimizer]
name = "sgd"
lr = 0.1
[algorithm]
name = "fedavg"
[secure_aggregation]
profile = "off"
[rounds]
count = 1
[cohort]
goal = 1
minimum = 1
[deadlines]
{deadlines}
heartbeat_s = 60.0
patience = 10
""").resolved()


class Link:
    """A server and one device, between whom large files go, through `proxy`."""

    def __init__(self, folder: Path, proxy: FaultProxy) -> None:
        self.proxy = proxy
        self.deployment = Deployment(folder, proxy=proxy).start()
        (self.device,) = self.deployment.join("device-0")
        draw = np.random.default_rng(1)
        x = draw.normal(size=(2, INPUTS)).astype(np.float32)
        self.data = {"device-0": Dataset(x, np.array([3, 5]))}
        (self._file,) = written(self.data, folder / "data")
        self._policy = folder / "policy.toml"
        self._policy.write_text(POLICY)

    def run(self, failpoints: str = "") -> Program:
        data = f"large={self._file}"
        return self.device.run("--data", data, "--policy", str(self._policy), failpoints=failpoints)

    def begin(self, task: Task) -> str:
        """Hands in a task, and lets the device ask for work as soon as it runs."""
        self.device.end()
        task_id = self.deployment.admin.submit(task)
        self.device.forget_pause()
        return task_id

    def finish(self, task_id: str, task: Task) -> None:
        self.deployment.admin.wait(task_id)
        check_models(self.deployment, task_id, task, self.data)
        said = self.device.log.with_suffix(".err")
        until(lambda: f"{task.name} round 1: finished" in said.read_text(), "the device closes it")

    def moved_since(self, before: Figures) -> tuple[float, float]:
        """Bytes that the server has sent of models and taken of updates."""
        after = self.deployment.figures()
        down, up = (
            after(f"fedcore_{name}_bytes_total") - before(f"fedcore_{name}_bytes_total")
            for name in ("download", "upload")
        )
        return down, up

    def charge(self, task_id: str) -> Charge:
        """What the one round of a task has cost the device, whose process is ended."""
        self.device.end()
        (found,) = [charge for charge in self.device.charges() if charge.task == task_id]
        assert found.outcome == "completed" and found.given
        return found


@pytest.fixture(scope="module")
def link(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Link]:
    with FaultProxy() as proxy:
        made = Link(tmp_path_factory.mktemp("link"), proxy)
        yield made
        made.deployment.close()


def test_a_device_that_is_killed_in_both_directions_fetches_and_sends_little_again(
    link: Link,
) -> None:
    task = large_task("device-killed")
    before = link.deployment.figures()
    task_id = link.begin(task)
    points = ["client.mid_download=kill@20", "client.mid_upload=kill@20"]
    with Supervisor(link.run, points) as supervisor:
        link.finish(task_id, task)
    assert supervisor.killed == points
    link.charge(task_id)
    down, up = link.moved_since(before)
    # The model's file has a header; what was on its way is sent again.
    assert SIZE < down <= SIZE + 4096 + IN_FLIGHT
    # A piece that was taken while its sender was killed is on the disk and not counted.
    assert SIZE - IN_FLIGHT < up <= 1.01 * SIZE + IN_FLIGHT


def test_a_server_that_is_killed_while_it_takes_an_update_asks_for_little_again(
    link: Link,
) -> None:
    task = large_task("server-killed-up")
    task_id = link.begin(task)
    points = ["upload.after_chunk=kill@30"]

    def start(failpoints: str) -> Program:
        return link.deployment.start_again(failpoints=failpoints).server

    with Supervisor(start, points) as supervisor:
        link.run()
        link.finish(task_id, task)
    assert supervisor.killed == points
    charge = link.charge(task_id)
    assert SIZE < charge.bytes_up <= 1.01 * SIZE + IN_FLIGHT + UNSYNCED


def test_a_server_that_is_killed_while_it_sends_a_model_sends_little_again(link: Link) -> None:
    task = large_task("server-killed-down")
    task_id = link.begin(task)
    program = link.run()
    until(lambda: "server-killed-down round 1: downloading 3" in program.complaints, "it fetches")
    link.deployment.start_again()
    link.finish(task_id, task)
    charge = link.charge(task_id)
    assert SIZE < charge.bytes_down <= SIZE + 4096 + IN_FLIGHT


def test_a_line_that_breaks_in_the_middle_of_pieces_carries_little_twice(link: Link) -> None:
    task = large_task("line-broken")
    link.proxy.disturb(resetting(5 * MIB, 25 * MIB), seed=1)
    before = link.deployment.figures()
    task_id = link.begin(task)
    link.run()
    link.finish(task_id, task)
    link.device.end()
    twice = link.proxy.resets * IN_FLIGHT  # what was on its way at a break
    assert link.proxy.resets >= 3
    link.proxy.disturb(undisturbed, seed=1)
    down, up = link.moved_since(before)
    assert SIZE < down <= SIZE + 4096 + twice
    assert SIZE < up <= 1.01 * SIZE + twice
