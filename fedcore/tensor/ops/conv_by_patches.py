"""The three products of a convolution through the full matrix of patches, for any array library.

Batched products by indexing alone: what a GPU runs, and what the tests compare with.
"""

from __future__ import annotations

import math
from typing import Any

from fedcore.tensor.ops.patches import add_patches, patches_of
from fedcore.tensor.ops.windows import Border, Pair

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
    windows = _windows(xp, x, w.shape[-4:-2], stride, padding, dilation)
    y = xp.matmul(_rows(windows), _rows(w))
    return _joined(xp, y.reshape(*y.shape[:-2], *windows.shape[-4:-1], -1), lanes, groups, out)


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
    parts = xp.matmul(_rows(g), _rows(w).swapaxes(-1, -2))
    (top, bottom), (left, right) = padding
    images = add_patches.kernel(
        xp,
        parts.reshape(*parts.shape[:-2], *g.shape[-4:-1], -1),
        size=(size[0] + top + bottom, size[1] + left + right),
        window=w.shape[-4:-2],
        stride=stride,
        dilation=dilation,
    )
    inside = images[..., top : top + size[0], left : left + size[1], :]
    return _joined(xp, inside, lanes, groups, out)


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
    """As the primitive `conv2d_weight_gradient`."""
    lanes = max(x.ndim, g.ndim) - 4
    x, g = as_lanes(x, groups), as_lanes(g, groups)
    windows = _windows(xp, x, kernel, stride, padding, dilation)
    w = xp.matmul(_rows(windows).swapaxes(-1, -2), _rows(g))
    return _joined(xp, w.reshape(*w.shape[:-2], *kernel, x.shape[-1], -1), lanes, groups, out)


def _windows(xp: Any, x: Any, window: Pair, stride: Pair, padding: Border, dilation: Pair) -> Any:
    widths = (*((0, 0),) * (x.ndim - 3), *padding, (0, 0))
    padded = xp.pad(x, widths)
    return patches_of.kernel(xp, padded, window=window, stride=stride, dilation=dilation)


def _rows(a: Any) -> Any:
    """The first three core axes as the rows of a matrix."""
    return a.reshape(*a.shape[:-4], math.prod(a.shape[-4:-1]), a.shape[-1])


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
