"""One unit's influence is bounded by cutting its update to a ball: the rules that do so, as values.

A rule is public, frozen and exact: norms are fractions, so that every party cuts at the same
number. What a rule does to an update is defined for all that a float array can hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import DtypeError, PlanError, ShapeError

__all__ = [
    "BLOCK",
    "LARGEST_NORM",
    "LARGEST_SQUARE",
    "SMALLEST_NORM",
    "Clipping",
    "Flat",
    "Measure",
    "PerLayer",
    "exact_norm",
    "measure",
    "require_update",
    "scaled_blocks",
]

SMALLEST_NORM, LARGEST_NORM = Fraction(1, 2**100), Fraction(2**100)
"""No clipping norm lies outside: so neither a scale nor a decoded mean leaves the floats."""

BLOCK = 32_768
"""Coordinates converted at a time: 256 KiB as float64, which stay in the cache.

Conversion, scaling and truncation of 10^6 coordinates took 1.19, 1.00, 0.85, 0.81 ms in blocks of
4096, 16,384, 32,768, 65,536. It also fixes the order in which squares are added.
"""

LARGEST_SQUARE = 2.0**1000
"""Sums of squares above it are taken again on a smaller scale, before they overflow."""

_MARGIN = 2.0**-46
_MOST_BITS = 1328  # 400 decimal digits
"""By which a clipped vector stays inside its ball, so that it measures as inside.

A sum of squares in blocks of 2^15 is off by 29 roundings at most, a norm by half of that, a
clipped coordinate by 5: less than 2^-47 in all.
"""


def exact_norm(value: Fraction | float) -> Fraction:
    """A clipping norm, read exactly.

    Raises: PlanError unless it is in 2^-100 … 2^100, of at most 400 digits above and below its bar.

    >>> exact_norm(0.75)
    Fraction(3, 4)
    """
    known = isinstance(value, Fraction | float | int) and not isinstance(value, bool)
    if not known or not SMALLEST_NORM <= value <= LARGEST_NORM or _is_long(value):
        long = isinstance(value, Fraction | int) and _is_long(value)
        raise PlanError(
            f"a clipping norm of {'endless digits' if long else repr(value)} is none",
            why="it is a public bound on the length of an update",
            fix="take a Fraction or float in 2^-100 … 2^100, about the median length of an update",
        )
    return Fraction(value)


def _is_long(value: Fraction | float) -> bool:
    return max(abs(part).bit_length() for part in value.as_integer_ratio()) > _MOST_BITS


@dataclass(frozen=True, init=False)
class Flat:
    """The whole update is cut to length `norm`.

    >>> Flat(2.5).clip(np.array([3, 4], np.float32)).round(12)
    array([1.5, 2. ])
    """

    norm: Fraction

    def __init__(self, norm: Fraction | float) -> None:
        object.__setattr__(self, "norm", exact_norm(norm))

    def parts(self, dimension: int) -> tuple[tuple[slice, Fraction], ...]:
        """Where each part of an update of `dimension` coordinates lies, and its bound."""
        return ((slice(0, dimension), self.norm),)

    def clip(self, update: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """The update (D,) inside the ball, float64; zeros if its length is not finite.

        To clip twice changes nothing. Raises: DtypeError, ShapeError.
        """
        return _clip(self, update)

    def describe(self) -> str:
        """The rule in words."""
        return f"each contribution is cut to length {float(self.norm):.6g}"


@dataclass(frozen=True, init=False)
class PerLayer:
    """Each part of the update is cut to a length of its own; the parts follow one another.

    `norms` and `sizes`: bound and number of coordinates of each part, a layer or metrics that are
    sent along. Together they lie in a ball of radius `norm`, which is what noise is made for.

    >>> PerLayer(norms=(3, 4), sizes=(1, 2)).clip(np.array([9.0, 0.0, -1.0])).round(12)
    array([ 3.,  0., -1.])
    """

    norms: tuple[Fraction, ...]
    sizes: tuple[int, ...]

    def __init__(self, norms: Sequence[Fraction | float], sizes: Sequence[int]) -> None:
        object.__setattr__(self, "norms", tuple(map(exact_norm, norms)))
        object.__setattr__(self, "sizes", tuple(sizes))
        fits = len(self.norms) == len(self.sizes) > 0
        if not fits or any(type(size) is not int or size < 1 for size in self.sizes):
            raise PlanError(
                f"{len(self.norms)} norms and sizes {self.sizes!r} do not describe an update",
                why="each part has one bound and at least one coordinate",
                fix="pass a norm and a positive int for each part",
            )
        exact_norm(self.norm)

    @cached_property
    def norm(self) -> Fraction:
        """The root of the sum of the squared norms, exact or rounded up by less than 2^-60 of it.

        >>> PerLayer(norms=(3, 4), sizes=(10, 10)).norm
        Fraction(5, 1)
        """
        common = 1
        for norm in self.norms:
            common = math.lcm(common, norm.denominator)
            if common.bit_length() > _MOST_BITS:
                return self._long_norm()
        total = sum((int(norm * common) ** 2 for norm in self.norms), 0)
        root = math.isqrt(total)
        if root**2 == total:
            return Fraction(root, common)
        square = Fraction(total, common**2)
        places = max(0, 64 - math.floor(math.log2(square)) // 2)
        return Fraction(math.isqrt(math.ceil(square * 4**places) - 1) + 1, 2**places)

    def _long_norm(self) -> Fraction:
        """Where a common denominator would be endless: each square is rounded up by itself."""
        longest = math.floor(math.log2(max(self.norms)))
        places = max(0, 64 + len(self.norms).bit_length() - longest)
        total = sum(math.ceil(norm**2 * 4**places) for norm in self.norms)
        return Fraction(math.isqrt(total - 1) + 1, 2**places)

    def parts(self, dimension: int) -> tuple[tuple[slice, Fraction], ...]:
        """Where each part of an update of `dimension` coordinates lies, and its bound.

        Raises: ShapeError unless the sizes add up to `dimension`.
        """
        if dimension != sum(self.sizes):
            raise ShapeError(
                f"an update has {dimension} coordinates, its clipping rule {sum(self.sizes)}",
                why="a rule by layers bounds each coordinate in one part",
                fix="pass the sizes of the parts that are sent, metrics included",
            )
        found, start = [], 0
        for size, norm in zip(self.sizes, self.norms, strict=True):
            found.append((slice(start, start + size), norm))
            start += size
        return tuple(found)

    def clip(self, update: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """The update (D,) with each part inside its ball, float64; zeros if not all is finite.

        To clip twice changes nothing. Raises: DtypeError, ShapeError.
        """
        return _clip(self, update)

    def describe(self) -> str:
        """The rule in words."""
        norms = ", ".join(f"{float(norm):.6g}" for norm in self.norms)
        return (
            f"each of {len(self.norms)} parts of a contribution is cut to a length of its own "
            f"({norms}), {float(self.norm):.6g} in all"
        )


Clipping: TypeAlias = Flat | PerLayer


@dataclass(frozen=True)
class Measure:
    """The length of a vector: the root of `square`, times 2^`exponent`.

    The exponent is 0 but for vectors whose squares leave the floats.
    """

    square: float
    exponent: int

    def within(self, norm: Fraction) -> bool:
        """Whether the length is at most `norm`, compared without rounding."""
        return Fraction(self.square) * Fraction(4) ** self.exponent <= norm**2


def measure(vector: NDArray[np.floating[Any]]) -> Measure | None:
    """The length of a float vector (D,) of any dtype; None if it is not finite.

    The same bits for every layout in memory, number of threads and BLAS: squares are added pairwise
    within blocks, blocks without any rounding.
    """
    with np.errstate(all="ignore"):
        square = _sum_of_squares(vector, 0)
        if square <= LARGEST_SQUARE:
            # Squares may have vanished, but only of coordinates 2^-400 times the smallest norm.
            return Measure(square, 0)
        largest = np.maximum(vector.max(), -vector.min())
        if not np.isfinite(largest):
            return None
        exponent = int(np.frexp(largest)[1])
        return Measure(_sum_of_squares(vector, exponent), exponent)


def scaled_blocks(
    vector: NDArray[np.floating[Any]], exponent: int
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """The vector times 2^-`exponent` in float64, block by block, in one buffer that is reused."""
    buffer = np.empty(min(BLOCK, vector.size))
    for start in range(0, vector.size, BLOCK):
        values = vector[start : start + BLOCK]
        block = buffer[: values.size]
        block[...] = np.ldexp(values, -exponent) if exponent else values
        yield slice(start, start + values.size), block


def require_update(update: object, *, axes: int) -> NDArray[np.floating[Any]]:
    """The array, if it is one of floats with so many axes. Raises: DtypeError, ShapeError."""
    if not isinstance(update, np.ndarray) or not np.issubdtype(update.dtype, np.floating):
        raise DtypeError(
            f"an update is given as {getattr(update, 'dtype', type(update).__name__)}",
            why="clipping scales real numbers",
            fix="pass an array of floats",
        )
    if update.ndim != axes:
        raise ShapeError(
            f"an update has shape {update.shape}",
            why="its length is that of one flat vector" + ("" if axes == 1 else " a row"),
            fix="pass array.reshape(-1)" if axes == 1 else "pass array.reshape(rows, -1)",
        )
    return np.asarray(update)


def _clip(rule: Clipping, update: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    update = require_update(update, axes=1)
    parts = rule.parts(update.size)
    result = np.zeros(update.size)
    measures = [measure(update[part]) for part, _ in parts]
    if any(found is None for found in measures):
        return result
    with np.errstate(all="ignore"):
        for (part, norm), found in zip(parts, measures, strict=True):
            assert found is not None
            if found.within(norm):
                result[part] = update[part]
                continue
            scale = float(norm) * (1 - _MARGIN) / math.sqrt(found.square)
            target = result[part]
            for place, block in scaled_blocks(update[part], found.exponent):
                np.multiply(block, scale, out=target[place])
    return result


def _sum_of_squares(vector: NDArray[np.floating[Any]], exponent: int) -> float:
    sums = []
    for _, block in scaled_blocks(vector, exponent):
        # 0.45 ms for 10^6 float32; one multiply that converts on the way takes 0.74.
        np.multiply(block, block, out=block)
        sums.append(float(np.add.reduce(block)))
    # fsum raises where infinities of a sum overflow midway; NaN and infinity pass it otherwise.
    return math.fsum(sums) if all(map(math.isfinite, sums)) else math.inf
