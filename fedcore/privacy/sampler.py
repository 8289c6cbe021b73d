"""Noise is drawn from its law exactly, because a float's rounding would mark what it was added to.

Guaranteed, if the keystream of AES-256 cannot be told from uniform bits: each draw is independent,
and its law lies within 2^-178 in total variation of the one named. The distance is that of tables,
which are cut off at 17.9 standard deviations and rounded to 2^-192; floats only ever decide what
they decide beyond doubt. Not guaranteed: constant time. How long a draw takes depends on what is
drawn, so draw before anybody waits for it, and let nobody time it.

Up to a standard deviation of 128 a table holds the integers themselves, beyond it blocks of 2^b.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from fedcore.errors import ArgumentError, DtypeError, ShapeError
from fedcore.privacy.blocks import MARGIN_BITS, BlockTable, block_table
from fedcore.privacy.csprng import Stream
from fedcore.privacy.masses import (
    Blocks,
    discrete_blocks,
    discrete_cells,
    rounded_blocks,
    rounded_cells,
)
from fedcore.privacy.tables import GUIDE_BITS, CellTable, cell_table

__all__ = [
    "add_discrete_gaussian",
    "add_rounded_gaussian",
    "discrete_gaussian",
    "rounded_gaussian",
]

_LEAST, _MOST = Fraction(1, 4), 10**18


def rounded_gaussian(sigma2: Fraction | int, size: int, *, stream: Stream) -> npt.NDArray[np.int64]:
    """Draws of a normal variable with variance `sigma2`, rounded: shape (size,), int64.

    P(k) = Phi((k + 1/2) / s) - Phi((k - 1/2) / s) with s = sqrt(sigma2), from 0.5 to 1e9. Added to
    integers it is the Gaussian mechanism, rounded. Raises: ArgumentError.

    >>> noise = rounded_gaussian(Fraction(9, 4), 1000, stream=Stream())
    >>> noise.shape, noise.dtype, bool((abs(noise) < 27).all())
    ((1000,), dtype('int64'), True)
    """
    drawn = _zeros(size)
    add_rounded_gaussian(drawn, sigma2, stream=stream)
    return drawn


def discrete_gaussian(
    sigma2: Fraction | int, size: int, *, stream: Stream
) -> npt.NDArray[np.int64]:
    """Draws of the discrete Gaussian law: shape (size,), int64.

    P(x) is in proportion to exp(-x^2 / 2 sigma2); sqrt(sigma2) from 0.5 to 1e9. Source: Canonne,
    Kamath, Steinke, arXiv:2004.00010, definition 1. Raises: ArgumentError.
    """
    drawn = _zeros(size)
    add_discrete_gaussian(drawn, sigma2, stream=stream)
    return drawn


def add_rounded_gaussian(
    x: npt.NDArray[np.int64], sigma2: Fraction | int, *, stream: Stream
) -> None:
    """Adds `rounded_gaussian` to `x`, int64 of shape (n,), in place and without a second vector.

    No sum is checked: keep |x| below 2^63 - 19e9. Raises: ArgumentError, DtypeError, ShapeError.
    """
    _require_vector(x)
    _rounded(_variance(sigma2)).add(x, stream=stream)


def add_discrete_gaussian(
    x: npt.NDArray[np.int64], sigma2: Fraction | int, *, stream: Stream
) -> None:
    """Adds `discrete_gaussian` to `x`, int64 of shape (n,), in place and without a second vector.

    No sum is checked: keep |x| below 2^63 - 19e9. Raises: ArgumentError, DtypeError, ShapeError.
    """
    _require_vector(x)
    _discrete(_variance(sigma2)).add(x, stream=stream)


_Law: TypeAlias = CellTable | BlockTable


@dataclass(frozen=True)
class _Tuning:
    """How often the slow paths are met; a test makes that often.

    `ratio`: blocks are chosen so that s is 1 to 2 times `ratio` blocks. At 64 as many draws are
    unsure for what whole cells leave over as for what may be rejected, 1.6 % together.
    """

    ratio: int = 64
    guide_bits: int = GUIDE_BITS
    margin_bits: int = MARGIN_BITS


_DEFAULT = _Tuning()


# A third of a megabyte to 2 MB a table, 57 ms at most: only tests use more than a few variances.
@lru_cache(maxsize=8)
def _rounded(sigma2: Fraction, tuning: _Tuning = _DEFAULT) -> _Law:
    return _law(sigma2, tuning, rounded_cells, rounded_blocks)


@lru_cache(maxsize=8)
def _discrete(sigma2: Fraction, tuning: _Tuning = _DEFAULT) -> _Law:
    return _law(sigma2, tuning, discrete_cells, discrete_blocks)


def _law(
    sigma2: Fraction,
    tuning: _Tuning,
    cells: Callable[[Fraction], tuple[int, tuple[int, ...]]],
    blocks: Callable[[Fraction, int], Blocks],
) -> _Law:
    shift = (int(sigma2 / tuning.ratio**2).bit_length() - 1) // 2
    if shift > 0:
        return block_table(
            blocks(sigma2, shift), guide_bits=tuning.guide_bits, margin_bits=tuning.margin_bits
        )
    first, boundaries = cells(sigma2)
    return cell_table(boundaries, first=first, guide_bits=tuning.guide_bits)


def _variance(sigma2: Fraction | int) -> Fraction:
    if isinstance(sigma2, bool) or not isinstance(sigma2, Fraction | int):
        raise ArgumentError(
            f"a variance is a {type(sigma2).__name__}",
            why="a float would be rounded, perhaps towards less noise",
            fix="pass a Fraction or an int",
        )
    if not _LEAST <= sigma2 <= _MOST:
        raise ArgumentError(
            f"a variance of {float(max(-(10**99), min(sigma2, 10**99))):.4g} is out of range",
            why="the standard deviation lies between 0.5 and 1e9 steps of the grid",
            fix="choose another grid, or another noise multiplier",
        )
    return Fraction(sigma2)


def _zeros(size: int) -> npt.NDArray[np.int64]:
    if not isinstance(size, int) or size < 0:
        raise ArgumentError(
            f"{size!r} draws were asked for",
            why="how many is a number of 0 or more",
            fix="pass the number of coordinates",
        )
    return np.zeros(size, np.int64)


def _require_vector(x: npt.NDArray[np.int64]) -> None:
    if x.dtype != np.int64:
        raise DtypeError(
            f"noise is to be added to an array of {x.dtype}",
            why="sums and noise are exact in int64 only",
            fix="pass an array of int64",
        )
    if x.ndim != 1:
        raise ShapeError(
            f"noise is to be added to an array of shape {x.shape}",
            why="noise is drawn for a vector of coordinates",
            fix="pass array.reshape(-1)",
        )
    if not x.flags.writeable:
        raise ArgumentError(
            "noise is to be added to a read-only array",
            why="it is added in place",
            fix="pass a copy",
        )
