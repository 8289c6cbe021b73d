"""Rows are held out within clients or by whole clients, and what is alike stays together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fedcore.data import Dataset
from fedcore.errors import DatasetError, TaskError
from fedsim.sources import Source
from fedsim.sources.images import Digits

MARKS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=60)
SHARES = st.floats(0, 0.99)


def whole_of(ids: Any, rows: int) -> Source:
    numbers = np.arange(rows, dtype=np.float32)[:, np.newaxis]
    return Source(Dataset(numbers, np.zeros(rows, np.int64)), ids=ids, classes=1)


def places(data: Dataset | None) -> list[int]:
    return [] if data is None else data.x[:, 0].astype(int).tolist()


@given(MARKS, SHARES, st.integers(0, 3))
def test_the_share_of_each_clients_groups_is_held_out_but_for_one(
    marks: list[tuple[int, int]], share: float, seed: int
) -> None:
    ids, groups = np.array(marks).T
    options = Digits(held_out=share, seed=seed)
    found = options.divided(whole_of(ids, len(marks)), groups)
    train, test = places(found.train), places(found.test)
    assert sorted(train + test) == list(range(len(marks)))
    assert train == sorted(train) and test == sorted(test)
    assert {marks[row] for row in train}.isdisjoint(marks[row] for row in test)
    for client in set(ids.tolist()):
        groups_of = {mark for mark in marks if mark[0] == client}
        tested = {marks[row] for row in test if ids[row] == client}
        wanted = min(int(share * len(groups_of) + 0.5), len(groups_of) - 1)
        assert len(tested) == wanted


@given(st.lists(st.integers(0, 9), min_size=2, max_size=40), st.floats(0.01, 0.99))
def test_whole_clients_are_held_out_one_at_least_and_never_all(
    marks: list[int], share: float
) -> None:
    ids = np.array([str(mark) for mark in marks])
    clients = len(set(marks))
    options = Digits(held_out_clients=share)
    if clients == 1:
        with pytest.raises(TaskError, match="held_out_clients"):
            options.divided(whole_of(ids, len(marks)))
        return
    found = options.divided(whole_of(ids, len(marks)))
    assert found.ids is not None and found.test_ids is not None
    train, test = set(found.ids.tolist()), set(found.test_ids.tolist())
    assert train.isdisjoint(test) and train | test == set(ids.tolist())
    assert len(test) == min(max(1, round(share * clients)), clients - 1)


def test_rows_without_ids_are_one_clients() -> None:
    found = Digits(held_out=0.25).divided(whole_of(None, 8))
    assert len(found.train) == 6 and len(places(found.test)) == 2
    assert found.ids is None and found.test_ids is None
    with pytest.raises(TaskError, match="held_out_clients"):
        Digits(held_out_clients=0.25).divided(whole_of(None, 8))


def test_another_seed_holds_out_other_rows() -> None:
    parts = {tuple(places(Digits(seed=seed).divided(whole_of(None, 50)).test)) for seed in range(5)}
    assert len(parts) == 5


def test_both_shares_at_once_and_shares_of_everything_are_refused() -> None:
    with pytest.raises(TaskError, match="held_out_clients"):
        Digits(held_out=0.3, held_out_clients=0.3)
    for share in (1.0, -0.1):
        with pytest.raises(TaskError):
            Digits(held_out=share)


def test_a_source_of_ids_or_labels_that_do_not_fit_is_refused() -> None:
    data = Dataset(np.zeros((3, 1), np.float32), np.array([0, 1, 2]))
    with pytest.raises(DatasetError, match="ids are float64 of shape"):
        Source(data, ids=np.zeros(2), classes=3)
    with pytest.raises(DatasetError, match="targets are int64"):
        Source(data, classes=2)
    with pytest.raises(DatasetError, match="targets are int64"):
        Source(data)
    other = Dataset(np.zeros((3, 2), np.float32), np.array([0, 1, 2]))
    with pytest.raises(DatasetError, match="rows to test on"):
        Source(data, other, classes=3)
    broken = Dataset(np.zeros((1, 1), np.float32), np.full((1, 1), np.nan, np.float32))
    with pytest.raises(DatasetError, match="targets are float32"):
        Source(broken)
