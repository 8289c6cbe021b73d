"""Rows written to places that may repeat, on a GPU: added up, or the last of them kept.

The places are sorted, stably, and one thread takes all rows of one place in the order in which they
stand: the result is that of a loop on the host, whatever the order in which threads run.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fedcore.tensor.cuda.kernel import Kernel, dense

__all__ = ["add_rows", "put_rows"]

# A place outside of the result is left out: nobody has checked it, because that would wait for the
# device, and it must not write to foreign memory.

_ADD_ROWS = """
extern "C" __global__ void add_rows(I count, const long long* order, const long long* places,
                                    const T* values, T* result, I rows, I width, I length) {
    EACH(i, count) {
        I first = i / width, c = i % width;
        long long place = places[order[first]];
        if (place < 0 || place >= length) continue;
        if (first > 0 && places[order[first - 1]] == place) continue;
        T sum = 0;
        for (I at = first; at < rows && places[order[at]] == place; at++)
            sum += values[(I)order[at] * width + c];
        result[(I)place * width + c] = sum;
    }
}
"""

_PUT_ROWS = """
extern "C" __global__ void put_rows(I count, const long long* order, const long long* places,
                                    const T* values, T* result, I rows, I width, I length) {
    EACH(i, count) {
        I last = i / width, c = i % width;
        long long place = places[order[last]];
        if (place < 0 || place >= length) continue;
        if (last + 1 < rows && places[order[last + 1]] == place) continue;
        result[(I)place * width + c] = values[(I)order[last] * width + c];
    }
}
"""

_add_rows = Kernel("add_rows", _ADD_ROWS)
_put_rows = Kernel("put_rows", _PUT_ROWS)


def add_rows(xp: Any, places: Any, values: Any, result: Any) -> None:
    """Write to each row of `result` that is a place the sum of its `values`; others stay.

    Shapes: places (R,) int64, values (R, width), result (length, width) in row-major order.
    """
    _run(xp, _add_rows, places, values, result)


def put_rows(xp: Any, places: Any, values: Any, result: Any) -> None:
    """Write to each row of `result` that is a place the last of its `values`; others stay.

    Shapes: as `add_rows`.
    """
    _run(xp, _put_rows, places, values, result)


def _run(xp: Any, kernel: Kernel, places: Any, values: Any, result: Any) -> None:
    if not values.size:
        return
    assert values.dtype == result.dtype, "a kernel reads both as one type"
    places, values = dense(xp, places.astype(np.int64, copy=False)), dense(xp, values)
    order = xp.argsort(places)  # CuPy's sort is stable, and of equal places the first stays first
    rows, width = values.shape
    arrays = (order, places, values, result)
    kernel(xp, values.size, *arrays, rows, width, len(result), dtype=values.dtype)
