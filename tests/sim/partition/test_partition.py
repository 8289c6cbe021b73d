"""A partition holds at least one row a client, a name for each, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedcore.errors import ArgumentError
from fedsim.partition import Partition


def test_clients_have_names_of_equal_width() -> None:
    parts = Partition.of([[row] for row in range(11)])
    assert (parts.names[0], parts.names[10]) == ("client-00", "client-10")
    assert Partition.of([[0], [1]], names=("b", "a")).names == ("b", "a")
    assert [rows.tolist() for rows in parts][-1] == parts[-1].tolist() == [10]


@pytest.mark.parametrize("parts", [[], [[]], [[0], []], [[0, -1]]])
def test_a_client_without_rows_or_with_rows_that_are_none_is_refused(parts: Any) -> None:
    with pytest.raises(ArgumentError):
        Partition.of(parts)


@pytest.mark.parametrize("offsets", [3, [0], [1, 3], [0, 2], [0, 2, 1, 3], [[0, 3]]])
def test_offsets_that_do_not_cut_the_rows_are_refused(offsets: Any) -> None:
    with pytest.raises(ArgumentError):
        Partition(np.arange(3), np.array(offsets))


def test_names_and_columns_are_one_a_client() -> None:
    with pytest.raises(ArgumentError, match="1 names for 2 clients"):
        Partition.of([[0], [1]], names=("a",))
    with pytest.raises(ArgumentError, match="3 lists of columns for 2 clients"):
        Partition(np.arange(2), np.arange(3), (), (np.arange(1),) * 3)
