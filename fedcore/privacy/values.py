"""What may be added up: integer vectors that carry the bound under which their noise was chosen.

A float leaves a device only as an `IntUpdate`, whose norm was checked in integers; sums of them are
of types of their own, which only a mechanism turns into numbers that may be looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, SupportsIndex, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedcore.errors import DtypeError, NormError, PrivacyError, ShapeError

__all__ = ["IntSum", "IntUpdate", "NoisySum", "squared_norm"]

_LARGEST_EXACT = 2.0**53
_LARGEST_SUM = 2**62
_BLOCK = 32_768


@final
@dataclass(frozen=True, eq=False, slots=True)
class IntUpdate:
    """One unit's contribution, int64 (D,), with a Euclidean norm of at most `grid_steps`.

    It keeps a copy of the vector that nobody can write to. A copy of it is checked like itself.
    Raises: NormError if the norm is larger, computed in integers; ShapeError, DtypeError.
    """

    vector: NDArray[np.int64]
    grid_steps: int

    def __post_init__(self) -> None:
        _require_vector(self.vector, type(self).__name__)
        _require_count(self.grid_steps, type(self).__name__, "grid_steps")
        # Of bytes, whose array cannot be made writeable again as one that owns its memory can.
        object.__setattr__(self, "vector", np.frombuffer(self.vector.tobytes(), np.int64))
        _require_norm(self)

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[type[IntUpdate], tuple[Any, int]]:
        return IntUpdate, (self.vector, self.grid_steps)

    def __repr__(self) -> str:
        return f"IntUpdate(<{self.vector.size} integers>, grid_steps={self.grid_steps})"


@final
@dataclass(frozen=True, eq=False, slots=True)
class IntSum:
    """A sum of contributions without noise, int64 (D,): nothing that anybody may see.

    `grid_steps`: the bound that holds for each contribution. After secure aggregation it was
    checked by each client and by nobody else.
    """

    vector: NDArray[np.int64]
    grid_steps: int

    def __post_init__(self) -> None:
        _require_vector(self.vector, type(self).__name__)
        _require_count(self.grid_steps, type(self).__name__, "grid_steps")

    @classmethod
    def of(cls, updates: Iterable[IntUpdate], *, dimension: int, grid_steps: int) -> IntSum:
        """The sum of any number of updates; of none, zeros, which are released like any other.

        Raises: NormError for an update with another bound or beyond it, and for so many that their
        sum could leave 62 bits; ShapeError; DtypeError.

        >>> one = IntUpdate(np.array([3, -4]), grid_steps=5)
        >>> IntSum.of([one, one], dimension=2, grid_steps=5).vector
        array([ 6, -8])
        """
        total = np.zeros(dimension, np.int64)
        for count, update in enumerate(updates, start=1):
            if type(update) is not IntUpdate:
                raise DtypeError(
                    f"a sum of updates is given a {type(update).__name__}",
                    why="its norm has not been checked",
                    fix="pass what quantise() returned",
                )
            if update.grid_steps != grid_steps:
                raise NormError(
                    f"an update is bounded by {update.grid_steps} grid steps, not {grid_steps}",
                    why="all contributions of a sum share one grid and one bound",
                    fix="quantise every update by the terms of the same plan",
                )
            # Once more where it counts: 1 ms for a million coordinates.
            _require_vector(update.vector, "IntSum.of")
            _require_norm(update)
            if count * grid_steps >= _LARGEST_SUM:
                raise NormError(
                    f"{count} updates of up to {grid_steps} grid steps may add up to 2^62",
                    why="a sum of 64 bits would wrap around and be another one",
                    fix="plan a coarser grid, or smaller cohorts",
                )
            if update.vector.shape != total.shape:
                raise ShapeError(
                    f"an update has {update.vector.size} coordinates, not {dimension}",
                    why="contributions are added coordinate by coordinate",
                    fix="send the update of the model that the round started from",
                )
            total += update.vector
        return cls(total, grid_steps)

    def __repr__(self) -> str:
        return f"IntSum(<{self.vector.size} integers>, grid_steps={self.grid_steps})"

    def __array__(self, dtype: object = None, copy: bool | None = None) -> NDArray[np.int64]:
        raise _unreleased()


@final
@dataclass(frozen=True, eq=False, slots=True)
class NoisySum:
    """A sum in which every one of `shares` clients has already put its share of the noise.

    int64 (D,), centred: as it comes out of secure aggregation.
    """

    vector: NDArray[np.int64]
    shares: int

    def __post_init__(self) -> None:
        _require_vector(self.vector, type(self).__name__)
        _require_count(self.shares, type(self).__name__, "shares")

    def __repr__(self) -> str:
        return f"NoisySum(<{self.vector.size} integers>, shares={self.shares})"

    def __array__(self, dtype: object = None, copy: bool | None = None) -> NDArray[np.int64]:
        raise _unreleased()


def squared_norm(vector: NDArray[np.int64]) -> int:
    """The exact sum of squares of any int64 vector (D,).

    >>> squared_norm(np.array([3, -4])), squared_norm(np.array([-(2**63)])) == 2**126
    (25, True)
    """
    # Through one buffer, and not by BLAS, which would wake its threads for every block: 0.9 ms for
    # a million beside other work on two cores, where `values @ values` took up to 250.
    total, buffer = 0, np.empty(min(vector.size, _BLOCK))
    for start in range(0, vector.size, _BLOCK):
        block = vector[start : start + _BLOCK]
        values = buffer[: block.size]
        values[...] = block
        # Sums of squares below 2^53 are exact in float64 at every partial sum, in any order.
        np.multiply(values, values, out=values)
        found = float(np.add.reduce(values))
        exact = found < _LARGEST_EXACT
        total += int(found) if exact else sum(value * value for value in block.tolist())
    return total


def _require_norm(update: IntUpdate) -> None:
    if (found := squared_norm(update.vector)) > update.grid_steps**2:
        raise NormError(
            f"an update has a norm of {math.sqrt(found):.6g} grid steps, not {update.grid_steps}",
            why="the noise hides a contribution of the declared norm and no larger one",
            fix="let quantise() clip and round it",
        )


def _require_vector(vector: ArrayLike, name: str) -> None:
    if type(vector) is not np.ndarray or vector.dtype != np.int64:
        kind = vector.dtype if type(vector) is np.ndarray else type(vector).__name__
        raise DtypeError(
            f"{name} is given {kind}, not int64",
            why="only integers add up to the same sum in every order",
            fix="pass the int64 vector that quantise() or the unmasked sum holds",
        )
    if vector.ndim != 1:
        raise ShapeError(
            f"{name} is given an array of shape {vector.shape}",
            why="it is one flat vector",
            fix="pass array.reshape(-1)",
        )


def _require_count(value: object, name: str, field: str) -> None:
    if type(value) is not int or value < 1:
        raise NormError(
            f"{name} with {field} = {value!r}",
            why="it states the bound that its noise is held against",
            fix=f"pass {field} as a positive int",
        )


def _unreleased() -> PrivacyError:
    return PrivacyError(
        "a sum was about to be read before its release",
        why="what has not been charged to the ledger may not be looked at",
        fix="call the release method of the plan's mechanism",
    )
