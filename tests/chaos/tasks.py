"""Tasks that are small, quick, and the same to the bit whoever is killed on the way.

Masks cancel, sums are of integers, and deadlines are long: whoever was killed comes back in time,
so the models are those that the same clients find in one process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedcore.data import Dataset
from fedcore.federated.models import initial_theta
from fedcore.federated.parameters import parameters_of
from fedcore.federated.reference import train_in_process
from fedcore.federated.task import Task
from fedcore.federated.training import stream_of
from fedcore.model_format import encode_model
from fedserver.model_files import ModelOrigin

__all__ = ["DATASET", "RECORDS", "data_of", "digests_of", "task_of", "written"]

DATASET = "toy"

RECORDS = """
[privacy]
unit = "record"
epsilon = 50.0
delta = 1e-3
population = 120
clipping_norm = 1.0
noise = "shares"
sampling_rate = 0.5
"""


def task_of(
    name: str,
    *,
    clients: int,
    rounds: int = 3,
    minimum: int | None = None,
    privacy: str = "",
    attempts: int = 3,
    secure: bool = True,
    heartbeat_s: float = 60.0,
    dataset: str = DATASET,
) -> Task:
    """A masked task of a linear model with 4 features and 3 classes."""
    local = 'loss = "cross_entropy"'
    algorithm = 'name = "fedsgd"\nlr = 0.5'
    if not privacy:
        algorithm = 'name = "fedavg"'
        local += '\nepochs = 1\nbatch_size = 8\n[training.optimizer]\nname = "sgd"\nlr = 0.5'
    profile = 'profile = "malicious"\ndelta = 0.2\ngamma = 0.1' if secure else 'profile = "off"'
    phases = ("selecting", "keys", "shares", "compute", "upload", "confirming", "unmasking")
    deadlines = "\n".join(f"{phase}_s = 600.0" for phase in phases)
    return Task.from_toml(f"""
[task]
name = "{name}"
seed = 3
[model]
[[model.layers]]
kind = "linear"
inputs = 4
outputs = 3
[data]
dataset = "{dataset}"
[training]
{local}
[algorithm]
{algorithm}
[secure_aggregation]
{profile}
{privacy}
[rounds]
count = {rounds}
max_attempts = {attempts}
[cohort]
goal = {clients}
minimum = {clients if minimum is None else minimum}
[deadlines]
{deadlines}
heartbeat_s = {heartbeat_s}
patience = 10
""").resolved()


@cache
def data_of(name: str, *, examples: int = 24) -> Dataset:
    """A device's own data, the same for the same name."""
    draw = np.random.default_rng(stream_of(name) % 2**32)
    x = draw.normal(size=(examples, 4)).astype(np.float32)
    y = (x @ np.array([[1, 0, -1], [0, 1, 0], [1, -1, 0], [0, 0, 1]])).argmax(1)
    return Dataset(x, y.astype(np.int64))


def written(data: Mapping[str, Dataset], folder: Path) -> list[Path]:
    """The files of data sets, an .npz each."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, dataset in data.items():
        paths.append(folder / f"{name}.npz")
        np.savez(paths[-1], x=dataset.x, y=dataset.y)
    return paths


def digests_of(task: Task, clients: Mapping[str, Dataset]) -> list[bytes]:
    """SHA-256 of the files of all models from the first on, where nothing goes wrong."""
    return line_of(task, [initial_theta(task), *train_in_process(task, clients)])


def line_of(task: Task, models: Sequence[NDArray[np.float32]]) -> list[bytes]:
    """SHA-256 of the files of these models of a task, each the parent of the next."""
    digests = [b""]
    for round, theta in enumerate(models):
        origin = ModelOrigin(task.digest.hex(), round, digests[-1])
        pieces = encode_model(theta, parameters_of(task), metadata=origin.texts)
        digests.append(hashlib.sha256(b"".join(pieces)).digest())
    return digests[1:]
