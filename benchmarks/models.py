"""The models of the three tasks, written with the public operations as a user would write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

import fedcore as fc
from benchmarks.tasks import Convolution, Dense, Task
from fedcore import nn

__all__ = ["Loss", "initial", "loss_of"]

Loss: TypeAlias = Callable[[fc.Tensor, fc.Tensor, fc.Tensor], fc.Tensor]


def initial(task: Task, *, seed: int = 0) -> tuple[fc.Tensor, Callable[[Any], Any]]:
    """The flat vector of a fresh model, and the function that rebuilds its layers from one."""
    rng = np.random.default_rng(seed)
    layers = []
    for layer in task.layers:
        if isinstance(layer, Dense):
            shape: tuple[int, ...] = (layer.inputs, layer.outputs)
        else:
            shape = (layer.kernel, layer.kernel, layer.inputs, layer.outputs)
        weight = rng.standard_normal(shape, dtype=np.float32)
        weight *= np.float32(np.sqrt(2 / np.prod(shape[:-1])))
        layers.append((weight, np.zeros(layer.outputs, np.float32)))
    return fc.ravel(layers)


def loss_of(task: Task, rebuild: Callable[[Any], Any]) -> Loss:
    """The mean cross-entropy of a batch: theta (D,), x (B, 28, 28, 1), labels (B,)."""

    def loss(theta: fc.Tensor, x: fc.Tensor, labels: fc.Tensor) -> fc.Tensor:
        parameters = rebuild(theta)
        last = len(parameters) - 1
        for i, (layer, (weight, bias)) in enumerate(zip(task.layers, parameters, strict=True)):
            if isinstance(layer, Convolution):
                x = nn.bias_relu_pool(nn.conv2d(x, weight, padding="same"), bias)
                continue
            if x.ndim > 2:
                x = x.reshape(x.shape[0], -1)
            x = x @ weight
            x = x + bias if i == last else nn.relu(x + bias)
        return nn.cross_entropy(x, labels)

    return loss
