"""The three training tasks on which fedcore and its peers are timed: data, models, work, rivals.

Every system trains the same clients on the same data: 1,000 clients of 60 images (28, 28, 1) in 62
classes; a round samples 50 clients, each makes one epoch of three plain SGD steps on batches of 20
in an order of its own, and the new model is the mean weighted by samples. One round warms up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from benchmarks.peers import PeerCommand

__all__ = [
    "BATCH",
    "CLASSES",
    "CLIENTS",
    "COHORT",
    "DP_BATCH",
    "LEARNING_RATE",
    "SAMPLES",
    "SIDE",
    "STEPS",
    "TASKS",
    "WARM_UP_ROUNDS",
    "Convolution",
    "Dense",
    "Population",
    "Task",
    "cohort",
    "dp_commands",
    "population",
    "training_commands",
]

CLIENTS, SAMPLES, CLASSES, SIDE = 1000, 60, 62, 28
COHORT, BATCH, LEARNING_RATE = 50, 20, 0.05
STEPS = SAMPLES // BATCH
WARM_UP_ROUNDS = 1
DP_BATCH = 60
"""Examples a step in the DP-SGD comparison: one client's samples."""

_SEED = 20240607
_TEST_SAMPLES = 2000

Floats: TypeAlias = npt.NDArray[np.float32]
Labels: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Dense:
    """y = x w + b, followed by ReLU unless it is the last layer."""

    inputs: int
    outputs: int

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return self.inputs * self.outputs + self.outputs

    @property
    def multiply_adds(self) -> int:
        """Of the forward pass of one example; each of the two gradients takes as many."""
        return self.inputs * self.outputs


@dataclass(frozen=True)
class Convolution:
    """Stride 1, zero padding to the same size, bias, ReLU, then 2 x 2 max pooling."""

    side: int
    kernel: int
    inputs: int
    outputs: int

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return self.kernel**2 * self.inputs * self.outputs + self.outputs

    @property
    def multiply_adds(self) -> int:
        """Of the forward pass of one example; each of the two gradients takes as many."""
        return self.side**2 * self.kernel**2 * self.inputs * self.outputs


@dataclass(frozen=True)
class Task:
    """One model on the common data, and how many rounds are timed: enough for a second or more."""

    name: str
    description: str
    layers: tuple[Dense | Convolution, ...]
    timed_rounds: int

    @property
    def parameters(self) -> int:
        """Length of the model as one flat vector."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def flops_per_sample(self) -> int:
        """Useful floating-point operations of one example, 2 a multiply-add.

        Counted: forward pass, weight gradients, input gradients (none for the first layer); not
        biases, activations, the update or the averaging.
        """
        forward = sum(layer.multiply_adds for layer in self.layers)
        input_gradients = forward - self.layers[0].multiply_adds
        return 2 * (2 * forward + input_gradients)

    @property
    def flops_per_client(self) -> int:
        """Useful floating-point operations of one client's training in one round."""
        return self.flops_per_sample * SAMPLES


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        task.name: task
        for task in (
            Task("A", "MLP 784-200-62", (Dense(784, 200), Dense(200, CLASSES)), 60),
            Task(
                "B",
                "the CNN of the FedAvg paper: two 5 x 5 convolutions 32/64, dense 512",
                (
                    Convolution(28, 5, 1, 32),
                    Convolution(14, 5, 32, 64),
                    Dense(3136, 512),
                    Dense(512, CLASSES),
                ),
                3,
            ),
            Task(
                "C",
                "small CNN: two 3 x 3 convolutions 8/16, one dense layer",
                (Convolution(28, 3, 1, 8), Convolution(14, 3, 8, 16), Dense(784, CLASSES)),
                15,
            ),
        )
    }
)


@dataclass(frozen=True)
class Population:
    """Shapes: x (1000, 60, 28, 28, 1), y (1000, 60), x_test (2000, 28, 28, 1), y_test (2000,)."""

    x: Floats
    y: Labels
    x_test: Floats
    y_test: Labels


def population() -> Population:
    """All clients' data, 188 MB: unit noise about low-frequency class means of deviation 0.35."""
    rng = np.random.default_rng(_SEED)
    means = rng.standard_normal((CLASSES, SIDE // 4, SIDE // 4)).astype(np.float32)
    means = 0.35 * means.repeat(4, 1).repeat(4, 2)[..., None]

    def draw(*shape: int) -> tuple[Floats, Labels]:
        labels = rng.integers(0, CLASSES, shape)
        images = rng.standard_normal((*shape, SIDE, SIDE, 1), dtype=np.float32)
        images += means[labels]
        return images, labels

    return Population(*draw(CLIENTS, SAMPLES), *draw(_TEST_SAMPLES))


def cohort(round_index: int) -> npt.NDArray[np.int64]:
    """The 50 clients of a round, the same for every system; round 0 is the warm-up."""
    return np.random.default_rng(1000 + round_index).choice(CLIENTS, COHORT, replace=False)


def training_commands(task: Task, *, processes: int = 2) -> tuple[PeerCommand, ...]:
    """The fastest peers on the task, at their best settings; their results hold `clients_per_s`.

    JAX runs a whole round as one compiled call, clients in turn on each of `processes` devices;
    PyTorch runs as many worker processes of one thread, weights and sums in shared memory.
    `processes` is a divisor of 50, because JAX splits a cohort evenly.
    """
    model = ("--model", task.name, "--rounds", str(task.timed_rounds))
    count = str(processes)
    jax = ("--chunk", "1", "--conv", "im2col", "--devices", count)
    torch = ("--procs", count, "--threads", "1")
    return (
        PeerCommand("JAX", "jax", "jax_peer.py", (*model, *jax)),
        PeerCommand("PyTorch processes", "torch", "torch_mp.py", (*model, *torch)),
    )


def dp_commands(task: Task, *, threads: int = 2) -> tuple[PeerCommand, ...]:
    """DP-SGD by the peers (tasks A and C, batch 60); their results hold `full_samples_per_s`."""
    model, count = ("--model", task.name), ("--threads", str(threads))
    return tuple(
        PeerCommand(name, venv, "dpsgd.py", ("--mode", mode, *model, *count))
        for name, venv, mode in (
            ("Opacus ghost clipping", "torch", "ghost"),
            ("Opacus hooks", "torch", "hooks"),
            ("torch.func vmap(grad)", "torch", "vmap"),
            ("JAX vmap(grad)", "jax", "jax"),
        )
    )
