"""What tests of the client share: small tasks, data for each device, and a server for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from fedcore.data import Dataset
from fedcore.failpoints import disarm
from fedcore.federated.task import Task
from tests.client.server import FakeServer

TASK = """
[task]
name = "tiny"
seed = 1
[model]
[[model.layers]]
kind = "linear"
inputs = 4
outputs = 3
[data]
dataset = "flowers"
[training]
loss = "cross_entropy"
epochs = 1
batch_size = 8
[training.optimizer]
name = "sgd"
lr = 0.1
[algorithm]
name = "fedavg"
[rounds]
count = 4
[cohort]
goal = 5
minimum = 4
[secure_aggregation]
"""

OPEN = TASK.replace("[secure_aggregation]\n", '[secure_aggregation]\nprofile = "off"\n')
SECURE = TASK + 'profile = "malicious"\ngamma = 0.1\ndelta = 0.2\n'
PRIVATE = """
[privacy]
unit = "client"
epsilon = 2.0
delta = 1e-4
population = 40
clipping_norm = 0.5
noise = "central"
maximum_participations = 4
"""


@pytest.fixture(scope="session")
def private_task() -> Callable[..., Task]:
    """A task whose server sees each clipped update and adds noise: private_task(name, ...)."""

    def make(name: str, *, epsilon: float = 2.0, training: str = "") -> Task:
        text = OPEN.replace('"tiny"', f'"{name}"') + PRIVATE.replace("2.0", str(epsilon), 1)
        return Task.from_toml(text.replace("[training]\n", f"[training]\n{training}")).resolved()

    return make


@pytest.fixture(scope="session")
def open_task() -> Task:
    """A task whose server sees each update."""
    return Task.from_toml(OPEN).resolved()


@pytest.fixture(scope="session")
def secure_task() -> Task:
    """The same task under secure aggregation."""
    return Task.from_toml(SECURE).resolved()


@pytest.fixture(scope="session")
def flowers() -> Callable[[int], Dataset]:
    """The data of the n-th device."""

    def make(device: int) -> Dataset:
        draw = np.random.default_rng(device)
        return Dataset(
            draw.normal(size=(24, 4)).astype(np.float32), draw.integers(0, 3, 24), "flowers"
        )

    return make


@pytest.fixture
def serve() -> Iterator[Callable[..., FakeServer]]:
    """Starts a server for a task; it is stopped at the end."""
    running: list[FakeServer] = []

    def start(task: Task, *, goal: int = 5) -> FakeServer:
        running.append(FakeServer(task, goal=goal).start())
        return running[-1]

    yield start
    for server in running:
        server.stop()


@pytest.fixture(autouse=True)
def no_failpoints() -> Iterator[None]:
    """Whatever a test armed is disarmed again."""
    yield
    disarm()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for one device."""
    return tmp_path / "device"
