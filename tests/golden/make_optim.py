"""Write optim.npz: twenty steps of PyTorch's optimisers in float64 on a noisy quadratic.

Run with an interpreter that has PyTorch: python -m tests.golden.make_optim
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FILE = Path(__file__).with_name("optim.npz")
STEPS, SIZE = 20, 12

# case -> (our class, our options, PyTorch's class, its options)
CASES: Mapping[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "sgd": ("SGD", {"lr": 0.1}, "SGD", {"lr": 0.1}),
    "sgd_decay": (
        "SGD",
        {"lr": 0.1, "weight_decay": 0.05},
        "SGD",
        {"lr": 0.1, "weight_decay": 0.05},
    ),
    "momentum": (
        "SGD",
        {"lr": 0.05, "momentum": 0.9},
        "SGD",
        {"lr": 0.05, "momentum": 0.9},
    ),
    "nesterov": (
        "SGD",
        {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
        "SGD",
        {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    ),
    "adam": ("Adam", {"lr": 0.1}, "Adam", {"lr": 0.1}),
    "adam_decay": (
        "Adam",
        {"lr": 0.1, "beta1": 0.8, "beta2": 0.95, "weight_decay": 0.1},
        "Adam",
        {"lr": 0.1, "betas": (0.8, 0.95), "weight_decay": 0.1},
    ),
    "adamw": (
        "AdamW",
        {"lr": 0.1, "weight_decay": 0.2},
        "AdamW",
        {"lr": 0.1, "weight_decay": 0.2},
    ),
    "rmsprop": ("RMSprop", {"lr": 0.01}, "RMSprop", {"lr": 0.01}),
    "rmsprop_momentum": (
        "RMSprop",
        {"lr": 0.01, "alpha": 0.9, "momentum": 0.8, "weight_decay": 0.01},
        "RMSprop",
        {"lr": 0.01, "alpha": 0.9, "momentum": 0.8, "weight_decay": 0.01},
    ),
    "adagrad": (
        "Adagrad",
        {"lr": 0.3, "initial": 0.1},
        "Adagrad",
        {"lr": 0.3, "initial_accumulator_value": 0.1},
    ),
}


def problem() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The start (D,), the curvatures (D,) and the noise of every step (steps, D)."""
    draw = np.random.Generator(np.random.Philox(key=[2026, 11]))
    start, noise = draw.standard_normal(SIZE), draw.standard_normal((STEPS, SIZE)) * 0.3
    return start, np.geomspace(0.01, 3.0, SIZE), noise


def trajectory(name: str, options: Mapping[str, Any]) -> NDArray[np.float64]:
    """The parameters (steps, D) after each step of PyTorch's optimiser `name`."""
    import torch

    start, curvature, noise = problem()
    theta = torch.tensor(start, requires_grad=True)
    optimizer = getattr(torch.optim, name)([theta], **options)
    path = np.empty((STEPS, SIZE))
    for step in range(STEPS):
        theta.grad = torch.tensor(curvature) * theta.detach() + torch.tensor(noise[step])
        optimizer.step()
        path[step] = theta.detach().numpy()
    return path


if __name__ == "__main__":
    paths = {case: trajectory(name, options) for case, (*_, name, options) in CASES.items()}
    np.savez_compressed(FILE, **paths)
