"""All operations; importing this package registers them."""

from fedcore.tensor.ops import (
    activations,
    arrange,
    contract,
    create,
    elementwise,
    flat,
    gather,
    index,
    lanes,
    linalg,
    losses,
    reduce,
    selection,
    shape,
    softmax,
    update,
)

__all__ = [
    "activations",
    "arrange",
    "contract",
    "create",
    "elementwise",
    "flat",
    "gather",
    "index",
    "lanes",
    "linalg",
    "losses",
    "reduce",
    "selection",
    "shape",
    "softmax",
    "update",
]
