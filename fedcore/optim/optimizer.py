"""What an optimiser is: two pure functions of flat vectors, so that lanes and replay need no more.

`init` makes the state, a tuple of tensors; `step` maps parameters, gradient and state to new
parameters and state. The count of steps is a tensor in the state, because a replay would freeze a
Python number.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, Protocol

from fedcore.errors import ArgumentError, DtypeError, ShapeError, user_line
from fedcore.tensor.backend import is_array
from fedcore.tensor.cotangent import Cotangent, Factored, Pieces, as_array
from fedcore.tensor.primitive import Shape
from fedcore.tensor.tensor import Tensor, tensor

__all__ = [
    "Optimizer",
    "State",
    "check_at_least_zero",
    "check_fraction",
    "check_positive",
    "check_size",
    "dense",
    "flat",
    "parts_of",
    "rate_of",
]

State = tuple[Tensor, ...]


class Optimizer(Protocol):
    """A rule that turns gradients into steps.

    `fit` gives it the gradient as a tensor (D,), unless its class has an attribute
    `takes_factored = True`, as those of this package: then it may come as `fedcore.factored_grad`
    gives it, which can spare writing it down. A class without the attribute counts as False.
    """

    @property
    def lr(self) -> float:
        """The learning rate that `step` uses when it is given none."""
        ...

    def init(self, theta: Tensor) -> State:
        """The state before the first step for a vector like `theta` (D,)."""
        ...

    def step(
        self, theta: Tensor, gradient: Any, state: State, *, lr: Any = None
    ) -> tuple[Tensor, State]:
        """The parameters and state after one step; `lr` is a number or a 0-d tensor."""
        ...


def flat(optimizer: Optimizer, theta: Any) -> Tensor:
    """The parameters as a tensor.

    Raises: ArgumentError if they are none, such as a model.
    """
    if isinstance(theta, Tensor) or is_array(theta):
        return tensor(theta)
    raise ArgumentError(
        f"{type(optimizer).__name__}: the parameters are a {type(theta).__name__}",
        where=user_line(),
        why="an optimiser moves one flat vector (D,)",
        fix="theta, rebuild = fedcore.ravel(model), then optimizer.init(theta); or fit(model, ...)",
    )


def dense(theta: Tensor, gradient: Cotangent) -> Tensor:
    """The gradient as one tensor (D,), shaped like `theta`.

    Raises: ShapeError if it is shaped otherwise.
    """
    check_size(theta, gradient)
    return as_array(gradient)


def rate_of(optimizer: Optimizer, lr: Any) -> Any:
    """The rate of one step: `lr`, a number or a 0-d tensor, or for None the optimiser's own.

    Raises: ShapeError if it is an array, DtypeError if it is no number, ArgumentError for a Python
    number that is negative or not finite; the value of a tensor may not be known yet.
    """
    if lr is None:
        return optimizer.lr
    if isinstance(lr, Real):
        check_at_least_zero(type(optimizer).__name__, lr=float(lr))
        return lr
    if shape := tensor(lr).shape:
        raise ShapeError(
            f"{type(optimizer).__name__}: a rate of shape {shape}",
            where=user_line(),
            why="one rate scales the whole step",
            fix="pass a number or a 0-d tensor; map over clients with vmap",
        )
    return lr


def parts_of(optimizer: Optimizer, state: State, *shapes: Shape) -> State:
    """The state, if its parts are as many as, and have the shapes of, the optimiser's own.

    Raises: ArgumentError for another number of parts, ShapeError for another shape.
    """
    count = len(shapes)
    if not isinstance(state, tuple | list) or len(state) != count:
        found = f"{len(state)} parts" if isinstance(state, tuple | list) else type(state).__name__
        raise ArgumentError(
            f"{type(optimizer).__name__}: the state is {found}, expected {count} parts",
            where=user_line(),
            why="each step carries on from what the step before returned",
            fix="begin with optimizer.init(theta), and pass the state that step returned",
        )
    given = tuple(tensor(part).shape for part in state)
    if given != shapes:
        raise ShapeError(
            f"{type(optimizer).__name__}: a state of shapes {', '.join(map(str, given))}, expected "
            f"{', '.join(map(str, shapes))}",
            where=user_line(),
            why="each parameter has its own moments, and nothing is broadcast",
            fix="begin with optimizer.init(theta) for the same theta",
        )
    return tuple(state)


def check_size(theta: Tensor, gradient: Cotangent) -> None:
    """Raise a ShapeError unless the gradient, factored or not, is shaped like `theta`."""
    if not isinstance(gradient, Tensor | Factored):
        raise DtypeError(
            f"optimiser: the gradient is a {type(gradient).__name__}",
            where=user_line(),
            why="a step computes with tensors",
            fix="pass what fedcore.grad or fedcore.factored_grad gave, or fedcore.tensor(values)",
        )
    shape = (gradient.size,) if isinstance(gradient, Pieces) else as_array(gradient).shape
    if shape != theta.shape:
        raise ShapeError(
            f"optimiser: parameters of shape {theta.shape}, gradient of shape {shape}",
            where=user_line(),
            why="each parameter has one slope",
            fix="differentiate with respect to the same flat vector",
        )


def check_at_least_zero(optimizer: str, **values: float) -> None:
    """Raise an ArgumentError unless every value is finite and at least 0."""
    for name, value in values.items():
        if not (_is_number(value) and 0 <= value < math.inf):
            raise _refused(optimizer, name, value, "a finite number of at least 0")


def check_positive(optimizer: str, **values: float) -> None:
    """Raise an ArgumentError unless every value is finite and above 0."""
    for name, value in values.items():
        if not (_is_number(value) and 0 < value < math.inf):
            raise _refused(optimizer, name, value, "a finite number above 0")


def check_fraction(optimizer: str, **values: float) -> None:
    """Raise an ArgumentError unless every value lies in [0, 1)."""
    for name, value in values.items():
        if not (_is_number(value) and 0 <= value < 1):
            raise _refused(optimizer, name, value, "a number with 0 <= value < 1")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _refused(optimizer: str, name: str, value: object, needed: str) -> ArgumentError:
    scheduled = "; a schedule goes to fit(schedule=...)" if callable(value) else ""
    return ArgumentError(
        f"{optimizer}: {name} is {value!r:.80}",
        where=user_line(),
        why=f"{name} has to be {needed}",
        fix=f"pass {needed}{scheduled}",
    )
