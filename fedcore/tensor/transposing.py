"""Copies that change the order in memory, by the BLAS inside NumPy where that is faster."""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from fedcore.tensor.blas import library

__all__ = ["bind_copy"]

_ROW_MAJOR, _TRANS = ctypes.c_int(101), ctypes.c_int(112)
_REAL: Final = {
    np.dtype(np.float32): ("s", ctypes.c_float),
    np.dtype(np.float64): ("d", ctypes.c_double),
}


def bind_copy(source: np.ndarray, out: np.ndarray) -> Callable[[], Any]:
    """A call that copies `source` into `out`, of the same shape; both may have any strides.

    Where the order in memory changes as that of a matrix, or of a stack of matrices, that is
    transposed, BLAS does it: (23,520, 8) takes 14 µs, `np.copyto` 49. The bits are the same.
    """
    blas = library()
    found = _as_transpositions(source, out) if blas else None
    if blas is None or found is None:
        return functools.partial(np.copyto, out, source)
    outer, (rows, columns), (gap, gap_after) = found
    letter, real = _REAL[out.dtype]
    function = blas[f"scipy_cblas_{letter}omatcopy64_"]
    function.restype = None
    calls = tuple(
        functools.partial(
            function,
            *(_ROW_MAJOR, _TRANS, ctypes.c_int64(rows), ctypes.c_int64(columns), real(1.0)),
            *(ctypes.c_void_p(_address(source, outer, at)), ctypes.c_int64(gap)),
            *(ctypes.c_void_p(_address(out, outer, at)), ctypes.c_int64(gap_after)),
        )
        for at in np.ndindex(*[out.shape[a] for a in outer])
    )
    return functools.partial(_run, calls, (source, out))


def _address(x: np.ndarray, axes: list[int], index: tuple[int, ...]) -> int:
    steps = zip(axes, index, strict=True)
    return int(x.ctypes.data) + sum(i * x.strides[a] for a, i in steps)


def _as_transpositions(
    source: np.ndarray, out: np.ndarray
) -> tuple[list[int], tuple[int, int], tuple[int, int]] | None:
    """The outer axes; rows and columns of the matrices in `source` that `out` holds transposed;
    and how many elements after a row the next one begins, in `source` and in `out`.
    """
    if source.dtype != out.dtype or out.dtype not in _REAL or 0 in out.shape:
        return None
    axes = [a for a, n in enumerate(out.shape) if n != 1]
    before, after = (sorted(axes, key=lambda a: -x.strides[a]) for x in (source, out))
    outer = []
    while before and before[0] == after[0]:
        outer.append(before.pop(0))
        after.pop(0)
    for cut in range(1, len(before)):
        rows, columns = before[:cut], before[cut:]
        if columns + rows == after:
            leading = _leading(source, rows, columns), _leading(out, columns, rows)
            size = [math.prod(source.shape[a] for a in part) for part in (rows, columns)]
            return (outer, (size[0], size[1]), leading) if all(leading) else None
    return None


def _leading(x: np.ndarray, rows: list[int], columns: list[int]) -> int:
    """How many elements after a row the next begins; 0 where these axes are no such matrix."""
    run = x.itemsize
    for axis in reversed(columns):
        if x.strides[axis] != run:
            return 0
        run *= x.shape[axis]
    step = after = x.strides[rows[-1]]
    for axis in reversed(rows):
        if x.strides[axis] != after:
            return 0
        after *= x.shape[axis]
    return step // x.itemsize if step >= run and step % x.itemsize == 0 else 0


def _run(calls: tuple[Callable[[], Any], ...], _alive: tuple[np.ndarray, ...]) -> None:
    for call in calls:
        call()
