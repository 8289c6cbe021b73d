"""Convolutions as users call them: options in any of their forms, errors that name both shapes."""

from __future__ import annotations

from typing import Any

from fedcore.errors import ArgumentError, ShapeError, user_line
from fedcore.tensor.dtypes import unify_dtypes
from fedcore.tensor.ops.arguments import operand
from fedcore.tensor.ops.conv_primitives import conv2d_input_gradient, conv2d_primitive
from fedcore.tensor.ops.elementwise import require_floating
from fedcore.tensor.ops.shape import expand_dims, squeeze
from fedcore.tensor.ops.windows import (
    Border,
    Padding,
    Pair,
    Size,
    border_of,
    expect_images,
    places,
    positive_pair,
    whole_pair,
)
from fedcore.tensor.registry import operations
from fedcore.tensor.tensor import Tensor

__all__ = ["conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d"]


def conv2d(
    x: Any,
    w: Any,
    *,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """Images correlated with a kernel: what neural networks call a convolution.

    Shapes: x (N, H, W, C), w (KH, KW, C / groups, F) -> (N, Ho, Wo, F). `padding` is a width, two,
    ((top, bottom), (left, right)), "valid", or "same" for Ho = ceil(H / stride).
    Raises: ShapeError if the shapes do not fit each other or the kernel the padded images;
    ArgumentError for options out of range; DtypeError unless both are float32 or float64.

    >>> x, w = [[[[1.0], [2.0], [3.0]]]], [[[[1.0]], [[-1.0]]]]
    >>> conv2d(x, w).tolist()
    [[[[-1.0], [-1.0]]]]
    """
    return _convolved("conv2d", x, w, stride, padding, dilation, groups)


def _convolved(
    name: str, x: Any, w: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> Tensor:
    x, w = _expect(x, w, name)
    steps = _steps(name, stride, dilation, groups)
    _expect_channels(name, x, w, channels=w.shape[2] * groups, groups=groups)
    border = border_of(
        name,
        padding,
        size=x.shape[1:3],
        window=w.shape[:2],
        stride=steps[0],
        dilation=steps[1],
    )
    places(name, x.shape, w.shape[:2], stride=steps[0], dilation=steps[1], border=border)
    return conv2d_primitive(x, w, stride=steps[0], padding=border, dilation=steps[1], groups=groups)


def conv1d(
    x: Any,
    w: Any,
    *,
    stride: int = 1,
    padding: int | str | Pair = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Tensor:
    """Sequences correlated with a kernel.

    Shapes: x (N, L, C), w (K, C / groups, F) -> (N, Lo, F). `padding` is a width, (before, after),
    "valid" or "same". Errors as `conv2d`.

    >>> conv1d([[[1.0], [2.0], [4.0]]], [[[-1.0]], [[1.0]]]).tolist()
    [[[1.0], [2.0]]]
    """
    x, w = operand("conv1d", x), operand("conv1d", w)
    expect_images("conv1d", x, 3)
    if w.ndim != 3:
        raise _bad_kernel("conv1d", x, w, "(K, C / groups, F)")
    images, kernel, border = expand_dims(x, 1), expand_dims(w, 0), _across(padding)
    y = _convolved("conv1d", images, kernel, (1, stride), border, (1, dilation), groups)
    return squeeze(y, 1)


def _across(padding: Any) -> Any:
    """The padding of a sequence as that of an image of height 1."""
    if isinstance(padding, str):
        return padding
    return (0, 0), (padding, padding) if isinstance(padding, int) else padding


def conv_transpose2d(
    x: Any,
    w: Any,
    *,
    stride: Size = 1,
    padding: Padding = 0,
    output_padding: int | Pair = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """The transpose of `conv2d` with the same kernel and options: it makes images larger.

    Shapes: x (N, H, W, F), w (KH, KW, C / groups, F) -> (N, Ho, Wo, C) with
    Ho = (H - 1) stride - padding + dilation (KH - 1) + 1 + output_padding; "same" gives H stride.
    Raises: as `conv2d`; ArgumentError unless output_padding is smaller than the stride.

    >>> conv_transpose2d([[[[1.0]]]], [[[[2.0]], [[3.0]]]]).tolist()
    [[[[2.0], [3.0]]]]
    """
    return _transposed("conv_transpose2d", x, w, stride, padding, output_padding, dilation, groups)


def conv_transpose1d(
    x: Any,
    w: Any,
    *,
    stride: int = 1,
    padding: int | str | Pair = 0,
    output_padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Tensor:
    """The transpose of `conv1d` with the same kernel and options: it makes sequences longer.

    Shapes: x (N, L, F), w (K, C / groups, F) -> (N, Lo, C) with Lo as Ho of `conv_transpose2d`.
    Errors as there.

    >>> conv_transpose1d([[[1.0], [10.0]]], [[[2.0]], [[3.0]]], stride=2).tolist()
    [[[2.0], [3.0], [20.0], [30.0]]]
    """
    name = "conv_transpose1d"
    x, w = operand(name, x), operand(name, w)
    expect_images(name, x, 3)
    if w.ndim != 3:
        raise _bad_kernel(name, x, w, "(K, C / groups, F)")
    images, kernel, border = expand_dims(x, 1), expand_dims(w, 0), _across(padding)
    extra = (0, output_padding)
    y = _transposed(name, images, kernel, (1, stride), border, extra, (1, dilation), groups)
    return squeeze(y, 1)


def _transposed(
    name: str,
    x: Any,
    w: Any,
    stride: Any,
    padding: Any,
    output_padding: Any,
    dilation: Any,
    groups: Any,
) -> Tensor:
    x, w = _expect(x, w, name)
    stride, dilation = _steps(name, stride, dilation, groups)
    _expect_channels(name, x, w, channels=w.shape[3], groups=groups)
    extra = whole_pair(output_padding)
    reach = tuple(d * (k - 1) + 1 for d, k in zip(dilation, w.shape, strict=False))
    if extra is None or any(not 0 <= e < s for e, s in zip(extra, stride, strict=True)):
        raise ArgumentError(
            f"{name}: output_padding is {output_padding}, stride {stride}",
            where=user_line(),
            why="it says which of the sizes that the stride takes to one is meant",
            fix="pass a number from 0 to below the stride",
        )
    if isinstance(padding, str) and padding == "same":
        if any(extra):
            raise ArgumentError(
                f"{name}: output_padding is {output_padding} beside padding 'same'",
                where=user_line(),
                why="that already says which size is meant: the input's times the stride",
                fix="leave one of them out",
            )
        size: Pair = (x.shape[1] * stride[0], x.shape[2] * stride[1])
        border = border_of(
            name, "same", size=size, window=w.shape[:2], stride=stride, dilation=dilation
        )
    else:
        border = border_of(
            name, padding, size=x.shape[1:3], window=w.shape[:2], stride=stride, dilation=dilation
        )
        size = _transposed_size(x, stride, reach, border, extra)
    if min(size) < 1:
        raise ShapeError(
            f"{name}: images {x.shape} and a kernel {w.shape} give images of size {size}",
            where=user_line(),
            why="the padding takes more than the kernel adds",
            fix="use less padding",
        )
    return conv2d_input_gradient(
        x, w, size=size, stride=stride, padding=border, dilation=dilation, groups=groups
    )


def _transposed_size(
    x: Tensor, stride: Pair, reach: tuple[int, ...], border: Border, extra: Pair
) -> Pair:
    down, across = (
        (n - 1) * s - sum(b) + r + e
        for n, s, b, r, e in zip(x.shape[1:3], stride, border, reach, extra, strict=True)
    )
    return down, across


# ---- checks


def _expect(x: Any, w: Any, name: str) -> tuple[Tensor, Tensor]:
    x, w = unify_dtypes(name, [operand(name, x), operand(name, w)])
    require_floating(name, x)
    expect_images(name, x)
    if w.ndim != 4:
        raise _bad_kernel(name, x, w, "(KH, KW, C / groups, F)")
    return x, w


def _bad_kernel(name: str, x: Tensor, w: Tensor, expected: str) -> ShapeError:
    return ShapeError(
        f"{name}: the kernel has shape {w.shape}, expected {expected}; images {x.shape}",
        where=user_line(),
        why="a kernel holds a number for each tap, channel and feature",
        fix="reshape the kernel, or move its axes with transpose",
    )


def _steps(name: str, stride: Any, dilation: Any, groups: int) -> tuple[Pair, Pair]:
    if not isinstance(groups, int) or groups < 1:
        raise ArgumentError(
            f"{name}: groups is {groups!r}",
            where=user_line(),
            why="it counts the parts into which the channels are divided",
            fix="pass 1, or the number of channels for a depthwise convolution",
        )
    return positive_pair(name, "stride", stride), positive_pair(name, "dilation", dilation)


def _expect_channels(name: str, x: Tensor, w: Tensor, *, channels: int, groups: int) -> None:
    if x.shape[3] != channels or w.shape[3] % groups or 0 in w.shape:
        raise ShapeError(
            f"{name}: images {x.shape} have {x.shape[3]} channels, the kernel {w.shape} in "
            f"{groups} groups takes {channels}",
            where=user_line(),
            why="the channels are the last axis of the images; groups divide the features evenly",
            fix="compare with the layer before, or move the channels last with transpose",
        )


for _operation in (conv1d, conv2d, conv_transpose1d, conv_transpose2d):
    operations.register(_operation.__name__, _operation)
