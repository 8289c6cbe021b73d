"""Normalisation layers: batch, layer, group and root-mean-square.

Only batch normalisation mixes examples and remembers: prefer the others where gradients are clipped
per example.
"""

from __future__ import annotations

import math

from fedcore.errors import ArgumentError, ShapeError, user_line
from fedcore.nn import init
from fedcore.nn.checks import expect_channels, expect_epsilon, expect_fraction, expect_positive
from fedcore.nn.context import Context
from fedcore.nn.module import Module
from fedcore.tensor.ops.elementwise import stop_gradient
from fedcore.tensor.ops.norms import (
    batch_norm,
    batch_norm_training,
    group_norm,
    layer_norm,
    rms_norm,
)
from fedcore.tensor.tensor import Tensor

__all__ = ["BatchNorm", "GroupNorm", "LayerNorm", "RMSNorm"]


class BatchNorm(Module):
    """(x - mean) / sqrt(var + eps) · weight + bias, over all axes but the last.

    In training with the batch's own mean and variance, which also move the running ones by
    `momentum` (the variance in its unbiased form); otherwise with the running ones. In a vmap each
    lane has its own. Rows of weight 0 that pad a batch take part in its statistics.
    Shapes: x (..., channels), the same out. State: mean and var (channels,).
    Raises: ShapeError in training on a single value a channel, which has no variance.
    Source: Ioffe and Szegedy, "Batch Normalization", 2015, algorithms 1 and 2.
    """

    state_names = ("mean", "var")

    def __init__(self, channels: int, *, momentum: float = 0.1, eps: float = 1e-5) -> None:
        expect_positive("BatchNorm", channels=channels)
        expect_fraction("BatchNorm", momentum=momentum)
        expect_epsilon("BatchNorm", eps)
        self.weight, self.bias = init.ones((channels,)), init.zeros((channels,))
        self.mean, self.var = init.zeros((channels,)), init.ones((channels,))
        self.momentum, self.eps = momentum, eps

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        expect_channels(x, self.weight, self.weight.shape[0])
        if not ctx.training:
            mean, var = ctx.read(self, "mean"), ctx.read(self, "var")
            return batch_norm(x, mean, var, self.weight, self.bias, eps=self.eps)
        count = math.prod(x.shape[:-1])
        if count < 2:
            raise ShapeError(
                f"one value a channel has no variance: input {x.shape}",
                where=user_line(),
                why="in training the statistics are those of the batch",
                fix="train on batches of two or more, or use LayerNorm or GroupNorm",
            )
        y, mean, var = batch_norm_training(x, self.weight, self.bias, eps=self.eps)
        for name, now in (("mean", mean), ("var", var * (count / (count - 1)))):
            before = ctx.read(self, name)
            after = before * (1.0 - self.momentum) + stop_gradient(now) * self.momentum
            ctx.write(self, name, after)
        return y


class LayerNorm(Module):
    """(x - mean) / sqrt(var + eps) · weight + bias, over the last axis of each position.

    Shapes: x (..., features), the same out.
    Source: Ba et al., "Layer Normalization", 2016, equation 4.
    """

    def __init__(self, features: int, *, eps: float = 1e-5) -> None:
        expect_positive("LayerNorm", features=features)
        expect_epsilon("LayerNorm", eps)
        self.weight, self.bias = init.ones((features,)), init.zeros((features,))
        self.eps = eps

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        expect_channels(x, self.weight, self.weight.shape[0])
        return layer_norm(x, self.weight, self.bias, eps=self.eps)


class RMSNorm(Module):
    """x / sqrt(mean(x²) + eps) · weight, over the last axis of each position.

    Shapes: x (..., features), the same out.
    Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019, equation 4.
    """

    def __init__(self, features: int, *, eps: float = 1e-5) -> None:
        expect_positive("RMSNorm", features=features)
        expect_epsilon("RMSNorm", eps)
        self.weight = init.ones((features,))
        self.eps = eps

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        expect_channels(x, self.weight, self.weight.shape[0])
        return rms_norm(x, self.weight, eps=self.eps)


class GroupNorm(Module):
    """As `LayerNorm`, over all positions of an example and one of `groups` groups of channels.

    Shapes: x (N, ..., channels), the same out.
    Raises: ArgumentError unless the groups divide the channels.
    Source: Wu and He, "Group Normalization", 2018, equations 1, 2 and 7.
    """

    def __init__(self, groups: int, channels: int, *, eps: float = 1e-5) -> None:
        expect_positive("GroupNorm", groups=groups, channels=channels)
        expect_epsilon("GroupNorm", eps)
        if channels % groups:
            raise ArgumentError(
                f"GroupNorm: {groups} groups of {channels} channels",
                where=user_line(),
                why="the groups are of one size",
                fix="pass a number of groups that divides the channels",
            )
        self.weight, self.bias = init.ones((channels,)), init.zeros((channels,))
        self.groups, self.eps = groups, eps

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        expect_channels(x, self.weight, self.weight.shape[0])
        if x.ndim < 2:
            raise ShapeError(
                f"expected an input (N, ..., C), found shape {x.shape}",
                where=user_line(),
                why="the statistics are those of one example of a batch",
                fix="insert a batch axis of length 1 with reshape",
            )
        return group_norm(x, self.weight, self.bias, groups=self.groups, eps=self.eps)
