"""Every row has weight one exactly once an epoch, in an order that its key alone decides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fedcore.data import Dataset, batch_plan
from fedcore.errors import ArgumentError, DatasetError
from fedcore.tensor.random import Key

examples = st.integers(1, 50)
sizes = st.integers(1, 60)


def numbered(rows: int) -> Dataset:
    return Dataset(np.arange(rows * 3.0).reshape(rows, 3), np.arange(rows))


@given(examples, sizes, st.booleans(), st.integers(0, 9))
def test_every_row_weighs_one_once_an_epoch(n: int, size: int, shuffle: bool, epoch: int) -> None:
    dataset = numbered(n)
    batches = list(dataset.batches(size, key=5, epoch=epoch, shuffle=shuffle))
    assert len(batches) == dataset.steps_per_epoch(size)
    total = np.zeros(n)
    for batch in batches:
        assert batch.x.shape == (size, 3) and batch.y.shape == batch.weight.shape == (size,)
        assert batch.weight.dtype == np.float32
        assert (batch.x[:, 0] == 3.0 * batch.y).all()
        np.add.at(total, batch.y, batch.weight)
    assert (total == 1).all()


@given(examples, sizes)
def test_a_weighted_sum_over_batches_is_the_sum_over_rows(n: int, size: int) -> None:
    dataset = numbered(n)
    found = sum(float((b.weight * b.y**2).sum()) for b in dataset.batches(size, key=1))
    assert found == float((dataset.y**2).sum())  # integers below 2**24: float32 is exact


@given(examples, st.integers(1, 50), st.integers(0, 3))
def test_dropping_the_last_batch_keeps_full_ones_only(n: int, size: int, epoch: int) -> None:
    if n < size:
        with pytest.raises(DatasetError, match="no full batch"):
            numbered(n).batches(size, key=1, drop_last=True)
        return
    batches = list(numbered(n).batches(size, key=1, epoch=epoch, drop_last=True))
    rows = np.concatenate([batch.y for batch in batches])
    assert len(batches) == n // size
    assert len(set(rows.tolist())) == len(rows)
    assert all((batch.weight == 1).all() for batch in batches)


@given(examples, sizes)
def test_evaluation_batches_are_the_rows_in_order_without_padding(n: int, size: int) -> None:
    dataset = numbered(n)
    batches = list(dataset.evaluation_batches(size))
    assert np.concatenate([batch.y for batch in batches]).tolist() == list(range(n))
    assert sum(float(batch.weight.sum()) for batch in batches) == n
    assert all(np.shares_memory(batch.x, dataset.x) for batch in batches)


def test_the_order_depends_on_key_and_epoch_alone() -> None:
    key = Key(1, "train", round=2, client=3)

    def order(key: Any, epoch: int) -> list[int]:
        return [int(row) for row in batch_plan(40, 40, key=key, epoch=epoch).rows[0]]

    assert order(key, 0) == order(Key(1, "train", 2, 3), 0)
    family = [key, Key(1, "train", 2, 4), Key(1, "train", 3, 3), Key(2, "train", 2, 3), 1]
    orders = {tuple(order(k, epoch)) for k in family for epoch in range(3)}
    assert len(orders) == 15
    assert order(7, 1) == order(Key(7, "shuffle"), 1)


def test_one_shuffled_order_is_frozen() -> None:
    assert batch_plan(8, 4, key=0).rows.tolist() == [[5, 1, 6, 4], [3, 0, 2, 7]]


def test_without_shuffling_rows_come_in_order_and_padding_repeats_the_first() -> None:
    plan = batch_plan(5, 4, shuffle=False)
    assert plan.rows.tolist() == [[0, 1, 2, 3], [4, 0, 1, 2]]
    assert plan.weight.tolist() == [[1, 1, 1, 1], [1, 0, 0, 0]]


@pytest.mark.parametrize("size", [0, -1, 1.5, True, None, "4"])
def test_a_batch_size_below_one_is_refused_at_the_call(size: Any) -> None:
    with pytest.raises(ArgumentError, match="size"):
        numbered(5).batches(size, key=1)
    with pytest.raises(ArgumentError, match="size"):
        numbered(5).evaluation_batches(size)


def test_shuffling_without_a_key_and_negative_epochs_are_refused() -> None:
    with pytest.raises(ArgumentError, match="needs a key"):
        numbered(5).batches(2)
    with pytest.raises(ArgumentError, match="fold"):
        numbered(5).batches(2, key=1, epoch=-1)
