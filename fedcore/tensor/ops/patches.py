"""Patches: the windows of images side by side, and their transpose, which adds them up (im2col)."""

from __future__ import annotations

from typing import Any

from fedcore.tensor.ops.arguments import operand
from fedcore.tensor.ops.shape import pad
from fedcore.tensor.ops.windows import (
    Padding,
    Pair,
    Size,
    border_of,
    expect_images,
    places,
    positive_pair,
    slid,
)
from fedcore.tensor.primitive import Core, Shape, primitive
from fedcore.tensor.registry import operations
from fedcore.tensor.tensor import Tensor

__all__ = ["add_patches", "bordered", "patches", "patches_of", "windows_view"]


def windows_view(xp: Any, x: Any, window: Pair, stride: Pair, dilation: Pair) -> Any:
    """The windows (..., N, Ho, Wo, KH, KW, C) of images (..., N, H, W, C), without a copy."""
    *lead, down, across, channel = x.strides
    places = tuple(
        slid(n, k, stride=s, dilation=d)
        for n, k, s, d in zip(x.shape[-3:-1], window, stride, dilation, strict=True)
    )
    return xp.lib.stride_tricks.as_strided(
        x,
        (*x.shape[:-3], *places, *window, x.shape[-1]),
        (
            *lead,
            down * stride[0],
            across * stride[1],
            down * dilation[0],
            across * dilation[1],
            channel,
        ),
    )


def _patches_shape(shape: Shape, *, window: Pair, stride: Pair, dilation: Pair) -> Shape:
    n, h, w, c = shape
    down, across = (
        slid(size, k, stride=s, dilation=d)
        for size, k, s, d in zip((h, w), window, stride, dilation, strict=True)
    )
    return n, down, across, window[0] * window[1] * c


@primitive(
    batch=Core(4),
    shape=_patches_shape,
    public=False,
    name="patches",
    vjps=(
        lambda g, y, x, *, window, stride, dilation: add_patches(
            g, size=x.shape[1:3], window=window, stride=stride, dilation=dilation
        ),
    ),
)
def patches_of(
    xp: Any, x: Any, *, window: Pair, stride: Pair, dilation: Pair, out: Any = None
) -> Any:
    """The windows of images (..., N, H, W, C) as vectors, rows first: (..., N, Ho, Wo, K)."""
    views = windows_view(xp, x, window, stride, dilation)
    flat = (*views.shape[:-3], views.shape[-3] * views.shape[-2] * views.shape[-1])
    if out is None:
        out = xp.empty(flat, dtype=x.dtype)
    if out.flags.c_contiguous:
        xp.copyto(out.reshape(views.shape), views)
    else:
        xp.copyto(out, views.reshape(flat))
    return out


@primitive(
    batch=Core(4),
    shape=lambda shape, *, size, window, stride, dilation: (
        shape[0],
        *size,
        shape[3] // (window[0] * window[1]),
    ),
    public=False,
    vjps=(
        lambda g, y, x, *, size, window, stride, dilation: patches_of(
            g, window=window, stride=stride, dilation=dilation
        ),
    ),
)
def add_patches(
    xp: Any, x: Any, *, size: Pair, window: Pair, stride: Pair, dilation: Pair, out: Any = None
) -> Any:
    """Images of `size` whose pixels are the sums of the patches (..., N, Ho, Wo, K) they are in."""
    down, across, width = x.shape[-3:]
    parts = x.reshape(*x.shape[:-1], *window, width // (window[0] * window[1]))
    if out is None:
        out = xp.empty((*x.shape[:-3], *size, parts.shape[-1]), dtype=x.dtype)
    out[...] = 0
    for i in range(window[0]):
        for j in range(window[1]):
            top, left = i * dilation[0], j * dilation[1]
            out[
                ...,
                top : top + (down - 1) * stride[0] + 1 : stride[0],
                left : left + (across - 1) * stride[1] + 1 : stride[1],
                :,
            ] += parts[..., i, j, :]
    return out


def bordered(x: Tensor, border: tuple[Pair, Pair], value: float = 0.0) -> Tensor:
    """Images (N, H, W, C) with a border of `value`."""
    if border == ((0, 0), (0, 0)):
        return x
    return pad(x, ((0, 0), *border, (0, 0)), value=value)


def patches(
    x: Any, window: Size, *, stride: Size = 1, padding: Padding = 0, dilation: Size = 1
) -> Tensor:
    """The windows of images as vectors, also called unfolding or im2col.

    Shapes: x (N, H, W, C) -> (N, Ho, Wo, KH·KW·C), in the order of the kernel of `conv2d`.
    Raises: ArgumentError for a window, stride or dilation that is not positive, or another padding
    than `conv2d` takes; ShapeError if a window does not fit.

    >>> patches([[[[1.0], [2.0]], [[3.0], [4.0]]]], 2).tolist()
    [[[[1.0, 2.0, 3.0, 4.0]]]]
    """
    x = operand("patches", x)
    expect_images("patches", x)
    window, stride, dilation = (
        positive_pair("patches", option, value)
        for option, value in (("window", window), ("stride", stride), ("dilation", dilation))
    )
    border = border_of(
        "patches", padding, size=x.shape[1:3], window=window, stride=stride, dilation=dilation
    )
    places("patches", x.shape, window, stride=stride, dilation=dilation, border=border)
    return patches_of(bordered(x, border), window=window, stride=stride, dilation=dilation)


operations.register("patches", patches)
