"""The three products of a convolution on a GPU: unfold the images, one batched product, fold.

All windows of all lanes are unfolded at once, which takes KH·KW times the memory of the images; the
chunk of `vmap` bounds it.
"""

from __future__ import annotations

import math
from typing import Any

from fedcore.tensor.cuda.windows import Windows, fold, unfold
from fedcore.tensor.ops.windows import Border, Pair, slid

__all__ = ["as_lanes", "convolve", "input_gradient", "weight_gradient"]


def as_lanes(a: Any, groups: int) -> Any:
    """Images (..., N, H, W, C) as (..., G, N, H, W, C / G), and kernels likewise by F: a view.

    Without groups a lane axis is added only if there is none.
    """
    if groups == 1:
        return a if a.ndim > 4 else a[None]
    split = a.reshape(*a.shape[:-1], groups, a.shape[-1] // groups)
    rank = split.ndim
    return split.transpose(*range(rank - 5), rank - 2, *range(rank - 5, rank - 2), rank - 1)


def convolve(
    xp: Any,
    x: Any,
    w: Any,
    *,
    stride: Pair,
    padding: Border,
    dilation: Pair,
    groups: int,
    out: Any = None,
) -> Any:
    """As the primitive `conv2d`."""
    lanes = max(x.ndim, w.ndim) - 4
    x, w = as_lanes(x, groups), as_lanes(w, groups)
    windows = _windows(x.shape[-3:-1], w.shape[-4:-2], stride, padding, dilation)
    y = xp.matmul(_matrix(unfold(xp, x, windows), 6), _matrix(w, 4))
    y = y.reshape(*y.shape[:-2], x.shape[-4], *windows.places, w.shape[-1])
    return _joined(xp, y, lanes, groups, out)


def input_gradient(
    xp: Any,
    g: Any,
    w: Any,
    *,
    size: Pair,
    stride: Pair,
    padding: Border,
    dilation: Pair,
    groups: int,
    out: Any = None,
) -> Any:
    """As the primitive `conv2d_input_gradient`."""
    lanes = max(g.ndim, w.ndim) - 4
    g, w = as_lanes(g, groups), as_lanes(w, groups)
    windows = _windows(size, w.shape[-4:-2], stride, padding, dilation)
    parts = xp.matmul(_matrix(g, 4), _matrix(w, 4).swapaxes(-1, -2))
    parts = parts.reshape(*parts.shape[:-2], *g.shape[-4:-1], *w.shape[-4:-1])
    return _joined(xp, fold(xp, parts, windows), lanes, groups, out)


def weight_gradient(
    xp: Any,
    x: Any,
    g: Any,
    *,
    kernel: Pair,
    stride: Pair,
    padding: Border,
    dilation: Pair,
    groups: int,
    out: Any = None,
) -> Any:
    """As the primitive `conv2d_weight_gradient`.

    The product is taken transposed: CuPy copies a transposed operand of a batch, and the windows
    are the large one.
    """
    lanes = max(x.ndim, g.ndim) - 4
    x, g = as_lanes(x, groups), as_lanes(g, groups)
    windows = _windows(x.shape[-3:-1], kernel, stride, padding, dilation)
    turned = xp.matmul(_matrix(g, 4).swapaxes(-1, -2), _matrix(unfold(xp, x, windows), 6))
    w = turned.swapaxes(-1, -2)
    return _joined(
        xp, w.reshape(*w.shape[:-2], *kernel, x.shape[-1], g.shape[-1]), lanes, groups, out
    )


def _windows(size: Pair, window: Pair, stride: Pair, padding: Border, dilation: Pair) -> Windows:
    down, across = (
        slid(n, k, stride=s, dilation=d, border=b)
        for n, k, s, d, b in zip(size, window, stride, dilation, padding, strict=True)
    )
    corner = (padding[0][0], padding[1][0])
    return Windows(size, (down, across), window, stride, corner, dilation)


def _matrix(a: Any, rank: int) -> Any:
    """The last `rank` axes as a matrix: the first three of them are its rows."""
    at = a.ndim - rank
    return a.reshape(*a.shape[:at], math.prod(a.shape[at : at + 3]), math.prod(a.shape[at + 3 :]))


def _joined(xp: Any, y: Any, lanes: int, groups: int, out: Any) -> Any:
    """The undoing of `as_lanes`, written into `out` if it is given."""
    if groups == 1:
        y = y if lanes else y[0]
    else:
        rank = y.ndim
        y = y.transpose(*range(rank - 5), *range(rank - 4, rank - 1), rank - 5, rank - 1)
        y = y.reshape(*y.shape[:-2], groups * y.shape[-1])
    if out is None:
        return y
    xp.copyto(out, y)
    return out
