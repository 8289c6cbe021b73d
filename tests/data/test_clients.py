"""Clients are cut along their ids, and lanes hold exactly what each client alone would train on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fedcore.data import Batch, Dataset, concat, group_by, stack_clients
from fedcore.errors import ArgumentError, DatasetError
from fedcore.tensor.random import Key


def numbered(rows: int, start: int = 0) -> Dataset:
    y = np.arange(start, start + rows)
    return Dataset(np.stack([y, y**2], axis=1).astype(np.float32), y)


@given(st.lists(st.sampled_from([5, -2, 10, 0]), min_size=1, max_size=30))
def test_groups_are_the_rows_of_each_id_in_order(ids: list[int]) -> None:
    dataset = numbered(len(ids))
    groups = group_by(dataset, np.array(ids))
    assert [group.name for group in groups] == [str(i) for i in sorted(set(ids))]
    for group in groups:
        assert group.y.tolist() == [row for row, i in enumerate(ids) if str(i) == group.name]
    assert sorted(concat(groups).y.tolist()) == list(range(len(ids)))


def test_ids_may_be_texts() -> None:
    groups = group_by(numbered(3), np.array(["ward b", "ward a", "ward b"]))
    assert [(group.name, group.y.tolist()) for group in groups] == [
        ("ward a", [1]),
        ("ward b", [0, 2]),
    ]


@pytest.mark.parametrize(
    "ids", [np.zeros(2), np.zeros((3, 1)), np.array([0.0, np.nan, 1.0]), np.array([1, None, 2])]
)
def test_ids_that_do_not_name_every_row_are_refused(ids: Any) -> None:
    with pytest.raises(DatasetError, match="ids"):
        group_by(numbered(3), ids)


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=5),
    st.integers(1, 6),
    st.integers(1, 3),
    st.booleans(),
)
def test_each_lane_is_what_its_client_alone_would_see(
    rows: list[int], size: int, epochs: int, shuffle: bool
) -> None:
    clients = [numbered(n, start=100 * i) for i, n in enumerate(rows)]
    keys = [Key(1, "train", round=4, client=i) for i in range(len(clients))]
    lanes = stack_clients(clients, size, keys=keys, epochs=epochs, shuffle=shuffle)
    steps = epochs * max(client.steps_per_epoch(size) for client in clients)
    assert lanes.x.shape == (len(rows), steps, size, 2)
    assert lanes.y.shape == lanes.weight.shape == (len(rows), steps, size)
    for lane, (client, key) in enumerate(zip(clients, keys, strict=True)):
        alone = [
            batch
            for epoch in range(epochs)
            for batch in client.batches(size, key=key, epoch=epoch, shuffle=shuffle)
        ]
        for step, batch in enumerate(alone):
            for ours, theirs in zip(lanes, batch, strict=True):
                assert (ours[lane, step] == theirs).all()
        assert (lanes.weight[lane, len(alone) :] == 0).all()
        assert lanes.weight[lane].sum() == epochs * len(client)
        assert np.isin(lanes.y[lane], client.y).all()  # padding never shows another client's rows


def test_a_lane_does_not_depend_on_who_else_is_stacked() -> None:
    small, large = numbered(3), numbered(9, start=50)
    key, other = Key(0, "train", client=7), Key(0, "train", client=8)
    alone = stack_clients([small], 2, keys=[key])
    together = stack_clients([large, small], 2, keys=[other, key])
    steps = alone.x.shape[1]
    assert (together.x[1, :steps] == alone.x[0]).all()
    assert (together.weight[1, :steps] == alone.weight[0]).all()


def test_bytes_stay_bytes_in_lanes() -> None:
    clients = [Dataset(np.full((n, 4), n, np.uint8), np.zeros(n, np.int32)) for n in (2, 3)]
    lanes = stack_clients(clients, 2, shuffle=False)
    assert isinstance(lanes, Batch)
    assert lanes.x.dtype == np.uint8 and lanes.y.dtype == np.int32


def test_what_cannot_be_stacked_is_refused() -> None:
    client = numbered(4)
    wide = Dataset(np.zeros((4, 3), np.float32), np.arange(4))
    with pytest.raises(DatasetError, match="0 kinds"):
        stack_clients([], 2, shuffle=False)
    with pytest.raises(DatasetError, match="2 kinds"):
        stack_clients([client, wide], 2, shuffle=False)
    with pytest.raises(ArgumentError, match="needs a key"):
        stack_clients([client], 2)
    with pytest.raises(ArgumentError, match="1 keys for 2 clients"):
        stack_clients([client, client], 2, keys=[Key(0, "a")])
    with pytest.raises(ArgumentError, match="epochs"):
        stack_clients([client], 2, epochs=0, shuffle=False)
    with pytest.raises(ArgumentError, match="size"):
        stack_clients([client], 0, shuffle=False)
