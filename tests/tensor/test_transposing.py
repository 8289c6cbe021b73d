"""Copies that change the order in memory, which BLAS makes where it can."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fedcore.tensor.blas import library
from fedcore.tensor.transposing import bind_copy

Array = np.ndarray[Any, Any]
LENGTHS = st.lists(st.integers(1, 4), min_size=1, max_size=5)
DTYPES = st.sampled_from([np.float32, np.float64, np.int64])


@given(LENGTHS, DTYPES, st.data())
def test_it_copies_what_numpy_copies_and_writes_nothing_else(
    lengths: list[int], dtype: type, data: st.DataObject
) -> None:
    source = laid_out(tuple(lengths), dtype, data)
    source[...] = 1 + np.arange(source.size).reshape(source.shape)
    out = laid_out(tuple(lengths), dtype, data)
    bind_copy(source, out)()
    assert np.array_equal(out, source)
    assert np.count_nonzero(out.base) == out.size


def laid_out(shape: tuple[int, ...], dtype: type, data: st.DataObject) -> Array:
    """Zeros of this shape whose axes lie in any order, each cut from a longer one or whole."""
    order = data.draw(st.permutations(range(len(shape))))
    room = [shape[axis] + data.draw(st.sampled_from([0, 0, 3])) for axis in order]
    turned = np.zeros(room, dtype).transpose([order.index(axis) for axis in range(len(shape))])
    cut: Array = turned[tuple(slice(0, length) for length in shape)]
    return cut


@pytest.mark.skipif(library() is None, reason="NumPy is not linked to OpenBLAS here")
def test_rows_with_gaps_are_transposed_by_blas() -> None:
    """The last block of a convolution's rows is smaller than its memory: 25 µs by NumPy, 5 so."""
    source = np.zeros((8, 10, 560), np.float32)[:, :8].transpose(1, 2, 0)
    out = np.zeros((8, 560, 8), np.float32)
    assert bind_copy(source, out).func is not np.copyto
