"""Small tasks and populations that the tests of the simulator share."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from fedcore.data import Dataset
from fedcore.federated.task import Task
from fedsim.partition import Partition
from fedsim.population import Population

DENSE = """
[[model.layers]]
kind = "linear"
inputs = 6
outputs = 8
[[model.layers]]
kind = "relu"
[[model.layers]]
kind = "linear"
inputs = 8
outputs = 3
"""


def task_of(
    *,
    model: str = DENSE,
    optimizer: str = 'name = "sgd"',
    work: str = "epochs = 2",
    batch_size: int = 4,
    algorithm: str = 'name = "fedavg"',
    privacy: str = "",
    secure: str = 'profile = "off"',
    rounds: int = 3,
    goal: int = 4,
    minimum: int = 2,
    evaluation: str = "every = 0",
    more: str = "",
) -> Task:
    training = (
        f'loss = "cross_entropy"\nbatch_size = {batch_size}\n{work}\n'
        f"optimizer = {{ {optimizer}, lr = 0.1 }}"
    )
    if "fedsgd" in algorithm:
        training = 'loss = "cross_entropy"'
    return Task.from_toml(f"""
        task = {{ name = "simulated", seed = 3 }}
        data = {{ dataset = "d" }}
        algorithm = {{ {algorithm} }}
        secure_aggregation = {{ {secure} }}
        rounds = {{ count = {rounds} }}
        cohort = {{ goal = {goal}, minimum = {minimum} }}
        evaluation = {{ {evaluation} }}
        {f"privacy = {{ {privacy} }}" if privacy else ""}
        {more}
        [training]
        {training}
        {model}
    """).resolved()


def population_of(sizes: tuple[int, ...]) -> Population:
    draw, rows = np.random.default_rng(4), sum(sizes)
    labels = draw.integers(0, 3, rows)
    x = (draw.standard_normal((rows, 6)) + labels[:, None]).astype(np.float32)
    ends = np.cumsum([0, *sizes])
    parts = [np.arange(begin, end) for begin, end in pairwise(ends)]
    return Population(Dataset(x, labels), Partition.of(parts))
