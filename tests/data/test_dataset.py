"""A dataset is checked once, never changes, and loses no row."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fedcore.data import Dataset, concat
from fedcore.errors import ArgumentError, AxisError, DatasetError, DtypeError, FedcoreError


def numbered(rows: int) -> Dataset:
    return Dataset(np.arange(rows * 2.0).reshape(rows, 2), np.arange(rows), "numbered")


@given(st.integers(1, 20), st.data())
def test_indexing_selects_the_rows_that_numpy_selects(rows: int, data: st.DataObject) -> None:
    dataset = numbered(rows)
    bound = st.none() | st.integers(-25, 25)
    choice: Any = data.draw(
        st.builds(slice, bound, bound, st.none() | st.integers(1, 3))
        | st.lists(st.integers(-rows, rows - 1), max_size=30)
        | st.lists(st.booleans(), min_size=rows, max_size=rows).map(np.array)
    )
    nothing = isinstance(choice, list) and not choice  # NumPy reads [] as floats
    expected = dataset.y[:0] if nothing else dataset.y[choice]
    if len(expected) == 0:
        with pytest.raises(DatasetError, match="empty"):
            dataset[choice]
    else:
        part = dataset[choice]
        assert part.y.tolist() == expected.tolist()
        assert part.x[:, 0].tolist() == (2.0 * expected).tolist()
        assert part.name == "numbered"


def test_a_slice_shares_memory_and_nothing_can_be_written() -> None:
    source = np.zeros((4, 2))
    dataset = Dataset(source, np.arange(4))
    assert np.shares_memory(dataset[1:3].x, source)
    assert source.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        dataset.x[0] = 1
    with pytest.raises(AttributeError):
        dataset.x = source  # type: ignore[misc]


@pytest.mark.parametrize(
    ("x", "y", "error"),
    [
        (np.zeros((3, 2)), np.zeros(4), DatasetError),
        (np.zeros((0, 2)), np.zeros(0), DatasetError),
        (np.zeros(()), np.zeros(()), DatasetError),
        (np.array([{}, {}]), np.zeros(2), DtypeError),
        (np.zeros(2), np.array(["a", None]), DtypeError),
        ([1.0, 2.0], np.zeros(2), DtypeError),
    ],
)
def test_parts_that_do_not_fit_are_refused(x: Any, y: Any, error: type[FedcoreError]) -> None:
    with pytest.raises(error) as caught:
        Dataset(x, y)
    assert caught.value.why and caught.value.fix


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ([0, 5], AxisError),
        ([-6], AxisError),
        (np.ones(4, bool), DatasetError),
        (2, ArgumentError),
        ([0.5], ArgumentError),
        ([[0, 1]], ArgumentError),
        (["a"], ArgumentError),
    ],
)
def test_a_selection_that_names_no_rows_is_refused(rows: Any, error: type[FedcoreError]) -> None:
    with pytest.raises(error) as caught:
        numbered(5)[rows]
    assert caught.value.why and caught.value.fix


@given(st.integers(1, 60), st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 99))
def test_a_split_shares_out_every_row_once(rows: int, ratio: list[int], seed: int) -> None:
    shares = [part / sum(ratio) for part in ratio]
    try:
        parts = numbered(rows).split(shares, seed=seed)
    except DatasetError:
        # A share between k and k + 1 rows may round down to k: refused only if below one row and
        # a half of rounding at either bound.
        assert min(shares) * rows < 1
        return
    assert sorted(np.concatenate([part.y for part in parts]).tolist()) == list(range(rows))
    for part, share in zip(parts, shares, strict=True):
        assert abs(len(part) - share * rows) <= 1
        assert part.x[:, 0].tolist() == (2.0 * part.y).tolist()


def test_a_share_of_one_row_has_one_wherever_its_bounds_lie() -> None:
    for ratio in itertools.product(range(1, 10), repeat=3):
        shares = [part / sum(ratio) for part in ratio]
        for rows in range(-(-sum(ratio) // min(ratio)), 3 * sum(ratio)):
            assert len(numbered(rows).split(shares, seed=0)) == 3, (rows, ratio)


def test_a_split_depends_on_its_seed_alone() -> None:
    first, second = (numbered(50).split(0.8, seed=3) for _ in range(2))
    other = numbered(50).split(0.8, seed=4)
    assert [part.y.tolist() for part in first] == [part.y.tolist() for part in second]
    assert first[0].y.tolist() != other[0].y.tolist()
    assert [len(part) for part in first] == [40, 10]


@pytest.mark.parametrize(
    "fractions", [0.0, 1.0, -0.1, 1.5, [], [0.5], [0.5, 0.6], [1.2, -0.2], "half", None]
)
def test_fractions_that_do_not_share_out_everything_are_refused(fractions: Any) -> None:
    with pytest.raises(ArgumentError, match="fractions"):
        numbered(10).split(fractions, seed=0)


def test_a_split_with_an_empty_part_is_refused() -> None:
    with pytest.raises(DatasetError, match="empty"):
        numbered(3).split(0.01, seed=0)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_concat_undoes_cutting(sizes: list[int]) -> None:
    whole = numbered(sum(sizes))
    ends = np.cumsum(sizes)
    parts = [whole[end - size : end] for size, end in zip(sizes, ends, strict=True)]
    again = concat(parts, name="again")
    assert (again.x == whole.x).all() and (again.y == whole.y).all() and again.name == "again"


def test_concat_refuses_unlike_rows_and_nothing() -> None:
    narrow = Dataset(np.zeros((2, 1)), np.arange(2))
    floats = Dataset(np.zeros((2, 2)), np.zeros(2))
    for datasets in ([], [numbered(2), narrow], [numbered(2), floats]):
        with pytest.raises(DatasetError, match="concat"):
            concat(datasets)


def test_repr_says_shapes_and_no_data() -> None:
    assert repr(numbered(2)) == "Dataset('numbered', x float64 (2, 2), y int64 (2,))"
