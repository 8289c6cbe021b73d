"""The tasks that are handed in: one that only selects, and one of plain arrays of any size."""

from __future__ import annotations

from fedcore.federated.task import Task

__all__ = ["arrays_task", "linear_task"]

_COMMON = """
[data]
dataset = "toy"
[algorithm]
name = "fedavg"
[secure_aggregation]
profile = "off"
[rounds]
count = {rounds}
max_attempts = 1
[deadlines]
selecting_s = 600
compute_s = 3600
upload_s = 3600
heartbeat_s = 900
"""


def linear_task(*, clients: int, rounds: int = 1) -> Task:
    """Rounds of so many clients each, whose updates are a handful of numbers."""
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
{_COMMON.format(rounds=rounds)}"""
    ).resolved()


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
{_COMMON.format(rounds=1)}"""
    ).resolved()
