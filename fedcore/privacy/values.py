"""What may be added up: integer vectors that carry the bound under which their noise was chosen.

A float leaves a device only as an `IntUpdate`, whose norm was checked in integers; sums of them are
of types of their own, which only a mechanism turns into numbers that may be looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedcore.errors import DtypeError, NormError, PrivacyError, ShapeError

__all__ = ["IntSum", "IntUpdate", "NoisySum", "squared_norm"]

_LARGEST_EXACT = 2.0**53


@final
@dataclass(frozen=True, eq=False)
class IntUpdate:
    """One unit's contribution, int64 (D,), with a Euclidean norm of at most `grid_steps`.

    It takes the vector over, which is read-only from then on; of a view it keeps a copy, since
    whoever holds what it views could still change it.
    Raises: NormError if the norm is larger, computed in integers; ShapeError, DtypeError.
    """

    vector: NDArray[np.int64]
    grid_steps: int

    def __post_init__(self) -> None:
        _require_vector(self.vector, type(self).__name__)
        _require_count(self.grid_steps, type(self).__name__, "grid_steps")
        if self.vector.base is not None:
            object.__setattr__(self, "vector", self.vector.copy())
        if (found := squared_norm(self.vector)) > self.grid_steps**2:
            raise NormError(
                f"an update has a norm of {math.sqrt(found):.6g} grid steps, not {self.grid_steps}",
                why="the noise hides a contribution of the declared norm and no larger one",
                fix="let quantise() clip and round it",
            )
        self.vector.flags.writeable = False

    def __repr__(self) -> str:
        return f"IntUpdate(<{self.vector.size} integers>, grid_steps={self.grid_steps})"


@final
@dataclass(frozen=True, eq=False)
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

        Raises: NormError for an update with another bound; ShapeError; DtypeError.

        >>> one = IntUpdate(np.array([3, -4]), grid_steps=5)
        >>> IntSum.of([one, one], dimension=2, grid_steps=5).vector
        array([ 6, -8])
        """
        total = np.zeros(dimension, np.int64)
        for update in updates:
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
@dataclass(frozen=True, eq=False)
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
    # Sums of squares below 2^53 are exact in float64 at every partial sum, in any order.
    values = vector.astype(np.float64)
    if (found := float(values @ values)) < _LARGEST_EXACT:
        return int(found)
    return sum(value * value for value in vector.tolist())


def _require_vector(vector: ArrayLike, name: str) -> None:
    if not isinstance(vector, np.ndarray) or vector.dtype != np.int64:
        raise DtypeError(
            f"{name} is given {getattr(vector, 'dtype', type(vector).__name__)}, not int64",
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
