"""The error function on a GPU, from CUDA's own library: exact in both precisions."""

from __future__ import annotations

from typing import Any

from fedcore.tensor.cuda.kernel import Kernel, dense

__all__ = ["erf"]

_ERF = """
extern "C" __global__ void erf_of(I count, const T* x, T* y) {
    EACH(i, count) y[i] = erf(x[i]);
}
"""

_erf = Kernel("erf_of", _ERF)


def erf(xp: Any, x: Any) -> Any:
    """The error function of each element, by CUDA's `erf`."""
    x = dense(xp, x)
    y = xp.empty(x.shape, dtype=x.dtype)
    _erf(xp, x.size, x, y, dtype=x.dtype)
    return y
