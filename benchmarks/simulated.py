"""The tasks of `tasks.py` as scenarios, run by `fedsim` as `fed sim run` runs them.

Every round is planned by the round machine, digested and written to the disk, as in any run; as
with the peers, nobody measures the model meanwhile, and it is kept at the end.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.tasks import BATCH, CLASSES, LEARNING_RATE, SAMPLES, WARM_UP_ROUNDS, Dense, Task
from fedcore.data import Dataset
from fedsim import Partition, Population, RoundRecord, Scenario, Source, World, simulate
from fedsim.devices import Devices

__all__ = ["Simulated", "people", "scenario_of"]

_TEXT = """
scenario = {{ name = "benchmark", mode = "{mode}", evaluate_every = 0, checkpoint_every = 1000000 }}
population = {{ source = {source}, partition = {{ name = "iid" }}, clients = {clients} }}
task = {{ name = "benchmark", seed = 1 }}
data = {{ dataset = "images" }}
training = {{ loss = "cross_entropy", epochs = 1, batch_size = {batch}, optimizer = {rule} }}
algorithm = {{ name = "fedavg" }}
rounds = {{ count = {rounds} }}
cohort = {{ goal = {cohort}, minimum = {cohort} }}
engine = {{ workers = {workers} }}
{beside}
{layers}
"""
_OPEN = """secure_aggregation = { profile = "off" }
update = { largest_weight = 100 }"""


def scenario_of(
    task: Task,
    *,
    cohort: int,
    rounds: int,
    clients: int,
    mode: str = "plain",
    workers: int = 2,
    beside: str = _OPEN,
) -> Scenario:
    """A scenario of the task's model and local training; `beside`: further tables of its task."""
    text = _TEXT.format(
        mode=mode,
        source=f'{{ name = "synthetic", rows = {clients}, shape = [1], classes = 2 }}',
        clients=clients,
        batch=BATCH,
        rule=f'{{ name = "sgd", lr = {LEARNING_RATE} }}',
        beside=beside,
        rounds=rounds,
        cohort=cohort,
        workers=workers,
        layers=_layers(task),
    )
    return Scenario.from_toml(text)


def people(clients: int, *, samples: int = SAMPLES, seed: int = 0) -> Dataset:
    """Images of so many people, drawn in place: noise about the mean of a class."""
    rng = np.random.default_rng(seed)
    means = 0.35 * rng.standard_normal((CLASSES, 7, 7)).astype(np.float32)
    means = means.repeat(4, 1).repeat(4, 2)[..., None]
    labels = rng.integers(0, CLASSES, clients * samples)
    images = np.empty((len(labels), 28, 28, 1), np.float32)
    for begin in range(0, len(labels), 10_000):
        part = images[begin : begin + 10_000]
        rng.standard_normal(out=part, dtype=np.float32)
        part += means[labels[begin : begin + 10_000]]
    return Dataset(images, labels)


@dataclass(frozen=True)
class Simulated:
    """A scenario and its clients' data, client after client with as many rows each."""

    scenario: Scenario
    data: Dataset

    def seconds(self) -> Sequence[float]:
        """Runs all rounds: how long each took after the first."""
        ends: list[float] = []

        def note(_: RoundRecord) -> None:
            ends.append(time.perf_counter())

        simulate(self.scenario, world=self._world(), on_round=note)
        return [float(took) for took in np.diff(ends)]

    def rate(self) -> float:
        """Client-trainings a second over all rounds but those that warm up."""
        took = self.seconds()[WARM_UP_ROUNDS - 1 :]
        return self.scenario.task.cohort.goal * len(took) / sum(took)

    def _world(self) -> World:
        clients = self.scenario.population.clients
        assert clients is not None
        rows = np.arange(len(self.data)).reshape(clients, -1)
        population = Population(self.data, Partition.of(list(rows)))
        devices = Devices(self.scenario.devices, seed=1, names=population.names)
        return World(Source(self.data, classes=CLASSES), population, devices)


def _layers(task: Task) -> str:
    tables, flat = [], False
    for layer in task.layers:
        if isinstance(layer, Dense):
            if not flat:
                tables.append(_table("flatten"))
            flat = True
            tables.append(_table("linear", inputs=layer.inputs, outputs=layer.outputs))
        else:
            images = {"inputs": layer.inputs, "outputs": layer.outputs}
            tables.append(_table("conv2d", **images, kernel_size=layer.kernel, padding='"same"'))
        tables.append(_table("relu"))
        if not isinstance(layer, Dense):
            tables.append(_table("max_pool2d", window=2))
    return "\n".join(tables[:-1])


def _table(kind: str, **options: object) -> str:
    lines = [f"{name} = {value}" for name, value in options.items()]
    return "\n".join(["[[model.layers]]", f'kind = "{kind}"', *lines])
