"""Activations and their derivatives are those of PyTorch, as stored, and never overflow."""

from __future__ import annotations

import numpy as np
import pytest

from tests.golden.case import our_results, read
from tests.golden.make_activations import ACTIVATIONS, CASES, EXTREME, FILE, activation

# The derivative of an exponential or of a logistic function is good to a few roundings of 1, and
# grows with the argument where the function is multiplied by it.
ROUNDINGS = 32


def roundings(name: str, dtype: type) -> float:
    """In units of the last place of `dtype` at 1."""
    if name == "gelu_exact" and dtype == np.float32:
        return 5e-7 / float(np.finfo(dtype).eps) * 4  # erf is a formula good to 5e-7 there
    return ROUNDINGS


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("case", CASES)
def test_values_and_derivatives_equal_pytorchs(case: str, dtype: type) -> None:
    found, expected = our_results(CASES[case], dtype), read(FILE, case)
    assert sorted(found) == sorted(expected)
    atol = roundings(case.removesuffix("_extreme"), dtype) * float(np.finfo(dtype).eps)
    for name, value in found.items():
        np.testing.assert_allclose(
            value, expected[name].astype(dtype), rtol=atol, atol=atol, err_msg=name, strict=True
        )


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_nothing_overflows_at_extreme_values(name: str, dtype: type) -> None:
    with np.errstate(over="raise", invalid="raise"):
        for value in our_results(activation(name, EXTREME), dtype).values():
            assert np.isfinite(value).all()
