"""Clients are trained to the bits of a device, however many stand side by side."""

from __future__ import annotations

import numpy as np
import pytest

from fedcore.data import Dataset
from fedcore.federated.algorithms import rule_of
from fedcore.federated.flat import FlatModel
from fedcore.federated.models import initial_theta
from fedcore.federated.programs import TrainingRequest
from fedcore.federated.task import Task
from fedcore.federated.training import LocalTraining, stream_of
from fedsim.engine.lanes import Lanes, Pupil
from tests.sim.tasks import DENSE, task_of
from tests.variants import mostly_slow

DROPPING = DENSE.replace('kind = "relu"', 'kind = "dropout"\nrate = 0.4')
NORMALISED = DENSE.replace('kind = "relu"', 'kind = "batch_norm"\nchannels = 8')
IMAGES = """
[[model.layers]]
kind = "reshape"
shape = [3, 2, 1]
[[model.layers]]
kind = "conv2d"
inputs = 1
outputs = 4
kernel_size = 2
padding = "same"
[[model.layers]]
kind = "tanh"
[[model.layers]]
kind = "flatten"
[[model.layers]]
kind = "linear"
inputs = 24
outputs = 3
"""
SIZES = (5, 12, 12, 12, 12, 1, 12, 33, 12, 12, 7, 8)


def data_of(rows: int) -> Dataset:
    draw = np.random.default_rng(4)
    return Dataset(draw.standard_normal((rows, 6)).astype(np.float32), draw.integers(0, 3, rows))


@pytest.mark.parametrize("lanes", mostly_slow([2, None, 1, 8]))
@pytest.mark.parametrize(
    "task",
    [
        task_of(model=DENSE),
        task_of(model=DENSE, optimizer='name = "sgd", momentum = 0.9'),
        task_of(model=DENSE, optimizer='name = "adam"', work="steps = 7"),
        task_of(model=DENSE, algorithm='name = "fedprox", mu = 0.5'),
        task_of(model=DROPPING),
        task_of(model=NORMALISED),
        task_of(model=IMAGES),
    ],
    ids=["sgd", "momentum", "adam, by steps", "fedprox", "dropout", "batch norm", "images"],
)
def test_each_client_is_trained_to_the_bits_of_a_device(task: Task, lanes: int | None) -> None:
    data, bounds = data_of(sum(SIZES)), np.cumsum([0, *SIZES])
    flat = FlatModel(task)
    optimizer = rule_of(task).local(task.training.optimizer.make())
    pupils = [
        Pupil(n, np.arange(bounds[n], bounds[n + 1]), stream_of(f"client-{n}"))
        for n in range(len(SIZES))
    ]
    trained, device = Lanes(task, flat, optimizer, data, lanes=lanes), LocalTraining()
    start = initial_theta(task)
    for round in range(2):
        seen = []
        for found in trained.train(pupils, start, round=round):
            request = TrainingRequest(
                task=task,
                theta=start,
                dataset=data[found.pupil.rows],
                round=round,
                stream=found.pupil.stream,
            )
            result = device.train(request)
            assert np.array_equal(found.vector - start, result.delta)
            assert (found.examples, found.loss) == (result.weight, result.statistics["loss"])
            assert found.finite and found.steps == trained.steps(len(found.pupil.rows))
            seen.append(found.pupil.index)
        assert seen == list(range(len(SIZES)))
        start = start + np.float32(0.25)
