"""All operations; importing this package registers them."""

from fedcore.tensor.ops import (
    activations,
    elementwise,
    flat,
    lanes,
    linalg,
    losses,
    reduce,
    shape,
    softmax,
    update,
)

__all__ = [
    "activations",
    "elementwise",
    "flat",
    "lanes",
    "linalg",
    "losses",
    "reduce",
    "shape",
    "softmax",
    "update",
]
