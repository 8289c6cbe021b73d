"""What a device's owner writes: PyTorch that trains, behind three methods that speak NumPy.

They are those of Flower's NumPyClient, so that one which was written for Flower will do as it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

__all__ = ["Trainer"]

Arrays = list[NDArray[Any]]


class Net(torch.nn.Module):
    """Two layers; the arrays of its state stand in the task, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = torch.nn.Linear(64, 32)
        self.output = torch.nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shapes: x (N, 64) -> (N, 10)."""
        return self.output(torch.relu(self.hidden(x)))


class Trainer:
    """Trains on images x (N, 64) of digits y (N,), which stay here."""

    def __init__(self, x: NDArray[np.float32], y: NDArray[np.int64]) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(1)
        self.net = Net()
        self.x, self.y = torch.tensor(x), torch.tensor(y)

    def get_parameters(self, config: dict[str, Any]) -> Arrays:
        """The model, in the task's order of its arrays."""
        return [array.numpy().copy() for array in self.net.state_dict().values()]

    def fit(self, parameters: Arrays, config: dict[str, Any]) -> tuple[Arrays, int, dict[str, Any]]:
        """The model after some passes over the images, their number, and the loss."""
        self._take(parameters)
        optimizer = torch.optim.SGD(self.net.parameters(), lr=config["lr"])
        order = torch.Generator().manual_seed(config["stream"] % 2**31 + config["round"])
        for _ in range(config["epochs"]):
            batches = torch.randperm(len(self.y), generator=order).split(config["batch_size"])
            for batch in batches:
                optimizer.zero_grad()
                loss = cross_entropy(self.net(self.x[batch]), self.y[batch])
                loss.backward()
                optimizer.step()
        return self.get_parameters({}), len(self.y), {"loss": loss.item()}

    def evaluate(
        self, parameters: Arrays, config: dict[str, Any]
    ) -> tuple[float, int, dict[str, float]]:
        """The loss of the model here, over how many images, and how many of them it reads right."""
        self._take(parameters)
        with torch.no_grad():
            scores = self.net(self.x)
        right = (scores.argmax(dim=1) == self.y).float().mean().item()
        return cross_entropy(scores, self.y).item(), len(self.y), {"accuracy": right}

    def _take(self, parameters: Arrays) -> None:
        names = self.net.state_dict()
        given = (torch.tensor(array) for array in parameters)
        self.net.load_state_dict(dict(zip(names, given, strict=True)))
