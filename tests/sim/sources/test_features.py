"""Missing features and scales are measured on the training rows, and on nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fedcore.data import Dataset
from fedcore.errors import DatasetError
from fedsim.sources import Source
from fedsim.sources.features import imputed, standardized

NAN = float("nan")
NUMBERS = st.lists(
    st.lists(st.none() | st.floats(-50, 50, width=32), min_size=2, max_size=2),
    min_size=1,
    max_size=8,
)


def source_of(train: list[list[float | None]], test: list[list[float | None]]) -> Source:
    made = [
        Dataset(
            np.array([[NAN if v is None else v for v in row] for row in rows], np.float32),
            np.zeros(len(rows), np.int64),
        )
        for rows in (train, test)
    ]
    return Source(*made, classes=1)


@given(NUMBERS, NUMBERS, NUMBERS)
def test_the_test_rows_change_nothing_of_what_is_trained_on(
    train: list[list[float | None]], test: list[list[float | None]], other: list[list[float | None]]
) -> None:
    for made in (imputed, standardized):
        try:
            one, same = (made(source_of(train, held)) for held in (test, other))
        except DatasetError as refused:
            # Training rows that hardly differ, in whose units a test row is beyond float32.
            assert made is standardized and "beyond float32" in str(refused)
            made(source_of(train, train))
            continue
        assert np.array_equal(one.train.x, same.train.x)
        assert np.isfinite(one.train.x).all()


@given(NUMBERS, NUMBERS)
def test_what_is_missing_is_the_mean_of_what_is_not(
    train: list[list[float | None]], test: list[list[float | None]]
) -> None:
    source = source_of(train, test)
    found = imputed(source)
    assert source.test is not None and found.test is not None
    for column in (0, 1):
        present = [row[column] for row in train if row[column] is not None]
        mean = np.float32(sum(present) / len(present)) if present else 0.0
        for raw, filled in ((source.train, found.train), (source.test, found.test)):
            missing = np.isnan(raw.x[:, column])
            assert np.allclose(filled.x[missing, column], mean, atol=1e-4)
            assert np.array_equal(filled.x[~missing, column], raw.x[~missing, column])


def test_features_that_are_all_there_and_codes_are_left_as_they_are() -> None:
    source = source_of([[1.0, 2.0]], [[3.0, 4.0]])
    assert imputed(source) is source
    codes = Source(Dataset(np.ones((2, 3), np.uint8), np.zeros(2, np.int64)), classes=1)
    assert imputed(codes) is codes


def test_a_test_row_beyond_float32_in_units_of_the_training_rows_is_refused() -> None:
    train: list[list[float | None]] = [[0.0, None], [8.450352704465533e-38, None]]
    assert np.isfinite(standardized(source_of(train, train)).train.x).all()
    with pytest.raises(DatasetError, match="beyond float32"):
        standardized(source_of(train, [[15.0, None]]))
