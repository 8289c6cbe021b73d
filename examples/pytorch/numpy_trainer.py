"""The same model with the same methods in NumPy alone, by hand: any framework will do, and none.

Devices that have no PyTorch take part in the same task with it: `--trainer numpy_trainer`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Trainer"]

Arrays = list[NDArray[Any]]


class Trainer:
    """Trains on images x (N, 64) of digits y (N,), which stay here."""

    def __init__(self, x: NDArray[np.float32], y: NDArray[np.int64]) -> None:
        self.x, self.y = x, y

    def get_parameters(self, config: dict[str, Any]) -> Arrays:
        """A first model, in the task's order of its arrays."""
        draw = np.random.default_rng(1)
        hidden, output = draw.normal(0, 0.1, (32, 64)), draw.normal(0, 0.1, (10, 32))
        return [hidden, np.zeros(32), output, np.zeros(10)]

    def fit(self, parameters: Arrays, config: dict[str, Any]) -> tuple[Arrays, int, dict[str, Any]]:
        """The model after some passes over the images, their number, and the loss."""
        draw = np.random.default_rng((config["stream"], config["round"]))
        for _ in range(config["epochs"]):
            order = draw.permutation(len(self.y))
            for begin in range(0, len(order), config["batch_size"]):
                rows = order[begin : begin + config["batch_size"]]
                loss = _step(parameters, self.x[rows], self.y[rows], lr=config["lr"])
        return parameters, len(self.y), {"loss": loss}

    def evaluate(
        self, parameters: Arrays, config: dict[str, Any]
    ) -> tuple[float, int, dict[str, float]]:
        """The loss of the model here, over how many images, and how many of them it reads right."""
        _, chances = _forward(parameters, self.x)
        right = float((chances.argmax(axis=1) == self.y).mean())
        return _loss(chances, self.y), len(self.y), {"accuracy": right}


def _forward(parameters: Arrays, x: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    weight, bias, output, shift = parameters
    hidden = np.maximum(x @ weight.T + bias, 0)
    scores = hidden @ output.T + shift
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return hidden, powers / powers.sum(axis=1, keepdims=True)


def _loss(chances: NDArray[Any], y: NDArray[np.int64]) -> float:
    return float(-np.log(chances[np.arange(len(y)), y]).mean())


def _step(parameters: Arrays, x: NDArray[Any], y: NDArray[np.int64], *, lr: float) -> float:
    """A step of gradient descent, in place; the loss before it."""
    weight, bias, output, shift = parameters
    hidden, chances = _forward(parameters, x)
    wrong = (chances - np.eye(10)[y]) / len(y)
    back = (wrong @ output) * (hidden > 0)
    output -= lr * (wrong.T @ hidden)
    shift -= lr * wrong.sum(axis=0)
    weight -= lr * (back.T @ x)
    bias -= lr * back.sum(axis=0)
    return _loss(chances, y)
