"""The tasks that are handed in: a linear model, also masked, and plain arrays of any size."""

from __future__ import annotations

import numpy as np

from fedcore.data import Dataset
from fedcore.federated.task import Task
from fedcore.federated.training import stream_of

__all__ = ["arrays_task", "linear_task", "toy_data"]

_COMMON = """
[data]
dataset = "toy"
[algorithm]
name = "fedavg"
[deadlines]
selecting_s = 600
compute_s = 3600
upload_s = 3600
keys_s = 3600
shares_s = 3600
confirming_s = 3600
unmasking_s = 3600
heartbeat_s = 900
"""
_OPEN = """
[secure_aggregation]
profile = "off"
"""
_MASKED = """
[secure_aggregation]
profile = "malicious"
gamma = 0.1
delta = 0.1
"""


def linear_task(*, clients: int, rounds: int = 1, attempts: int = 1, masked: bool = False) -> Task:
    """Rounds of so many clients, whose updates are a handful of numbers.

    `masked`: by secure aggregation, against a server that lies and a tenth that sides with it.
    """
    return Task.from_toml(
        f"""
[task]
name = "linear"
seed = 1
[model]
[[model.layers]]
kind = "linear"
inputs = 4
outputs = 3
[training]
loss = "cross_entropy"
epochs = 1
batch_size = 8
[training.optimizer]
name = "sgd"
lr = 0.5
[cohort]
goal = {clients}
minimum = {clients}
overselection = 1.0
{_MASKED if masked else _OPEN}
[rounds]
count = {rounds}
max_attempts = {attempts}
{_COMMON}"""
    ).resolved()


def toy_data(name: str) -> Dataset:
    """A client's own data for the linear task, the same for the same name."""
    draw = np.random.default_rng(stream_of(name) % 2**32)
    x = draw.normal(size=(24, 4)).astype(np.float32)
    y = (x @ np.array([[1, 0, -1], [0, 1, 0], [1, -1, 0], [0, 0, 1]])).argmax(1)
    return Dataset(x, y.astype(np.int64))


def arrays_task(*, clients: int, parameters: int) -> Task:
    """A round of so many clients, whose updates have 4 bytes a parameter, in one plain array."""
    return Task.from_toml(
        f"""
[task]
name = "arrays"
seed = 1
[model]
[[model.arrays]]
name = "theta"
shape = [{parameters}]
[training]
program = "bench"
[cohort]
goal = {clients}
minimum = {clients}
overselection = 1.0
{_OPEN}
[rounds]
count = 1
max_attempts = 1
{_COMMON}"""
    ).resolved()
