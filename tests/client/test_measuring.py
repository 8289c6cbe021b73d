"""How good the model is on a device's data is told to its owner, whatever the server is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fedclient import Client, Progress, Stage
from fedcore.data import Dataset
from fedcore.federated.choices import METRICS
from fedcore.federated.evaluation import evaluate_sums
from fedcore.federated.flat import FlatModel
from fedcore.federated.task import Task
from tests.client.conftest import OPEN
from tests.client.devices import OPENLY
from tests.client.server import FakeServer


@pytest.mark.parametrize("reported", [True, False])
def test_the_owner_learns_how_good_the_model_is_before_it_is_trained(
    serve: Callable[..., FakeServer],
    folder: Path,
    flowers: Callable[[int], Dataset],
    reported: bool,
) -> None:
    kept = f"[evaluation]\nevery = 1\nmetrics = ['accuracy']\nreported = {str(reported).lower()}\n"
    task = Task.from_toml(OPEN.replace("[rounds]", f"{kept}[rounds]")).resolved()
    server = serve(task, goal=1)
    server.evaluate = True
    told: list[Progress] = []
    flat = FlatModel(task)
    sums = evaluate_sums(
        flat.model(server.theta),
        flowers(0),
        loss=flat.loss,
        metrics={"accuracy": METRICS["accuracy"]},
    )
    with Client.join(server.join_string, directory=folder) as device:
        data = {"flowers": flowers(0)}
        device.run(datasets=data, policy=OPENLY, rounds=1, on_progress=told.append)
    [found] = [progress.detail for progress in told if progress.stage is Stage.MEASURED]
    loss, accuracy = sums["evaluation_loss"] / 24, sums["evaluation_accuracy"] / 24
    assert found == f"loss {loss:.4g}, accuracy {accuracy:.4g}, 24 examples"


def test_nothing_is_measured_in_a_round_in_which_the_task_says_nothing_of_it(
    serve: Callable[..., FakeServer], folder: Path, flowers: Callable[[int], Dataset]
) -> None:
    kept = "[evaluation]\nevery = 2\nmetrics = ['accuracy']\n"
    task = Task.from_toml(OPEN.replace("[rounds]", f"{kept}[rounds]")).resolved()
    server = serve(task, goal=1)
    server.evaluate = True
    told: list[Progress] = []
    with Client.join(server.join_string, directory=folder) as device:
        data = {"flowers": flowers(0)}
        device.run(datasets=data, policy=OPENLY, rounds=1, on_progress=told.append)
    assert Stage.MEASURED not in {progress.stage for progress in told}
    assert Stage.UPLOADING in {progress.stage for progress in told}
