"""What every partitioner promises, whatever the labels: each row once, enough, the same again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, strategies as st
from numpy.typing import NDArray

from fedcore.errors import ArgumentError, DatasetError
from fedsim.partition import PARTITIONERS, Partition, PartitionSpec

OPTIONS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "classes": st.fixed_dictionaries({"classes_per_client": st.integers(1, 4)}),
    "dirichlet": st.fixed_dictionaries(
        {"alpha": st.sampled_from([1e-6, 0.01, 0.5, 10, 1e6]), "minimum": st.integers(1, 5)}
    ),
    "dirichlet_by_client": st.fixed_dictionaries(
        {"alpha": st.sampled_from([1e-6, 0.01, 0.5, 10, 1e6])}
    ),
    "exponential": st.fixed_dictionaries(
        {"ratio": st.sampled_from([1, 3.5, 1e12]), "minimum": st.integers(1, 5)}
    ),
    "iid": st.just({}),
    "linear": st.fixed_dictionaries({"minimum": st.integers(1, 5)}),
    "log_normal": st.fixed_dictionaries(
        {"sigma": st.sampled_from([0, 1, 100]), "minimum": st.integers(1, 5)}
    ),
    "shards": st.fixed_dictionaries({"shards_per_client": st.integers(1, 4)}),
    "square": st.fixed_dictionaries({"minimum": st.integers(1, 5)}),
}

FEW = st.lists(st.sampled_from([3, -7, 12]), min_size=1, max_size=60)
LABELS = st.one_of(
    FEW.map(np.array),
    st.integers(1, 60).map(lambda rows: np.zeros(rows, np.uint8)),  # one class
    st.integers(1, 60).map(np.arange),  # all distinct
    st.integers(1, 60).map(lambda rows: np.array([5] * (rows - 1) + [6])),  # one rare class
    st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=60).map(np.array),
    st.lists(st.sampled_from(["cat", "dog", ""]), min_size=1, max_size=60).map(np.array),
    st.lists(st.booleans(), min_size=1, max_size=60).map(np.array),
)


def lists(partition: Partition) -> list[list[int]]:
    return [rows.tolist() for rows in partition]


def test_every_partitioner_of_labels_and_sizes_is_tried_here() -> None:
    assert set(OPTIONS) == set(PARTITIONERS) - {"natural"}


@pytest.mark.parametrize("name", OPTIONS)
@given(data=st.data(), labels=LABELS, seed=st.integers(0, 2**128 - 1))
def test_each_row_has_one_client_and_each_client_enough_rows(
    name: str, data: st.DataObject, labels: NDArray[Any], seed: int
) -> None:
    options = data.draw(OPTIONS[name])
    minimum = options.get("minimum", 1)
    assume(len(labels) >= minimum)
    clients = data.draw(st.integers(1, len(labels) // minimum))
    spec = PartitionSpec.read({"name": name, **options}, "partition")
    try:
        found = spec.make(labels, None, clients=clients, seed=seed)
    except ArgumentError:
        assert name in ("classes", "shards")  # what those refuse is tested with them
        return
    assert len(found) == clients
    assert sorted(found.rows.tolist()) == list(range(len(labels)))
    assert found.sizes().min() >= minimum
    assert all((np.diff(rows) > 0).all() for rows in found)
    assert lists(found) == lists(spec.make(labels, None, clients=clients, seed=seed))


@pytest.mark.parametrize("name", sorted(set(OPTIONS) - {"classes"}))
@given(rows=st.integers(1, 40), seed=st.integers(0, 9))
def test_as_many_clients_as_rows_have_one_row_each(name: str, rows: int, seed: int) -> None:
    options = {"alpha": 0.1} if name.startswith("dirichlet") else {}
    options |= {"shards_per_client": 1} if name == "shards" else {}
    spec = PartitionSpec.read({"name": name, **options}, "partition")
    found = spec.make(np.arange(rows) % 3, None, clients=rows, seed=seed)
    assert sorted(map(len, found)) == [1] * rows


@pytest.mark.parametrize("name", OPTIONS)
def test_another_seed_is_another_split(name: str) -> None:
    options = {"alpha": 1.0} if name.startswith("dirichlet") else {}
    options |= {"classes_per_client": 2} if name == "classes" else {}
    spec = PartitionSpec.read({"name": name, **options}, "partition")
    labels = np.arange(200) % 5
    splits = [spec.make(labels, None, clients=8, seed=seed) for seed in (1, 2)]
    assert lists(splits[0]) != lists(splits[1])


@pytest.mark.parametrize("name", OPTIONS)
def test_more_clients_than_rows_and_no_rows_are_refused(name: str) -> None:
    options = {"alpha": 1.0} if name.startswith("dirichlet") else {}
    options |= {"classes_per_client": 1} if name == "classes" else {}
    spec = PartitionSpec.read({"name": name, **options}, "partition")
    with pytest.raises(ArgumentError, match="11 clients") as refused:
        spec.make(np.zeros(10, int), None, clients=11, seed=1)
    assert "at most 10 clients" in refused.value.fix
    with pytest.raises(DatasetError):
        spec.make(np.zeros(0, int), None, clients=1, seed=1)


@pytest.mark.parametrize("name", ["dirichlet", "exponential", "linear", "log_normal", "square"])
@given(rows=st.integers(1, 99), clients=st.integers(1, 120), minimum=st.integers(1, 120))
def test_what_a_refused_minimum_is_told_to_take_works(
    name: str, rows: int, clients: int, minimum: int
) -> None:
    assume(clients * minimum > rows)
    options = {"alpha": 1.0} if name == "dirichlet" else {}

    def make(clients: int, minimum: int) -> Partition:
        spec = PartitionSpec.read({"name": name, **options, "minimum": minimum}, "partition")
        return spec.make(np.zeros(rows, int), None, clients=clients, seed=1)

    with pytest.raises(ArgumentError) as refused:
        make(clients, minimum)
    if clients <= rows:
        assert f"a minimum of at most {rows // clients}" in refused.value.fix
        assert make(clients, rows // clients).sizes().min() >= rows // clients
    if minimum <= rows:
        assert f"at most {rows // minimum} clients" in refused.value.fix
        assert make(rows // minimum, minimum).sizes().min() >= minimum
    if clients > rows and minimum > rows:
        assert f"one client, and a minimum of at most {rows}" in refused.value.fix
