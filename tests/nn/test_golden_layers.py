"""Layers and their gradients are those of PyTorch, as stored."""

from __future__ import annotations

import numpy as np
import pytest

from tests.golden.case import assert_equal_up_to_rounding, our_results, read
from tests.golden.make_layers import CASES, FILE


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_equal_pytorchs(case: str, dtype: type) -> None:
    assert_equal_up_to_rounding(our_results(CASES[case], dtype), read(FILE, case))
