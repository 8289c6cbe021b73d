"""How a primitive is sampled: one line gives a call that the registry-driven tests examine.

    sample("matmul", reals(3, 4), reals(4, 5))
    sample("max", distinct(3, 4), axis=(-1,), keepdims=False)

The operands say from which values they are drawn, the keywords are the static parameters. A
primitive that cannot be called by itself (because it changes the number of lanes) is sampled with
`through`, a function of the operands that reaches it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedcore.tensor.primitive import primitives

__all__ = [
    "Operand",
    "Sample",
    "booleans",
    "distinct",
    "fixed",
    "integers",
    "positive",
    "reals",
    "sample",
    "samples_of",
    "words",
]

Array = np.ndarray[Any, Any]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]


@dataclass(frozen=True)
class Operand:
    """One array argument: its core shape and how to draw it; `varies` if it is differentiated."""

    shape: tuple[int, ...]
    draw: Draw
    varies: bool

    def array(self, rng: np.random.Generator, lanes: tuple[int, ...] = ()) -> Array:
        return self.draw(rng, (*lanes, *self.shape))


@dataclass(frozen=True)
class Sample:
    """A call of the primitive `name`; see `sample` for the fields."""

    name: str
    operands: tuple[Operand, ...]
    params: dict[str, Any] = field(default_factory=dict)
    through: Callable[..., Any] | None = None
    keeps_dtype: bool = True

    def __call__(self, *xs: Any) -> Any:
        if self.through is not None:
            return self.through(*xs)
        return primitives[self.name](*xs, **self.params)

    @property
    def differentiable(self) -> bool:
        return primitives[self.name].differentiable and any(o.varies for o in self.operands)

    def __str__(self) -> str:
        shapes = ",".join("x".join(map(str, o.shape)) or "0d" for o in self.operands)
        params = ",".join(f"{k}={v}" for k, v in self.params.items())
        return f"{self.name}({shapes}{';' if params else ''}{params})".replace(" ", "")


def sample(
    name: str,
    *operands: Operand,
    through: Callable[..., Any] | None = None,
    keeps_dtype: bool = True,
    **params: Any,
) -> Sample:
    """A sample of the primitive `name`.

    `through` is called instead of the primitive. `keeps_dtype` is False where the call itself names
    the dtype of the result, so that float32 operands need not give float32.
    """
    return Sample(name, operands, params, through, keeps_dtype)


def samples_of(*names: str, operands: tuple[Operand, ...]) -> list[Sample]:
    """One sample of each of several primitives that take the same operands."""
    return [sample(name, *operands) for name in names]


def reals(*shape: int, low: float = -2.0, high: float = 2.0) -> Operand:
    """Floating numbers in [low, high)."""
    return Operand(shape, lambda rng, full: rng.uniform(low, high, full), True)


def positive(*shape: int) -> Operand:
    """Floating numbers well above zero: for log, sqrt and divisors."""
    return reals(*shape, low=0.5, high=2.0)


def distinct(*shape: int) -> Operand:
    """Floating numbers no two of which are near each other: for max, sort and other choices."""

    def draw(rng: np.random.Generator, full: tuple[int, ...]) -> Array:
        count = math.prod(full)
        return (rng.permutation(count).reshape(full) - count / 2 + 0.25) * (4.0 / max(count, 1))

    return Operand(shape, draw, True)


def integers(*shape: int, below: int, start: int = 0) -> Operand:
    """Whole numbers in [start, below)."""
    return Operand(shape, lambda rng, full: rng.integers(start, below, full), False)


def booleans(*shape: int) -> Operand:
    """True and false."""
    return Operand(shape, lambda rng, full: rng.random(full) < 0.5, False)


def words() -> Operand:
    """The words of a random key."""
    return Operand((2,), lambda rng, full: rng.integers(0, 1 << 63, full, dtype=np.uint64), False)


def fixed(operand: Operand) -> Operand:
    """`operand` as a constant: it is not differentiated."""
    return Operand(operand.shape, operand.draw, False)
