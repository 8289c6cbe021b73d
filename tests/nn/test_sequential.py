"""Layers one after another, some of which are computed together."""

from __future__ import annotations

import numpy as np
import pytest

import fedcore as fc
from fedcore import nn
from fedcore.errors import ShapeError


def _apart(model: nn.Sequential, x: fc.Tensor) -> fc.Tensor:
    for layer in model.layers:
        x = layer(x)
    return x


@pytest.mark.parametrize("window", [2, (2, 3)])
@pytest.mark.parametrize("stride", [None, 1])
@pytest.mark.parametrize("bias", [True, False])
def test_layers_together_are_what_they_are_one_by_one(
    window: int, stride: int | None, bias: bool
) -> None:
    rng = np.random.default_rng(1)
    model = nn.Sequential(
        nn.Conv2d(2, 5, 3, key=3, bias=bias), nn.relu, nn.MaxPool2d(window, stride=stride), nn.relu
    )
    theta, rebuild = fc.ravel(model)
    theta = fc.tensor(theta.numpy() + rng.normal(size=theta.size).astype(np.float32))
    x = fc.tensor(rng.normal(size=(3, 9, 10, 2)).astype(np.float32))
    cotangent = rng.normal(size=_apart(model, x).shape).astype(np.float32)

    def together(theta: fc.Tensor, x: fc.Tensor) -> fc.Tensor:
        return (rebuild(theta)(x) * cotangent).sum()

    def apart(theta: fc.Tensor, x: fc.Tensor) -> fc.Tensor:
        return (_apart(rebuild(theta), x) * cotangent).sum()

    assert rebuild(theta)(x).numpy().tobytes() == _apart(rebuild(theta), x).numpy().tobytes()
    for position in (0, 1):
        mine = fc.grad(lambda v, at=position: together(*((v, x) if at == 0 else (theta, v))))
        its = fc.grad(lambda v, at=position: apart(*((v, x) if at == 0 else (theta, v))))
        given = (theta, x)[position]
        np.testing.assert_allclose(mine(given).numpy(), its(given).numpy(), rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_is_told_of_the_layer_that_it_does_not_fit() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3, key=0), nn.relu, nn.MaxPool2d(4))
    with pytest.raises(ShapeError, match=r"layers\.0 \(Conv2d\)"):
        model(np.zeros((1, 8, 8, 3), np.float32))
    with pytest.raises(ShapeError, match=r"layers\.2 \(MaxPool2d\)"):
        model(np.zeros((1, 4, 4, 1), np.float32))
