"""Convolutions and pooling, and their gradients, are those of PyTorch, as stored."""

from __future__ import annotations

import numpy as np
import pytest

from fedcore import nn
from fedcore.errors import ArgumentError
from tests.golden.case import assert_equal_up_to_rounding, our_results, read
from tests.golden.make_convolution import CASES, FILE


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_equal_pytorchs(case: str, dtype: type) -> None:
    assert_equal_up_to_rounding(our_results(CASES[case], dtype), read(FILE, case))


def test_an_output_padding_of_the_stride_is_refused_also_where_the_dilation_is_larger() -> None:
    layer = nn.ConvTranspose2d(1, 1, 2, key=0, stride=2, dilation=3, output_padding=2)
    with pytest.raises(ArgumentError, match="output_padding"):
        layer(np.ones((1, 3, 3, 1), np.float32))
