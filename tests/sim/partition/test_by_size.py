"""Sizes follow their law, and which rows a client has says nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedcore.errors import ArgumentError
from fedsim.partition.by_size import exponential, linear, log_normal, square


def test_sizes_are_the_hand_computed_ones() -> None:
    assert linear(100, 4, seed=1).sizes().tolist() == [10, 20, 30, 40]
    assert square(1400, 3, seed=1).sizes().tolist() == [100, 400, 900]
    assert exponential(1110, 3, ratio=100, seed=1).sizes().tolist() == [10, 100, 1000]
    assert linear(100, 4, minimum=25, seed=1).sizes().tolist() == [25] * 4
    assert exponential(10, 1, seed=1).sizes().tolist() == [10]


def test_ten_thousand_clients_overflow_no_exponential() -> None:
    sizes = exponential(10**6, 10_000, ratio=1e12, minimum=3, seed=1).sizes()
    assert (sizes.sum(), sizes.min()) == (10**6, 3)


def test_logarithms_of_sizes_have_the_deviation_that_was_asked_for() -> None:
    sizes = log_normal(10**6, 2000, sigma=0.5, seed=3).sizes()
    # 2,000 draws: the deviation's standard error is 0.5/√4,000 = 0.008.
    assert np.log(sizes).std() == pytest.approx(0.5, abs=0.04)
    equal = log_normal(100, 7, sigma=0, seed=1).sizes()
    assert equal.max() - equal.min() <= 1


def test_rows_are_dealt_at_random() -> None:
    last = linear(10_000, 4, seed=2)[3]
    # 4,000 of 10,000 without replacement: the mean's standard error is 2,887·√(0.6/4,000) = 35.
    assert last.mean() == pytest.approx(4999.5, abs=180)


@pytest.mark.parametrize(
    ("split", "options"),
    [
        (exponential, {"ratio": 0.5}),
        (exponential, {"ratio": float("inf")}),
        (exponential, {"ratio": float("nan")}),
        (log_normal, {"sigma": -1}),
        (log_normal, {"sigma": float("nan")}),
        (log_normal, {"sigma": 1e9}),
    ],
)
def test_a_law_that_is_none_is_refused(split: Any, options: dict[str, float]) -> None:
    with pytest.raises(ArgumentError, match=next(iter(options))):
        split(100, 3, seed=1, **options)
