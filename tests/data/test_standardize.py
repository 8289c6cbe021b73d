"""Standardised training data have mean 0 and deviation 1, whatever was missing or constant."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays

from fedcore.data import Dataset, standardize
from fedcore.errors import DatasetError, DtypeError


def with_features(x: np.ndarray) -> Dataset:
    return Dataset(x, np.zeros(len(x)), "measured")


@given(
    arrays(
        np.float64,
        st.tuples(st.integers(1, 12), st.integers(1, 4)),
        elements=st.floats(-1e6, 1e6) | st.just(np.nan) | st.just(1e5),
    )
)
def test_each_feature_gets_mean_zero_and_deviation_one_or_is_constant(x: np.ndarray) -> None:
    scaled = standardize(with_features(x))(with_features(x)).x
    assert scaled.dtype == np.float32 and np.isfinite(scaled).all()
    assert (scaled[np.isnan(x)] == 0).all()
    for before, after in zip(x.T, scaled.T, strict=True):
        seen = after[~np.isnan(before)].astype(np.float64)
        if len(np.unique(before[~np.isnan(before)])) < 2:
            assert (np.abs(after) < 1e-6).all()
        elif np.ptp(before[~np.isnan(before)]) > 1e-3:
            # float32 keeps 24 bits of each of at most 12 values of magnitude below 4
            assert abs(seen.mean()) < 1e-5 and abs(seen.std() - 1) < 1e-5


def test_the_statistics_are_those_of_the_training_rows_alone() -> None:
    transform = standardize(with_features(np.array([[0.0], [2.0]])))
    assert transform(with_features(np.array([[4.0]]))).x.tolist() == [[3.0]]
    assert transform.mean.tolist() == [1.0] and transform.scale.tolist() == [1.0]


def test_images_are_standardised_by_channel() -> None:
    x = np.random.default_rng(0).normal([5.0, -3.0], [2.0, 0.1], size=(20, 4, 4, 2))
    scaled = standardize(with_features(x))(with_features(x)).x
    assert np.allclose(scaled.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    assert np.allclose(scaled.std(axis=(0, 1, 2)), 1, atol=1e-5)


def test_small_differences_of_large_values_survive() -> None:
    x = (1.7e9 + np.array([0.0, 1.0])).reshape(2, 1)  # seconds since 1970; float32 steps by 128
    assert standardize(with_features(x))(with_features(x)).x.tolist() == [[-1.0], [1.0]]


def test_targets_and_name_pass_through() -> None:
    data = with_features(np.array([[1], [2]], np.uint8))
    after = standardize(data)(data)
    assert after.name == "measured" and after.y is not None and (after.y == data.y).all()


def test_what_has_no_mean_is_refused() -> None:
    fitted = standardize(with_features(np.zeros((2, 2))))
    with pytest.raises(DatasetError, match="expected"):
        fitted(with_features(np.zeros((2, 3))))
    with pytest.raises(DatasetError, match="expected"):
        standardize(with_features(np.zeros(3)))
    with pytest.raises(DatasetError, match="infinities"):
        standardize(with_features(np.array([[np.inf]])))
    with pytest.raises(DtypeError, match="<U1"):
        standardize(with_features(np.array([["a"]])))


def test_a_value_that_is_beyond_float32_in_standard_deviations_is_refused() -> None:
    measured = np.array([[0.0], [8.450352704465533e-38]], np.float32)
    fitted = standardize(with_features(measured))
    assert fitted(with_features(measured)).x.tolist() == [[-1.0], [1.0]]
    with pytest.raises(DatasetError, match="beyond float32"):
        fitted(with_features(np.array([[15.0]], np.float32)))
    with pytest.raises(DatasetError, match="beyond float32"):
        fitted(with_features(np.array([[1e300]])))
