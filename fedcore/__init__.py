"""fedcore: the tensor and autograd core of a privacy-preserving federated learning framework."""

from fedcore.autograd.lanes import vmap
from fedcore.autograd.per_example import clipped_sum
from fedcore.autograd.ravel import ravel
from fedcore.autograd.replay import compile
from fedcore.autograd.tape import (
    factored_grad,
    grad,
    value_and_factored_grad,
    value_and_grad,
    vjp,
)
from fedcore.tensor.backend import use_backend
from fedcore.tensor.ops.elementwise import stop_gradient
from fedcore.tensor.ops.update import add_scaled
from fedcore.tensor.tensor import Tensor, tensor

__all__ = [
    "Tensor",
    "add_scaled",
    "clipped_sum",
    "compile",
    "factored_grad",
    "grad",
    "ravel",
    "stop_gradient",
    "tensor",
    "use_backend",
    "value_and_factored_grad",
    "value_and_grad",
    "vjp",
    "vmap",
]
