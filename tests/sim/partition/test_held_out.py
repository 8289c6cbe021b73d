"""What clients hold out is theirs, is never trained on, and follows from the seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fedcore.errors import ArgumentError
from fedsim.partition import HeldOutRows, Partition, hold_out, rows_of_names
from fedsim.partition.by_id import natural

SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=8)


def partition_of(sizes: list[int]) -> Partition:
    rows = np.random.default_rng(len(sizes)).permutation(sum(sizes))
    return Partition.of(np.split(rows, np.cumsum(sizes)[:-1]), names=[f"n{i}" for i in sizes])


@given(SIZES, st.floats(0.01, 0.99), st.integers(0, 3))
def test_each_client_holds_out_its_share_and_trains_on_all_the_rest(
    sizes: list[int], share: float, seed: int
) -> None:
    whole = Partition.of([list(part) for part in partition_of(sizes)])
    wanted = [min(int(np.floor(share * size + 0.5)), size - 1) for size in sizes]
    if not any(wanted):
        with pytest.raises(ArgumentError, match="held out"):
            hold_out(whole, share=share, seed=seed)
        return
    trained, held = hold_out(whole, share=share, seed=seed)
    assert trained.names == whole.names and len(held) == len(whole)
    assert held.clients.tolist() == [place for place, count in enumerate(wanted) if count]
    for place, rows in enumerate(whole):
        kept, out = trained[place].tolist(), held[place].tolist()
        assert len(out) == wanted[place] and len(kept) >= 1
        assert sorted([*kept, *out]) == sorted(rows.tolist())
        order = rows.tolist().index
        assert kept == sorted(kept, key=order) and out == sorted(out, key=order)


def test_what_is_held_out_follows_from_the_seed() -> None:
    whole = partition_of([50, 50, 50])
    first, again, other = (hold_out(whole, share=0.3, seed=seed)[1] for seed in (1, 1, 2))
    assert np.array_equal(first.rows, again.rows)
    assert not np.array_equal(first.rows, other.rows)


@given(
    st.lists(st.sampled_from("abcde"), min_size=1, max_size=30),
    st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=30),
)
def test_rows_belong_to_the_client_that_their_id_names(train: list[str], test: list[str]) -> None:
    names = natural(np.array(train)).names
    found = rows_of_names(np.array(test), names)
    assert len(found) == len(names)
    for place, name in enumerate(names):
        assert found[place].tolist() == [row for row, of in enumerate(test) if of == name]


def test_ids_that_are_numbers_name_clients_as_natural_does() -> None:
    names = natural(np.array([7, 9, 7, 12])).names
    found = rows_of_names(np.array([12, 7, 3, 12]), names)
    assert [found[place].tolist() for place in range(3)] == [[1], [], [0, 3]]


def test_where_nobody_holds_anything_out_there_are_no_rows() -> None:
    none = HeldOutRows.none(3)
    assert len(none) == 3 and none.clients.size == 0 and none[2].size == 0


@pytest.mark.parametrize("most", [2, 3, 7, 100, 499, 501, 5000])
def test_the_share_that_is_said_to_do_does(most: int) -> None:
    whole = partition_of([most, 1])
    with pytest.raises(ArgumentError) as refused:
        hold_out(whole, share=1e-9, seed=0)
    share = float(refused.value.fix.split()[5])
    assert len(hold_out(whole, share=share, seed=0)[1].rows) >= 1
    assert share < 0.5 / most + 0.002


def test_clients_of_one_row_are_told_of_no_share_for_none_would_do() -> None:
    whole = partition_of([1, 1])
    with pytest.raises(ArgumentError, match="one row stays") as refused:
        hold_out(whole, share=0.99, seed=0)
    assert "share" not in refused.value.fix and "fewer clients" in refused.value.fix
