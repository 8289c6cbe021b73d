"""Sizes follow weights exactly, and a minimum is reached by moving as few rows as possible."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fedcore.errors import ArgumentError
from fedsim.partition.dealing import (
    draws,
    raise_to_minimum,
    require_rows,
    row_count,
    sizes_by_weight,
)


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=60),
    st.integers(6, 9),
    st.integers(1, 10),
    st.integers(0, 99),
)
def test_the_minimum_is_reached_by_the_fewest_moves_from_the_largest(
    owners: list[int], clients: int, minimum: int, seed: int
) -> None:
    minimum = min(minimum, len(owners) // clients)
    before = np.bincount(owners, minlength=clients)
    raised = raise_to_minimum(
        np.array(owners), clients, minimum=minimum, rng=draws(seed, "anything")
    )
    after = np.bincount(raised, minlength=clients)
    assert after.sum() == len(owners)
    assert after.min() >= minimum
    assert (raised != owners).sum() == np.maximum(minimum - before, 0).sum()
    gave = after < before
    assert (after[~gave] == np.maximum(before, minimum)[~gave]).all()
    if gave.any():  # who gave ends at one level, and nobody above it kept what he had
        assert after[gave].max() - after[gave].min() <= 1
        assert after.max() <= after[gave].min() + 1


@given(
    st.lists(st.floats(0, 1e12), min_size=1, max_size=30).filter(any),
    st.integers(1, 9),
    st.integers(0, 10**6),
)
def test_sizes_are_whole_exact_and_in_proportion_above_the_minimum(
    weights: list[float], minimum: int, spare: int
) -> None:
    w = np.array(weights) / max(weights)
    rows = minimum * len(w) + spare
    sizes = sizes_by_weight(w, rows, minimum=minimum)
    assert sizes.sum() == rows
    assert sizes.min() >= minimum
    large = sizes > minimum
    if large.any():
        # One factor explains all sizes above the minimum, to less than one row each.
        factor = (sizes[large].sum()) / w[large].sum()
        lowest = ((sizes[large] - 1) / w[large]).max()
        highest = ((sizes[large] + 1) / w[large]).min()
        assert lowest <= highest * (1 + 1e-9)
        assert (w[~large] * factor <= minimum + 1 + 1e-6).all()


def test_sizes_are_those_of_a_hand_computed_case() -> None:
    # 10 · (1, 2, 4) / 7 = 1.43, 2.86, 5.71: the remainder of two goes to the largest fractions.
    assert sizes_by_weight(np.array([1.0, 2.0, 4.0]), 10, minimum=1).tolist() == [1, 3, 6]
    # With a minimum of 3, clients 0 and 1 have 3, and client 2 what is left.
    assert sizes_by_weight(np.array([1.0, 2.0, 4.0]), 10, minimum=3).tolist() == [3, 3, 4]
    # A tie goes to the first.
    assert sizes_by_weight(np.ones(4), 6, minimum=1).tolist() == [2, 2, 1, 1]


@pytest.mark.parametrize(
    ("clients", "minimum"), [(0, 1), (-1, 1), (2.0, 1), (True, 1), ("3", 1), (2, 0), (2, 1.5)]
)
def test_what_counts_nothing_is_refused(clients: Any, minimum: Any) -> None:
    with pytest.raises(ArgumentError, match=r"clients|minimum"):
        require_rows(10, clients, minimum)


def test_rows_are_counted_or_given() -> None:
    assert row_count(7) == row_count(np.zeros(7)) == row_count(np.zeros((7, 3))) == 7
    with pytest.raises(ArgumentError, match="rows"):
        row_count(-1)
