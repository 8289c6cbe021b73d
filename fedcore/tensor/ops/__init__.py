"""All operations; importing this package registers them."""

from fedcore.tensor.ops import elementwise, flat, lanes, linalg, reduce, shape, update

__all__ = ["elementwise", "flat", "lanes", "linalg", "reduce", "shape", "update"]
