"""Write activations.npz: PyTorch's activations and their derivatives, in float64.

Run with an interpreter that has PyTorch: python -m tests.golden.make_activations
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fedcore import nn
from tests.golden.case import Array, Case, normal, write

FILE = Path(__file__).with_name("activations.npz")

# our function, PyTorch's name for it, its options
ACTIVATIONS: Mapping[str, tuple[Callable[[Any], Any], str, Mapping[str, Any]]] = {
    "relu": (nn.relu, "relu", {}),
    "leaky_relu": (nn.leaky_relu, "leaky_relu", {}),
    "leaky_relu_slope": (
        partial(nn.leaky_relu, slope=0.2),
        "leaky_relu",
        {"negative_slope": 0.2},
    ),
    "elu": (nn.elu, "elu", {}),
    "elu_alpha": (partial(nn.elu, alpha=0.7), "elu", {"alpha": 0.7}),
    "selu": (nn.selu, "selu", {}),
    "gelu_exact": (partial(nn.gelu, approximate="none"), "gelu", {}),
    "gelu_tanh": (nn.gelu, "gelu", {"approximate": "tanh"}),
    "silu": (nn.silu, "silu", {}),
    "sigmoid": (nn.sigmoid, "sigmoid", {}),
    "tanh": (nn.tanh, "tanh", {}),
    # above its threshold PyTorch answers x: beyond 40 that is exact, at its own 20 off by 2e-9
    "softplus": (nn.softplus, "softplus", {"threshold": 40.0}),
    "hardswish": (nn.hardswish, "hardswish", {}),
    "log_sigmoid": (nn.log_sigmoid, "logsigmoid", {}),
    "softmax": (nn.softmax, "softmax", {"dim": -1}),
    "softmax_first_axis": (partial(nn.softmax, axis=0), "softmax", {"dim": 0}),
    "log_softmax": (nn.log_softmax, "log_softmax", {"dim": -1}),
}

ORDINARY = np.concatenate([normal("x", 21) * 2.5, [0.0, 1e-8, -1e-8]]).reshape(6, 4)
EXTREME = np.array([[1e4, -1e4, 0.0, 300.0], [-1e4, -1e4, 90.0, -90.0], [20.0, -20.0, 1e4, 1e4]])


def activation(name: str, x: Array) -> Case:
    """The named function at each element, or along rows."""
    ours, theirs, options = ACTIVATIONS[name]

    def by_torch(torch: Any, v: Mapping[str, Any]) -> Any:
        return getattr(torch.nn.functional, theirs)(v["x"], **options)

    return Case({"x": x}, lambda v: ours(v["x"]), by_torch)


CASES: Mapping[str, Case] = {
    f"{name}{suffix}": activation(name, x)
    for name in ACTIVATIONS
    for suffix, x in (("", ORDINARY), ("_extreme", EXTREME))
}

if __name__ == "__main__":
    write(FILE, CASES)
