"""Natural clients are the ids, in sorted order, those kept that were asked for."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fedcore.data import Dataset, group_by
from fedcore.errors import ArgumentError, DatasetError
from fedsim.partition.by_id import natural

IDS = st.one_of(
    st.lists(st.sampled_from([5, -2, 10, 0]), min_size=1, max_size=30),
    st.lists(st.sampled_from(["ward b", "ward a", "é"]), min_size=1, max_size=30),
).map(np.array)


@given(IDS)
def test_clients_are_the_groups_of_the_dataset(ids: Any) -> None:
    groups = group_by(Dataset(np.arange(len(ids)), np.arange(len(ids))), ids)
    found = natural(ids)
    assert found.names == tuple(group.name for group in groups)
    assert [rows.tolist() for rows in found] == [group.y.tolist() for group in groups]


@given(IDS, st.integers(1, 12), st.integers(1, 4), st.none() | st.integers(0, 9))
def test_small_ids_are_left_out_and_as_many_kept_as_asked_for(
    ids: Any, minimum: int, clients: int, seed: int | None
) -> None:
    names, sizes = np.unique(ids, return_counts=True)
    large = [str(name) for name in names[sizes >= minimum]]
    if len(large) < clients:
        with pytest.raises(ArgumentError, match=f"{clients} clients") as refused:
            natural(ids, minimum=minimum, clients=clients, seed=seed)
        for count in re.findall(r"(\d+) clients", refused.value.fix):
            natural(ids, minimum=minimum, clients=int(count), seed=seed)
        for rows in re.findall(r"minimum of at most (\d+)", refused.value.fix):
            possible = 1 if "one client" in refused.value.fix else clients
            natural(ids, minimum=int(rows), clients=possible, seed=seed)
        return
    found = natural(ids, minimum=minimum, clients=clients, seed=seed)
    assert len(found) == clients
    assert found.names == tuple(name for name in large if name in found.names)
    if seed is None:
        assert list(found.names) == large[:clients]
    for name, rows in zip(found.names, found, strict=True):
        assert rows.tolist() == [row for row, one in enumerate(ids) if str(one) == name]


def test_a_sample_depends_on_its_seed_and_reaches_every_id() -> None:
    ids = np.repeat(np.arange(6), 2)
    samples = [natural(ids, clients=3, seed=seed).names for seed in range(30)]
    assert samples == [natural(ids, clients=3, seed=seed).names for seed in range(30)]
    assert {name for names in samples for name in names} == set("012345")


@pytest.mark.parametrize(
    "ids", [np.array([]), np.zeros((2, 2)), np.array([1.0, np.nan]), np.array([1, None])]
)
def test_ids_that_name_no_client_are_refused(ids: Any) -> None:
    with pytest.raises(DatasetError, match="ids"):
        natural(ids)
