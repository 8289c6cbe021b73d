"""Pooling layers, channels last: sequences (N, L, C) and images (N, H, W, C)."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from fedcore.nn.checks import expect_positive, expect_rank, expect_tensor
from fedcore.nn.context import Context
from fedcore.nn.module import Module
from fedcore.tensor.ops.pool import (
    avg_pool1d,
    avg_pool2d,
    global_avg_pool,
    global_max_pool,
    max_pool1d,
    max_pool2d,
)
from fedcore.tensor.ops.windows import Padding, Pair, Size, positive_pair
from fedcore.tensor.tensor import Tensor

__all__ = ["AvgPool1d", "AvgPool2d", "GlobalAvgPool", "GlobalMaxPool", "MaxPool1d", "MaxPool2d"]


class Pool1d(Module):
    """The options of a window that slides over sequences."""

    pool: ClassVar[Callable[..., Tensor]]

    def __init__(
        self, window: int = 2, *, stride: int | None = None, padding: int | str | Pair = 0
    ) -> None:
        stride = window if stride is None else stride
        expect_positive(type(self).__name__, window=window, stride=stride)
        self.window, self.stride, self.padding = window, stride, padding

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        expect_rank(x, rank=3, layout="(N, L, C)")
        return type(self).pool(x, self.window, stride=self.stride, padding=self.padding)


class Pool2d(Module):
    """The options of a window that slides over images."""

    pool: ClassVar[Callable[..., Tensor]]

    def __init__(
        self, window: Size = 2, *, stride: Size | None = None, padding: Padding = 0
    ) -> None:
        stride = window if stride is None else stride
        positive_pair(type(self).__name__, "window", window)
        positive_pair(type(self).__name__, "stride", stride)
        self.window, self.stride, self.padding = window, stride, padding

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        expect_rank(x, rank=4, layout="(N, H, W, C)")
        return type(self).pool(x, self.window, stride=self.stride, padding=self.padding)


class MaxPool1d(Pool1d):
    """The maximum of each window; its derivative goes to the first of equal values.

    Shapes: x (N, L, C) -> (N, Lo, C). `stride` is the window unless it is given; `padding` is a
    width, (before, after), "valid" or "same", and never a maximum itself.
    Raises: ArgumentError for options out of range, ShapeError if a window does not fit.
    """

    pool = staticmethod(max_pool1d)


class AvgPool1d(Pool1d):
    """The mean of each window, in which the padding counts as zeros; else as `MaxPool1d`."""

    pool = staticmethod(avg_pool1d)


class MaxPool2d(Pool2d):
    """The maximum of each window; its derivative goes to one of equal values: see `max_pool2d`.

    Shapes: x (N, H, W, C) -> (N, Ho, Wo, C). `stride` is the window unless it is given; `padding`
    is as in `Conv2d`, and never a maximum itself.
    Raises: ArgumentError for options out of range, ShapeError if a window does not fit.

    >>> MaxPool2d(2)
    MaxPool2d(window=2, stride=2, padding=0)
    """

    pool = staticmethod(max_pool2d)


class AvgPool2d(Pool2d):
    """The mean of each window, in which the padding counts as zeros; else as `MaxPool2d`."""

    pool = staticmethod(avg_pool2d)


class GlobalMaxPool(Module):
    """The maximum of each channel: x (N, H, W, C) or (N, L, C) -> (N, C)."""

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        expect_tensor(x)
        return global_max_pool(x)


class GlobalAvgPool(Module):
    """The mean of each channel: x (N, H, W, C) or (N, L, C) -> (N, C)."""

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        expect_tensor(x)
        return global_avg_pool(x)
