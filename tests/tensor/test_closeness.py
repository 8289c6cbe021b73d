"""Closeness is NumPy's, also of infinities and NaN."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

import fedcore as fc
from fedcore.errors import ArgumentError, DtypeError
from fedcore.tensor.tensor import tensor

NUMBERS = st.sampled_from([0.0, -1.0, 1.0, 1.0 + 1e-6, 1.0 + 1e-3, 7.0, np.inf, -np.inf, np.nan])
PAIRS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=6)


@given(PAIRS, st.sampled_from([0.0, 1e-5, 1e-2]), st.sampled_from([0.0, 1e-8, 0.5]), st.booleans())
def test_closeness_is_numpys(
    pairs: list[tuple[float, float]], rtol: float, atol: float, equal_nan: bool
) -> None:
    a, b = np.array(pairs).T
    options: dict[str, Any] = {"rtol": rtol, "atol": atol, "equal_nan": equal_nan}
    expected = np.isclose(a, b, **options)
    found = fc.isclose(tensor(a), tensor(b), **options)
    np.testing.assert_array_equal(found.numpy(), expected, strict=True)
    assert bool(fc.allclose(tensor(a), tensor(b), **options)) is bool(expected.all())


def test_plain_numbers_and_integers_are_compared_too() -> None:
    x = tensor([1, 2])
    assert fc.isclose(x, 1.0).tolist() == [True, False]
    assert fc.isclose(1, x + 1e-7).tolist() == [True, False]
    assert bool(fc.allclose(1.0, 1.0 + 1e-9))
    assert bool(fc.allclose([True, False], [1.0, 0.0]))


def test_a_tolerance_is_a_number_that_is_not_negative() -> None:
    for option in ("rtol", "atol"):
        with pytest.raises(ArgumentError, match=f"isclose: {option}"):
            fc.isclose(1.0, 1.0, **{option: -1.0})  # type: ignore[arg-type]
    with pytest.raises(DtypeError, match="isclose"):
        fc.isclose(np.ones(2, np.float32), np.ones(2))
