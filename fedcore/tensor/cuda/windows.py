"""Windows of images on a GPU: unfolding them (im2col), adding them up (col2im), their maxima.

Images are (..., N, H, W, C) and windows (..., N, Ho, Wo, KH, KW, C). Each thread makes one element
of the result and gathers what belongs to it, so that sums are always taken in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fedcore.tensor.cuda.kernel import Kernel, dense, in_words

__all__ = ["Windows", "fold", "gather_maxima", "route_to_maxima", "unfold"]

Pair = tuple[int, int]

_GEOMETRY = """
#define GEOMETRY I height, I width, I channels, I down, I across, I kh, I kw, \\
    I sh, I sw, I top, I left, I dh, I dw
"""

_UNFOLD = """
extern "C" __global__ void unfold(I count, const T* images, T* windows, GEOMETRY) {
    EACH(i, count) {
        I rest = i / channels, c = i % channels;
        I kx = rest % kw; rest /= kw;
        I ky = rest % kh; rest /= kh;
        I x = rest % across * sw + kx * dw - left; rest /= across;
        I y = rest % down * sh + ky * dh - top, n = rest / down;
        bool inside = y >= 0 && y < height && x >= 0 && x < width;
        windows[i] = inside ? images[((n * height + y) * width + x) * channels + c] : T();
    }
}
"""

_FOLD = """
extern "C" __global__ void fold(I count, const T* windows, T* images, GEOMETRY) {
    EACH(i, count) {
        I rest = i / channels, c = i % channels;
        I x = rest % width + left; rest /= width;
        I y = rest % height + top, n = rest / height;
        T sum = 0;
        for (I ky = 0; ky < kh; ky++) {
            I row = y - ky * dh;
            if (row < 0 || row % sh || row / sh >= down) continue;
            for (I kx = 0; kx < kw; kx++) {
                I column = x - kx * dw;
                if (column < 0 || column % sw || column / sw >= across) continue;
                I place = (n * down + row / sh) * across + column / sw;
                sum += windows[((place * kh + ky) * kw + kx) * channels + c];
            }
        }
        images[i] = sum;
    }
}
"""

_MAXIMUM = """
// The place of the first largest element of a window, column by column, as on the host; a NaN is
// the largest.
__device__ I maximum(const T* images, I n, I row, I column, I c, GEOMETRY) {
    I best = ((n * height + row * sh) * width + column * sw) * channels + c, first = best;
    for (I kx = 0; kx < kw; kx++)
        for (I ky = 0; ky < kh; ky++) {
            I here = first + (ky * width + kx) * channels;
            T value = images[here], most = images[best];
            if (value > most || (value != value && most == most)) best = here;
        }
    return best;
}
#define MAXIMUM(n, row, column, c) maximum(images, n, row, column, c, height, width, channels, \\
    down, across, kh, kw, sh, sw, top, left, dh, dw)
"""

_GATHER_MAXIMA = """
extern "C" __global__ void gather_maxima(
    I count, const T* values, const T* images, T* result, GEOMETRY) {
    EACH(i, count) {
        I rest = i / channels, c = i % channels;
        I column = rest % across; rest /= across;
        result[i] = values[MAXIMUM(rest / down, rest % down, column, c)];
    }
}
"""

_ROUTE_TO_MAXIMA = """
extern "C" __global__ void route_to_maxima(
    I count, const T* values, const T* images, T* result, GEOMETRY) {
    EACH(i, count) {
        I rest = i / channels, c = i % channels;
        I x = rest % width; rest /= width;
        I y = rest % height, n = rest / height;
        T sum = 0;
        for (I row = y < kh ? 0 : (y - kh) / sh + 1; row < down && row * sh <= y; row++)
            for (I column = x < kw ? 0 : (x - kw) / sw + 1; column < across && column * sw <= x;
                 column++)
                if (MAXIMUM(n, row, column, c) == i)
                    sum += values[((n * down + row) * across + column) * channels + c];
        result[i] = sum;
    }
}
"""

_unfold = Kernel("unfold", _GEOMETRY + _UNFOLD)
_fold = Kernel("fold", _GEOMETRY + _FOLD)
_gather_maxima = Kernel("gather_maxima", _GEOMETRY + _MAXIMUM + _GATHER_MAXIMA)
_route_to_maxima = Kernel("route_to_maxima", _GEOMETRY + _MAXIMUM + _ROUTE_TO_MAXIMA)


@dataclass(frozen=True, slots=True)
class Windows:
    """How windows lie on images: heights before widths.

    `places` counts the windows, `stride` is the step from one to the next, `corner` the border
    above and to the left of the image, `dilation` the step inside a window.
    """

    size: Pair
    places: Pair
    window: Pair
    stride: Pair
    corner: Pair = (0, 0)
    dilation: Pair = (1, 1)

    def numbers(self, channels: int) -> tuple[int, ...]:
        """The kernels' parameters GEOMETRY."""
        return (
            *self.size,
            channels,
            *self.places,
            *self.window,
            *self.stride,
            *self.corner,
            *self.dilation,
        )


def unfold(xp: Any, images: Any, windows: Windows) -> Any:
    """The windows (..., Ho, Wo, KH, KW, C) of images (..., H, W, C), with zeros for the border."""
    images = dense(xp, images)
    *lead, _, _, channels = images.shape
    result = xp.empty((*lead, *windows.places, *windows.window, channels), dtype=images.dtype)
    words = in_words(images, result) or (images, result)
    _run(xp, _unfold, words, windows, words[0].shape[-1])
    return result


def fold(xp: Any, parts: Any, windows: Windows) -> Any:
    """Images (..., H, W, C) whose pixels are the sums of the windows' elements they lie under.

    The sum is taken in the order of the window. Shapes: parts (..., Ho, Wo, KH, KW, C).
    """
    parts = dense(xp, parts)
    channels = parts.shape[-1]
    result = xp.empty((*parts.shape[:-5], *windows.size, channels), dtype=parts.dtype)
    _run(xp, _fold, (parts, result), windows, channels)
    return result


def gather_maxima(xp: Any, values: Any, images: Any, windows: Windows) -> Any:
    """The `values` at the first maximum of each window of `images`: (..., Ho, Wo, C).

    With the images as their own values these are the maxima.
    """
    shape = np.broadcast_shapes(values.shape, images.shape)
    images = dense(xp, images, shape)
    values = images if values is images else dense(xp, values, shape)
    result = xp.empty((*shape[:-3], *windows.places, shape[-1]), dtype=values.dtype)
    _run(xp, _gather_maxima, (values, images, result), windows, shape[-1])
    return result


def route_to_maxima(xp: Any, values: Any, images: Any, windows: Windows) -> Any:
    """Images with each of `values` (..., Ho, Wo, C) at the first maximum of its window."""
    shape = (*np.broadcast_shapes(values.shape[:-3], images.shape[:-3]), *images.shape[-3:])
    images = dense(xp, images, shape)
    values = dense(xp, values, (*shape[:-3], *values.shape[-3:]))
    result = xp.empty(shape, dtype=values.dtype)
    _run(xp, _route_to_maxima, (values, images, result), windows, shape[-1])
    return result


def _run(xp: Any, kernel: Kernel, arrays: tuple[Any, ...], windows: Windows, channels: int) -> None:
    result = arrays[-1]
    assert {a.dtype for a in arrays} == {result.dtype}, "a kernel reads all as one type"
    kernel(xp, result.size, *arrays, *windows.numbers(channels), dtype=result.dtype)
