"""Sparse updates at coordinates that a shared seed draws, the same for all clients of a round."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import ShapeError
from fedcore.settings import Bounds, Settings
from fedcore.tensor.random import Key
from fedsim.algorithms.algorithm import State, Vector

__all__ = ["RandomK", "RandomKCode"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RandomKCode:
    """Of D numbers those at `chosen` (k,), rising, and `scalars` more that stand last.

    They are sent `scale` times. With `error_feedback`, what is left out is added next time.
    Raises: ShapeError for a vector, mean or state of another length.
    """

    dimension: int
    chosen: NDArray[np.int64]
    scalars: int = 0
    scale: float = 1.0
    error_feedback: bool = False

    @property
    def length(self) -> int:
        return len(self.chosen) + self.scalars

    @property
    def bytes_saved(self) -> int:
        return 4 * (self.dimension - len(self.chosen))

    def encode(self, vector: Vector, state: State) -> tuple[Vector, State]:
        _require("a vector", vector, self.dimension + self.scalars)
        values, last = vector[: self.dimension], vector[self.dimension :]
        if not self.error_feedback:
            return np.concatenate([self.scale * values[self.chosen], last]), {}
        if "residual" in state:
            _require("a residual", state["residual"], self.dimension)
            values = values + state["residual"]
        residual = values.copy()
        residual[self.chosen] = 0.0
        return np.concatenate([values[self.chosen], last]), {"residual": residual}

    def decode(self, mean: Vector) -> Vector:
        _require("a mean", mean, self.length)
        result = np.zeros(self.dimension + self.scalars, np.float32)
        result[self.chosen] = mean[: len(self.chosen)]
        result[self.dimension :] = mean[len(self.chosen) :]
        return result


@dataclass(frozen=True, kw_only=True)
class RandomK(Settings):
    """k = ⌈fraction·D⌉ of D coordinates, drawn anew in each round, all of them equally likely.

    Without `error_feedback` they are sent D/k times, so that what arrives is right in the mean.
    With it they are sent as they are, and each client adds what it left out to its next vector:
    nothing is lost, it comes later. Which coordinates they are follows from seed and round, and
    costs nothing to send.

    Source: Stich et al., "Sparsified SGD with Memory", 2018, definition 2.1 and algorithm 1;
    Karimireddy et al., "Error Feedback Fixes SignSGD and other Gradient Compression Schemes", 2019,
    algorithm 2; unbiased: Konečný et al., "Federated Learning: Strategies for Improving
    Communication Efficiency", 2016, section 3.
    """

    fraction: Annotated[float, Bounds(above=0, most=1)] = 0.1
    error_feedback: bool = False

    @property
    def stateful(self) -> bool:
        return self.error_feedback

    def code(self, length: int, *, scalars: int = 0, seed: int, round: int) -> RandomKCode:
        """The code of a round, for D = `length` - `scalars`.

        >>> code = RandomK(fraction=0.25).code(8, seed=0, round=0)
        >>> code.length, code.scale, code.bytes_saved
        (2, 4.0, 24)
        """
        dimension = length - scalars
        count = math.ceil(Fraction(str(self.fraction)) * dimension)
        draw = Key(seed, "random_k", round=round).generator()
        return RandomKCode(
            dimension=dimension,
            chosen=np.sort(draw.choice(dimension, count, replace=False, shuffle=False)),
            scalars=scalars,
            scale=1.0 if self.error_feedback else dimension / count,
            error_feedback=self.error_feedback,
        )


def _require(what: str, vector: Vector, length: int) -> None:
    if vector.shape != (length,):
        raise ShapeError(
            f"random_k: {what} of shape {vector.shape}, expected ({length},)",
            why="a code is for vectors of one length",
            fix="pass what the algorithm of the code's task sends, and what this client kept",
        )
