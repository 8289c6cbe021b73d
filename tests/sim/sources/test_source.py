"""Rows from Python: what a source takes as it is, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedcore.data import Dataset
from fedcore.errors import DatasetError
from fedsim.sources import Source

ROWS = Dataset(np.zeros((3, 2), np.float32), np.array([0, 2, 1]))
TARGETS = Dataset(ROWS.x, np.zeros((3, 1), np.float32))


def test_lists_of_ids_and_numbers_of_numpy_are_what_they_say() -> None:
    source = Source(ROWS, ROWS, ids=[7, 7, 9], test_ids=["a", "b", "a"], classes=np.int64(3))  # type: ignore[arg-type]
    assert source.ids is not None and source.ids.tolist() == [7, 7, 9]
    assert source.test_ids is not None and source.test_ids.tolist() == ["a", "b", "a"]
    assert type(source.classes) is int


@pytest.mark.parametrize(
    "parts",
    [
        {"ids": np.array([1, "a", None], object)},
        {"ids": [1, 2]},
        {"test_ids": np.array([1, "a", None], object)},
        {"test_ids": np.array([1, 2])},
        {"train": ROWS.x},
        {"test": (ROWS.x, ROWS.y)},
        {"classes": "3"},
        {"classes": 3.0},
        {"classes": 2},
        {"train": Dataset(ROWS.x, np.zeros((3, 0), np.int64)), "test": None},
        {"train": Dataset(ROWS.x, np.zeros((3, 0), np.float32)), "test": None, "classes": None},
        {"train": TARGETS, "test": None},
        {"classes": None},
    ],
)
def test_what_is_no_source_is_refused(parts: dict[str, Any]) -> None:
    with pytest.raises(DatasetError) as refused:
        Source(**{"train": ROWS, "test": ROWS, "classes": 3, **parts})
    assert refused.value.why and refused.value.fix
