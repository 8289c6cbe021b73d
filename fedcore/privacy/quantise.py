"""Updates become integers whose norm is checked as integers: what is summed has no other rounding.

Coordinates are cut toward zero, which never makes a vector longer: its sensitivity is the declared
number of grid steps, without a term for rounding. The float arithmetic before only has to be good,
never right: an update that it left too long is shrunk until the integers say otherwise.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import PlanError
from fedcore.privacy.clipping import (
    BLOCK,
    LARGEST_SQUARE,
    Clipping,
    Flat,
    Measure,
    exact_norm,
    measure,
    require_update,
    scaled_blocks,
)
from fedcore.privacy.values import IntUpdate, squared_norm

__all__ = ["MOST_GRID_STEPS", "decode", "grid_vector", "quantise", "quantise_rows"]

MOST_GRID_STEPS = 2**40
"""Above, a float64 could no longer name each step, nor an int64 hold the sum of 2^23 updates."""

_LARGEST_EXACT = 2**53
_SHRINK, _FASTER = 2.0**-44, 2.0**8
"""A first correction far below a grid step, and by how much each next one is larger."""


@overload
def quantise(
    update: NDArray[np.floating[Any]],
    *,
    clipping_norm: Fraction | float,
    grid_steps: int,
    weight: Fraction | int = 1,
) -> IntUpdate: ...


@overload
def quantise(
    update: NDArray[np.floating[Any]],
    *,
    clipping: Clipping,
    grid_steps: int,
    weight: Fraction | int = 1,
) -> IntUpdate: ...


def quantise(
    update: NDArray[np.floating[Any]],
    *,
    clipping_norm: Fraction | float | None = None,
    clipping: Clipping | None = None,
    grid_steps: int,
    weight: Fraction | int = 1,
) -> IntUpdate:
    """The update (D,) clipped, weighted and cut to integers of norm / `grid_steps`.

    `weight`: in 0 … 1, exact, applied after clipping. Every float vector of every dtype has a
    result, zeros where its length is not finite: of a norm of at most weight · grid_steps, and the
    same bits for every layout in memory and number of threads.
    Raises: DtypeError and ShapeError if it is no vector of floats; PlanError for terms that no plan
    has.

    >>> quantise(np.array([3.0, -4.0]), clipping_norm=1, grid_steps=1000).vector
    array([ 600, -800])
    >>> quantise(np.array([np.nan, 1e300]), clipping_norm=1, grid_steps=1000).vector
    array([0, 0])
    """
    rule = _one_rule(clipping_norm, clipping)
    update = require_update(update, axes=1)
    vector = np.empty(update.size, np.int64)
    grid_vector(update, vector, clipping=rule, grid_steps=grid_steps, weight=weight)
    return IntUpdate(vector, grid_steps)


@overload
def quantise_rows(
    gradients: NDArray[np.floating[Any]], *, clipping_norm: Fraction | float, grid_steps: int
) -> NDArray[np.int64]: ...


@overload
def quantise_rows(
    gradients: NDArray[np.floating[Any]], *, clipping: Clipping, grid_steps: int
) -> NDArray[np.int64]: ...


def quantise_rows(
    gradients: NDArray[np.floating[Any]],
    *,
    clipping_norm: Fraction | float | None = None,
    clipping: Clipping | None = None,
    grid_steps: int,
) -> NDArray[np.int64]:
    """The sum of the rows of (B, D), each quantised by itself: int64 (D,).

    Equal to the sum of `quantise(row)`, bit for bit. Takes D + 2^15 numbers of memory besides.
    Raises: as `quantise`.

    >>> rows = np.array([[3.0, -4.0], [0.0, 0.5]])
    >>> quantise_rows(rows, clipping_norm=1, grid_steps=10)
    array([ 6, -3])
    """
    rule = _one_rule(clipping_norm, clipping)
    gradients = require_update(gradients, axes=2)
    _check_terms(grid_steps, 1)
    count, dimension = gradients.shape
    parts = rule.parts(dimension)
    total = np.zeros(dimension, np.int64)
    single = np.empty(dimension, np.int64)
    # Rows longer than a block are added up in several, which is what the loop below them does.
    together = BLOCK // dimension if dimension else 1
    with np.errstate(all="ignore"):
        for start in range(0, count, max(1, together)):
            rows = gradients[start : start + max(1, together)]
            alone = np.ones(len(rows), np.bool_)
            if together:
                cut, alone = _cut_rows(rows, parts, rule.norm, grid_steps)
                total += np.add.reduce(cut, axis=0).astype(np.int64)
            for index in np.flatnonzero(alone):
                grid_vector(rows[index], single, clipping=rule, grid_steps=grid_steps, weight=1)
                total += single
    return total


def decode(
    total: NDArray[np.int64],
    *,
    clipping_norm: Fraction | float,
    grid_steps: int,
    denominator: int,
) -> NDArray[np.float32]:
    """The mean that an integer sum (D,) with its noise stands for: float32 (D,).

    total · clipping_norm / (grid_steps · denominator), in float64; the norm is that by which the
    updates were clipped, the denominator the plan's, never a count of who replied.

    >>> decode(np.array([600, -800]), clipping_norm=1, grid_steps=1000, denominator=2)
    array([ 0.3, -0.4], dtype=float32)
    """
    _check_terms(grid_steps, 1)
    if type(denominator) is not int or denominator < 1:
        raise PlanError(
            f"a sum divided by {denominator!r} is no mean",
            why="the denominator is a public number, chosen before anybody replied",
            fix="pass the plan's denominator, a positive int",
        )
    step = float(exact_norm(clipping_norm) / (grid_steps * denominator))
    result = np.empty(total.shape, np.float32)
    with np.errstate(over="ignore"):  # a release that noise was spent on is not lost to a warning
        np.multiply(total, step, out=result, dtype=np.float64, casting="same_kind")
    return result


def grid_vector(
    update: NDArray[np.floating[Any]],
    out: NDArray[np.int64],
    *,
    clipping: Clipping,
    grid_steps: int,
    weight: Fraction | int,
) -> list[Measure] | None:
    """Quantises `update` into `out`, both (D,); the measured lengths of the parts, None for zeros.

    What `quantise` does, for callers that send more coordinates than those of the update.
    """
    _check_terms(grid_steps, weight)
    parts = clipping.parts(update.size)
    measures: list[Measure] = []
    for part, _ in parts:
        found = measure(update[part])
        if found is None:
            out[...] = 0
            return None
        measures.append(found)
    steps = grid_steps * Fraction(weight)  # in the joint norm
    with np.errstate(all="ignore"):
        for (part, norm), found in zip(parts, measures, strict=True):
            limit = math.floor((steps * norm / clipping.norm) ** 2)
            if found.within(norm):
                scale = math.ldexp(float(steps / clipping.norm), found.exponent)
            else:
                scale = float(steps * norm / clipping.norm) / math.sqrt(found.square)
            target, shrink = out[part], _SHRINK
            while _cut(update[part], target, scale, found.exponent) > limit:
                scale *= 1 - shrink
                shrink = min(shrink * _FASTER, 0.5)
    return measures


def _cut(
    vector: NDArray[np.floating[Any]], out: NDArray[np.int64], scale: float, exponent: int
) -> int:
    """Scales `vector` and cuts it toward zero into `out`; returns the exact squared norm of it."""
    square = 0.0
    for place, block in scaled_blocks(vector, exponent):
        np.multiply(block, scale, out=block)
        np.trunc(block, out=block)
        out[place] = block
        # In the cache 0.3 ms for 10^6; from `out` 0.4, and 2 more for the pages of a second vector.
        # A product of BLAS would be as fast, but woken threads take a core from whoever has it.
        np.multiply(block, block, out=block)
        square += float(np.add.reduce(block))
    # Whole numbers: a sum below 2^53 was exact at every step, in any order.
    return int(square) if square < _LARGEST_EXACT else squared_norm(out)


def _cut_rows(
    rows: NDArray[np.floating[Any]],
    parts: tuple[tuple[slice, Fraction], ...],
    joint: Fraction,
    grid_steps: int,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The rows as whole numbers in float64, and which of them are zeros here and need more care.

    The same operations in the same order as `grid_vector`, for many short rows at once.
    """
    values = rows.astype(np.float64, order="C")
    alone = np.zeros(len(rows), np.bool_)
    scratch = np.empty_like(values)
    for part, norm in parts:
        square = _squared_lengths(values[:, part], scratch[:, part])
        alone |= square > LARGEST_SQUARE  # measured there on another scale
        # The largest float whose value is at most norm²: the comparison is without rounding.
        inside = square <= _round_down(norm**2)
        limited = float(grid_steps * norm / joint) / np.sqrt(square)
        scale = np.where(inside, float(grid_steps / joint), limited)
        cut = values[:, part]
        np.multiply(cut, scale[:, None], out=cut)
        np.trunc(cut, out=cut)
        # Sums below 2^53 are exact; NaN, and all that is less sure, fails here.
        limit = min(math.floor((grid_steps * norm / joint) ** 2), _LARGEST_EXACT - 1)
        alone |= ~(_squared_lengths(cut, scratch[:, part]) <= limit)
    values[alone] = 0
    return values, alone


def _squared_lengths(
    values: NDArray[np.float64], scratch: NDArray[np.float64]
) -> NDArray[np.float64]:
    np.multiply(values, values, out=scratch)
    found: NDArray[np.float64] = np.add.reduce(scratch, axis=1)
    return found


def _round_down(value: Fraction) -> float:
    nearest = float(value)
    return nearest if Fraction(nearest) <= value else math.nextafter(nearest, -math.inf)


def _one_rule(clipping_norm: Fraction | float | None, clipping: Clipping | None) -> Clipping:
    if clipping is not None and clipping_norm is None:
        return clipping
    if clipping is None and clipping_norm is not None:
        return Flat(clipping_norm)
    raise PlanError(
        "an update is to be quantised by no clipping rule, or by two",
        why="one rule bounds what it may add to a sum",
        fix="pass either clipping_norm or clipping",
    )


def _check_terms(grid_steps: object, weight: object) -> None:
    if type(grid_steps) is not int or not 1 <= grid_steps <= MOST_GRID_STEPS:
        raise PlanError(
            f"a clipping norm of {grid_steps!r} grid steps is none",
            why="updates are put on a grid that all parties share",
            fix="pass the plan's grid_steps, an int in 1 … 2^40",
        )
    if type(weight) not in (int, Fraction) or not 0 <= weight <= 1:  # type: ignore[operator]
        raise PlanError(
            f"a contribution cannot be weighted by {weight!r}",
            why="a weight above 1 would undo the clipping",
            fix="pass min(n, n_max) / n_max as a Fraction",
        )
