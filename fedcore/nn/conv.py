"""Convolution layers, channels last: sequences (N, L, C) and images (N, H, W, C)."""

from __future__ import annotations

from fedcore.errors import ArgumentError, user_line
from fedcore.nn import init
from fedcore.nn.checks import expect_channels, expect_positive, expect_rank
from fedcore.nn.context import Context
from fedcore.nn.init import Initializer
from fedcore.nn.keys import init_key
from fedcore.nn.module import Module
from fedcore.tensor.ops.conv import conv1d, conv2d, conv_transpose1d, conv_transpose2d
from fedcore.tensor.ops.windows import Padding, Pair, Size, positive_pair, whole_pair
from fedcore.tensor.random import Key
from fedcore.tensor.tensor import Tensor

__all__ = ["Conv1d", "Conv2d", "ConvTranspose1d", "ConvTranspose2d"]


class Conv1d(Module):
    """Sequences correlated with `out_channels` kernels of length `kernel_size`.

    Parameters: weight (kernel_size, in_channels / groups, out_channels), bias (out_channels,).
    Shapes: x (N, L, in_channels) -> (N, Lo, out_channels). `padding` is a width, (before, after),
    "valid" or "same".
    Raises: ArgumentError for options out of range, ShapeError for another input.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        key: Key | int,
        stride: int = 1,
        padding: int | str | Pair = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        weight_init: Initializer = init.kaiming_normal,
    ) -> None:
        expect_positive("Conv1d", kernel_size=kernel_size, stride=stride, dilation=dilation)
        _check_channels("Conv1d", in_channels, out_channels, groups)
        shape = (kernel_size, in_channels // groups, out_channels)
        self.weight = weight_init(shape, key=init_key(key).fold("weight"))
        self.bias = init.zeros((out_channels,)) if bias else None
        self.stride, self.padding = stride, padding
        self.dilation, self.groups = dilation, int(groups)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        expect_rank(x, rank=3, layout="(N, L, C)")
        expect_channels(x, self.weight, self.weight.shape[1] * self.groups)
        y = conv1d(
            x,
            self.weight,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )
        return y if self.bias is None else y + self.bias


class Conv2d(Module):
    """Images correlated with `out_channels` kernels of size `kernel_size`.

    Parameters: weight (KH, KW, in_channels / groups, out_channels), bias (out_channels,).
    Shapes: x (N, H, W, in_channels) -> (N, Ho, Wo, out_channels). `padding` is a width, two,
    ((top, bottom), (left, right)), "valid", or "same" for Ho = ceil(H / stride).
    Raises: ArgumentError for options out of range, ShapeError for another input.

    >>> Conv2d(1, 8, 3, key=0, padding="same")
    Conv2d(weight (3, 3, 1, 8), bias (8,), stride=1, padding=same, dilation=1, groups=1)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        *,
        key: Key | int,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        weight_init: Initializer = init.kaiming_normal,
    ) -> None:
        size = positive_pair("Conv2d", "kernel_size", kernel_size)
        _check_steps("Conv2d", stride, dilation)
        _check_channels("Conv2d", in_channels, out_channels, groups)
        shape = (*size, in_channels // groups, out_channels)
        self.weight = weight_init(shape, key=init_key(key).fold("weight"))
        self.bias = init.zeros((out_channels,)) if bias else None
        self.stride, self.padding = stride, padding
        self.dilation, self.groups = dilation, int(groups)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        y = self.correlated(x)
        return y if self.bias is None else y + self.bias

    def correlated(self, x: Tensor) -> Tensor:
        """The images of the kernels, before the bias."""
        expect_rank(x, rank=4, layout="(N, H, W, C)")
        expect_channels(x, self.weight, self.weight.shape[2] * self.groups)
        return conv2d(
            x,
            self.weight,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )


class ConvTranspose1d(Module):
    """The transpose of a convolution from `out_channels` to `in_channels`: longer sequences.

    Parameters: weight (kernel_size, out_channels / groups, in_channels), bias (out_channels,).
    Shapes: x (N, L, in_channels) -> (N, Lo, out_channels) with Lo as Ho of `ConvTranspose2d`.
    Raises: ArgumentError for options out of range, ShapeError for another input.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        key: Key | int,
        stride: int = 1,
        padding: int | str | Pair = 0,
        output_padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        weight_init: Initializer = init.kaiming_normal,
    ) -> None:
        layer = "ConvTranspose1d"
        expect_positive(layer, kernel_size=kernel_size, stride=stride, dilation=dilation)
        _check_output_padding(layer, output_padding)
        _check_channels(layer, in_channels, out_channels, groups)
        shape = (kernel_size, in_channels, out_channels // groups)
        self.weight = _turned(weight_init(shape, key=init_key(key).fold("weight")))
        self.bias = init.zeros((out_channels,)) if bias else None
        self.stride, self.padding, self.output_padding = stride, padding, output_padding
        self.dilation, self.groups = dilation, int(groups)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        expect_rank(x, rank=3, layout="(N, L, C)")
        expect_channels(x, self.weight, self.weight.shape[2])
        y = conv_transpose1d(
            x,
            self.weight,
            stride=self.stride,
            padding=self.padding,
            output_padding=self.output_padding,
            dilation=self.dilation,
            groups=self.groups,
        )
        return y if self.bias is None else y + self.bias


class ConvTranspose2d(Module):
    """The transpose of a convolution from `out_channels` to `in_channels`: it makes images larger.

    Parameters: weight (KH, KW, out_channels / groups, in_channels), bias (out_channels,).
    Shapes: x (N, H, W, in_channels) -> (N, Ho, Wo, out_channels) with
    Ho = (H - 1) stride - padding + dilation (KH - 1) + 1 + output_padding; "same" gives H stride.
    Raises: ArgumentError for options out of range, ShapeError for another input.
    Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, ch. 4.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        *,
        key: Key | int,
        stride: Size = 1,
        padding: Padding = 0,
        output_padding: int | Pair = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        weight_init: Initializer = init.kaiming_normal,
    ) -> None:
        size = positive_pair("ConvTranspose2d", "kernel_size", kernel_size)
        _check_steps("ConvTranspose2d", stride, dilation)
        _check_output_padding("ConvTranspose2d", output_padding)
        _check_channels("ConvTranspose2d", in_channels, out_channels, groups)
        shape = (*size, in_channels, out_channels // groups)
        self.weight = _turned(weight_init(shape, key=init_key(key).fold("weight")))
        self.bias = init.zeros((out_channels,)) if bias else None
        self.stride, self.padding, self.output_padding = stride, padding, output_padding
        self.dilation, self.groups = dilation, int(groups)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        expect_rank(x, rank=4, layout="(N, H, W, C)")
        expect_channels(x, self.weight, self.weight.shape[3])
        y = conv_transpose2d(
            x,
            self.weight,
            stride=self.stride,
            padding=self.padding,
            output_padding=self.output_padding,
            dilation=self.dilation,
            groups=self.groups,
        )
        return y if self.bias is None else y + self.bias


def _turned(drawn: Tensor) -> Tensor:
    """A kernel drawn as (..., inputs, outputs), where initialisers read the number of inputs."""
    return drawn.swapaxes(-1, -2)


def _check_output_padding(layer: str, output_padding: int | Pair) -> None:
    if whole_pair(output_padding) is None:
        raise ArgumentError(
            f"{layer}: output_padding is {output_padding!r:.80}",
            where=user_line(),
            why="it counts what is added at the end",
            fix="pass a whole number from 0 to below the stride",
        )


def _check_steps(layer: str, stride: Size, dilation: Size) -> None:
    positive_pair(layer, "stride", stride)
    positive_pair(layer, "dilation", dilation)


def _check_channels(layer: str, in_channels: int, out_channels: int, groups: int) -> None:
    expect_positive(layer, in_channels=in_channels, out_channels=out_channels, groups=groups)
    if in_channels % groups or out_channels % groups:
        raise ArgumentError(
            f"{layer}: {groups} groups of {in_channels} channels in, {out_channels} out",
            where=user_line(),
            why="each group has the same share of both",
            fix="pass a number of groups that divides both",
        )
