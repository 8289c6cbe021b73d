"""Pooling as users call it, in two dimensions, in one, and over whole images."""

from __future__ import annotations

from typing import Any

from fedcore.errors import ShapeError, user_line
from fedcore.tensor.ops.arguments import operand
from fedcore.tensor.ops.elementwise import multiply, require_floating
from fedcore.tensor.ops.patches import bordered
from fedcore.tensor.ops.pool_primitives import bias_relu_pool_primitive, max_pool, sum_pool
from fedcore.tensor.ops.reduce import mean
from fedcore.tensor.ops.shape import expand_dims, reshape, squeeze
from fedcore.tensor.ops.windows import (
    Padding,
    Pair,
    Size,
    border_of,
    expect_images,
    places,
    positive_pair,
)
from fedcore.tensor.registry import operations
from fedcore.tensor.tensor import Tensor

__all__ = [
    "avg_pool1d",
    "avg_pool2d",
    "bias_relu_pool",
    "global_avg_pool",
    "global_max_pool",
    "max_pool1d",
    "max_pool2d",
]


def max_pool2d(x: Any, window: Size = 2, *, stride: Any = None, padding: Padding = 0) -> Tensor:
    """The maximum of each window; its derivative goes to one of equal values.

    That is the one of the least column, and there of the least row.
    Shapes: x (N, H, W, C) -> (N, Ho, Wo, C). `stride` is the window unless it is given; `padding`
    as in `conv2d`, never a maximum itself.
    Raises: ArgumentError for options out of range, ShapeError if a window does not fit.

    >>> max_pool2d([[[[1.0], [3.0]], [[2.0], [0.0]]]]).tolist()
    [[[[3.0]]]]
    """
    return _maxima("max_pool2d", x, window, stride, padding)


def avg_pool2d(x: Any, window: Size = 2, *, stride: Any = None, padding: Padding = 0) -> Tensor:
    """The mean of each window, in which the padding counts as zeros.

    Shapes, options and errors as `max_pool2d`.

    >>> avg_pool2d([[[[1.0], [3.0]], [[2.0], [0.0]]]]).tolist()
    [[[[1.5]]]]
    """
    return _averages("avg_pool2d", x, window, stride, padding)


def bias_relu_pool(z: Any, b: Any, window: Size = 2, *, stride: Any = None) -> Tensor:
    """relu(max_pool2d(z) + b), which equals max_pool2d(relu(z + b)) with a quarter of the work.

    Shapes: z (N, H, W, C), b (C,) -> (N, Ho, Wo, C). Where the result is 0, so is the derivative.
    Raises: as `max_pool2d`; ShapeError unless b has one value a channel.

    >>> bias_relu_pool([[[[1.0], [3.0]], [[2.0], [0.0]]]], [-2.5]).tolist()
    [[[[0.5]]]]
    """
    z, window, stride = _padded("bias_relu_pool", z, window, stride, 0, 0.0)
    b = operand("bias_relu_pool", b)
    if b.shape != z.shape[-1:]:
        raise ShapeError(
            f"bias_relu_pool: the bias has shape {b.shape}, the images {z.shape}",
            where=user_line(),
            why="each channel has one bias",
            fix=f"pass a bias of shape ({z.shape[-1]},)",
        )
    return bias_relu_pool_primitive(z, b, window=window, stride=stride)


def _maxima(name: str, x: Any, window: Any, stride: Any, padding: Any) -> Tensor:
    x, window, stride = _padded(name, x, window, stride, padding, float("-inf"))
    return max_pool(x, window=window, stride=stride)


def _averages(name: str, x: Any, window: Any, stride: Any, padding: Any) -> Tensor:
    x, window, stride = _padded(name, x, window, stride, padding, 0.0)
    total = sum_pool(x, window=window, stride=stride)
    return multiply(total, 1.0 / (window[0] * window[1]))


def _padded(
    name: str, x: Any, window: Any, stride: Any, padding: Any, value: float
) -> tuple[Tensor, Pair, Pair]:
    """The images with their border, the window and the stride."""
    x = operand(name, x)
    require_floating(name, x)
    expect_images(name, x)
    window = positive_pair(name, "window", window)
    stride = window if stride is None else positive_pair(name, "stride", stride)
    border = border_of(
        name, padding, size=x.shape[1:3], window=window, stride=stride, dilation=(1, 1)
    )
    places(name, x.shape, window, stride=stride, dilation=(1, 1), border=border)
    return bordered(x, border, value), window, stride


# ---- sequences


def max_pool1d(
    x: Any, window: int = 2, *, stride: int | None = None, padding: int | str | Pair = 0
) -> Tensor:
    """The maximum of each window of sequences (N, L, C); see `max_pool2d`."""
    return _lifted(_maxima, "max_pool1d", x, window, stride, padding)


def avg_pool1d(
    x: Any, window: int = 2, *, stride: int | None = None, padding: int | str | Pair = 0
) -> Tensor:
    """The mean of each window of sequences (N, L, C); see `avg_pool2d`."""
    return _lifted(_averages, "avg_pool1d", x, window, stride, padding)


def _lifted(operation: Any, name: str, x: Any, window: Any, stride: Any, padding: Any) -> Tensor:
    x = operand(name, x)
    expect_images(name, x, 3)
    if not isinstance(padding, str):
        padding = ((0, 0), (padding, padding) if isinstance(padding, int) else padding)
    step = None if stride is None else (1, stride)
    return squeeze(operation(name, expand_dims(x, 1), (1, window), step, padding), 1)


# ---- whole images


def global_max_pool(x: Any) -> Tensor:
    """The maximum of each channel: (N, H, W, C) or (N, L, C) -> (N, C)."""
    x = operand("global_max_pool", x)
    x = expand_dims(x, 1) if x.ndim == 3 else x
    expect_images("global_max_pool", x)
    n, h, w, c = x.shape
    places("global_max_pool", x.shape, (1, 1), stride=(1, 1), dilation=(1, 1), border=_NONE)
    return reshape(max_pool(x, window=(h, w), stride=(h, w)), (n, c))


def global_avg_pool(x: Any) -> Tensor:
    """The mean of each channel: (N, H, W, C) or (N, L, C) -> (N, C)."""
    x = operand("global_avg_pool", x)
    expect_images("global_avg_pool", x, 3 if x.ndim == 3 else 4)
    return mean(x, axis=tuple(range(1, x.ndim - 1)))


_NONE = ((0, 0), (0, 0))

for _operation in (
    avg_pool1d,
    avg_pool2d,
    bias_relu_pool,
    global_avg_pool,
    global_max_pool,
    max_pool1d,
    max_pool2d,
):
    operations.register(_operation.__name__, _operation)
