"""A scenario names a partitioner or a shift, and its digest holds every option."""

from __future__ import annotations

import tomllib
from typing import Any

import numpy as np
import pytest

from fedcore.errors import DatasetError, TaskError
from fedsim.partition import PARTITIONERS, SHIFTS, PartitionSpec, ShiftSpec
from fedsim.partition.by_feature import GaussianNoise, Rotation, SensorGain
from fedsim.partition.by_id import natural
from fedsim.partition.by_label import dirichlet

NEEDED: dict[str, dict[str, Any]] = {
    "classes": {"classes_per_client": 1},
    "dirichlet": {"alpha": 0.3},
    "dirichlet_by_client": {"alpha": 0.3},
}


def test_the_text_of_a_scenario_chooses_a_partitioner() -> None:
    text = 'partition = { name = "dirichlet", alpha = 0.3, minimum = 10 }'
    spec = PartitionSpec.read(tomllib.loads(text)["partition"], "partition")
    labels = np.arange(300) % 10
    expected = dirichlet(labels, 12, alpha=0.3, minimum=10, seed=5)
    found = spec.make(labels, None, clients=12, seed=5)
    assert [rows.tolist() for rows in found] == [rows.tolist() for rows in expected]


@pytest.mark.parametrize("name", PARTITIONERS)
def test_every_partitioner_is_read_written_and_makes_clients(name: str) -> None:
    spec = PartitionSpec.read({"name": name, **NEEDED.get(name, {})}, "partition")
    assert PartitionSpec.read(spec.write(), "partition") == spec
    labels = np.arange(30) % 3
    found = spec.make(labels, labels, clients=3, seed=1)
    assert sorted(found.rows.tolist()) == list(range(30))
    assert len(found) == 3


@pytest.mark.parametrize(
    "values",
    [
        {"name": "dirichlet"},
        {"name": "dirichlet", "alpha": 0},
        {"name": "dirichlet", "alpha": "0.3"},
        {"name": "dirichlet", "alpha": 0.3, "minimum": 0},
        {"name": "dirichlet", "alhpa": 0.3},
        {"name": "dirichelt", "alpha": 0.3},
        {"name": "exponential", "ratio": 0.9},
        {"name": "log_normal", "sigma": -1},
        {"name": "natural", "keep": "last"},
        {"name": "shards", "shards_per_client": 2.5},
        {"alpha": 0.3},
    ],
)
def test_what_is_no_partitioner_is_refused_where_it_stands(values: dict[str, Any]) -> None:
    with pytest.raises(TaskError) as refused:
        PartitionSpec.read(values, "partition")
    assert refused.value.where.startswith("partition")


def test_natural_clients_are_the_first_or_a_sample_of_the_ids() -> None:
    ids = np.repeat(np.arange(20), 3)
    labels = np.zeros(60, int)
    every = PartitionSpec(name="natural").make(labels, ids, clients=None, seed=1)
    first = PartitionSpec(name="natural").make(labels, ids, clients=4, seed=1)
    drawn = PartitionSpec(name="natural", options=(("keep", "sample"),))
    assert len(every) == 20
    assert first.names == ("0", "1", "2", "3")
    names = drawn.make(labels, ids, clients=4, seed=1).names
    assert names == natural(ids, clients=4, seed=1).names


def test_a_partitioner_is_refused_without_what_it_needs() -> None:
    labels = np.arange(6)
    with pytest.raises(TaskError, match="whose it is"):
        PartitionSpec(name="natural").make(labels, None, clients=2, seed=1)
    with pytest.raises(TaskError, match="how many clients"):
        PartitionSpec(name="iid").make(labels, None, clients=None, seed=1)
    with pytest.raises(DatasetError, match="6 labels"):
        PartitionSpec(name="iid").make(labels, labels[:5], clients=2, seed=1)


def test_a_scenario_chooses_a_shift() -> None:
    made = {
        name: ShiftSpec.read({"name": name, **options}, "shift").make(clients=9, seed=4)
        for name, options in {
            "gaussian_noise": {"sigma": 0.5},
            "rotation": {"degrees": [0, 90]},
            "sensor_gain": {},
        }.items()
    }
    assert made == {
        "gaussian_noise": GaussianNoise(sigma=0.5, clients=9, seed=4),
        "rotation": Rotation(degrees=(0.0, 90.0)),
        "sensor_gain": SensorGain(seed=4),
    }
    assert set(made) == set(SHIFTS)
    for bad in ({"name": "gaussian_noise", "sigma": -1}, {"name": "rotation", "degrees": []}):
        with pytest.raises(TaskError):
            ShiftSpec.read(bad, "shift")
