"""Clients by feature: each sees its rows in a way of its own, or sees columns of its own.

A shift changes the features when a client wakes, from its number and the seed alone, so that
nothing is kept of it. Shifts fulfil `fedsim.population.Shift`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import ArgumentError, DatasetError, DtypeError, ShapeError
from fedcore.tensor.random import Key
from fedsim.partition.dealing import draws, require_whole
from fedsim.partition.partition import Partition

__all__ = ["LARGEST_SCALE", "GaussianNoise", "Rotation", "SensorGain", "vertical"]

LARGEST_SCALE = 10.0
"""Of a gain, the deviation of its logarithm: e^10 is 22,026."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianNoise:
    """Noise that rises with the client: none for the first of `clients`, `sigma` for the last.

    The noise of client j is normal with standard deviation σ · j / (P - 1), the same each time the
    client wakes. Source: Li et al. 2022, NIID-Bench, "noise-based feature imbalance", as in its
    code; the paper has σ · j / P, and calls it the variance.
    Raises: ArgumentError for a sigma below 0 or a client that is not one of them.
    """

    sigma: float
    clients: int
    seed: int

    def __post_init__(self) -> None:
        _require_finite("sigma", self.sigma, least=0.0)
        require_whole("clients", self.clients, least=1)

    def __call__(self, x: NDArray[Any], *, client: int) -> NDArray[Any]:
        _require_numbers(x)
        if not 0 <= client < self.clients:
            raise ArgumentError(
                f"client {client} of {self.clients}",
                why="its noise depends on how many clients there are",
                fix="make the shift for as many clients as the population has",
            )
        deviation = self.sigma * client / max(self.clients - 1, 1)
        noise = _draws(self.seed, "noise", client).standard_normal(x.shape)
        return _like(x, x + deviation * noise)


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorGain:
    """Sensors that read too high or too low: x becomes g·x + o, with g and o of the client.

    log g is normal with deviation `scale`, o with deviation `offset` in the units of x.
    Raises: ArgumentError for a deviation below 0.
    """

    scale: float = 0.1
    offset: float = 0.0
    seed: int

    def __post_init__(self) -> None:
        _require_finite("scale", self.scale, least=0.0, most=LARGEST_SCALE)
        _require_finite("offset", self.offset, least=0.0)

    def __call__(self, x: NDArray[Any], *, client: int) -> NDArray[Any]:
        _require_numbers(x)
        gain, offset = _draws(self.seed, "gain", client).standard_normal(2)
        return _like(x, math.exp(self.scale * gain) * x + self.offset * offset)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """Square images turned counter-clockwise: client j by `degrees[j % len(degrees)]`.

    Multiples of 90° move pixels and are exact. Other angles turn around the centre of the image
    and interpolate between the four nearest pixels; what comes from outside is 0.
    Shapes: x (n, S, S) or (n, S, S, C), or rows of S² pixels (n, S²).
    Raises: ArgumentError for no angle or one that is not finite; ShapeError for other images.
    """

    degrees: tuple[float, ...] = (0.0, 90.0, 180.0, 270.0)

    def __post_init__(self) -> None:
        for angle in self.degrees:
            _require_finite("degrees", angle)
        if not self.degrees:
            raise ArgumentError(
                "a rotation by no angle", why="each client has one", fix="pass (0.0,) for none"
            )

    def __call__(self, x: NDArray[Any], *, client: int) -> NDArray[Any]:
        _require_numbers(x)
        images = _square(x)
        turns, rest = divmod(self.degrees[client % len(self.degrees)] % 360.0, 90.0)
        turned = np.rot90(images, k=int(turns), axes=(1, 2))
        if rest:
            turned = _like(x, _rotated(turned, rest))
        return np.ascontiguousarray(turned).reshape(x.shape)


def vertical(features: NDArray[Any], parties: int, *, seed: int) -> Partition:
    """Each party has all rows and columns of its own, which are dealt at random.

    The numbers of columns differ by one at most; each column, of the features of a row laid flat,
    is in exactly one party. `Partition.columns` has them in rising order; `rows` repeats all rows
    for each party.
    Shapes: features (N, ...), of F numbers a row.
    Raises: DatasetError for no rows; ArgumentError for more parties than columns.

    >>> parts = vertical(np.zeros((3, 5)), 2, seed=1)
    >>> parts.sizes().tolist(), sorted(np.concatenate(parts.columns).tolist())
    ([3, 3], [0, 1, 2, 3, 4])
    """
    rows, width = len(features), math.prod(features.shape[1:])
    require_whole("parties", parties, least=1)
    if not rows:
        raise DatasetError(
            "a partition of no rows",
            why="each party has at least one row",
            fix="choose a source or a selection that has rows",
        )
    if parties > width:
        raise ArgumentError(
            f"{parties} parties for {width} columns",
            why="each party has a column of its own",
            fix=f"take at most {width} parties" if width else "pass features with columns",
        )
    order = draws(seed, "vertical").permutation(width)
    columns = tuple(np.sort(part) for part in np.array_split(order, parties))
    names = tuple(f"party-{party:0{len(str(parties - 1))}d}" for party in range(parties))
    whole = np.tile(np.arange(rows), parties)
    return Partition(whole, np.arange(parties + 1) * rows, names, columns)


def _draws(seed: int, shift: str, client: int) -> np.random.Generator:
    return Key(seed, "partition", client=client).fold(shift).generator()


def _require_numbers(x: NDArray[Any]) -> None:
    if x.dtype.kind not in "iuf":
        raise DtypeError(
            f"features of {x.dtype} cannot be shifted",
            why="a shift calculates with numbers",
            fix="encode them as numbers first",
        )


def _like(x: NDArray[Any], shifted: NDArray[Any]) -> NDArray[Any]:
    """The features in their dtype: integers rounded, and kept within what the dtype holds."""
    if x.dtype.kind == "f":
        return shifted.astype(x.dtype, copy=False)
    held = np.iinfo(x.dtype)
    whole: NDArray[Any] = np.clip(np.rint(shifted), held.min, held.max).astype(x.dtype)
    return whole


def _square(x: NDArray[Any]) -> NDArray[Any]:
    """The rows as images (n, S, S) or (n, S, S, C)."""
    if x.ndim == 2 and (side := math.isqrt(x.shape[1])) ** 2 == x.shape[1]:
        return x.reshape(-1, side, side)
    if x.ndim not in (3, 4) or x.shape[1] != x.shape[2]:
        raise ShapeError(
            f"features of shape {x.shape} are no square images",
            why="an image that is turned keeps its shape",
            fix="pass (n, S, S), (n, S, S, C) or (n, S·S)",
        )
    return x


def _rotated(images: NDArray[Any], degrees: float) -> NDArray[np.float64]:
    """Images (n, S, S, ...) turned counter-clockwise, by interpolation."""
    side = images.shape[1]
    centre, angle = (side - 1) / 2, math.radians(degrees)
    row, column = np.indices((side, side)) - centre
    # Where each pixel of the result comes from: rows run downwards, so the sine is turned as well.
    from_row = centre + math.cos(angle) * row + math.sin(angle) * column
    from_column = centre - math.sin(angle) * row + math.cos(angle) * column
    top, left = np.floor(from_row).astype(int), np.floor(from_column).astype(int)
    found = np.zeros(images.shape)
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        near = (1 - np.abs(from_row - top - i)) * (1 - np.abs(from_column - left - j))
        inside = (top + i >= 0) & (top + i < side) & (left + j >= 0) & (left + j < side)
        near = np.where(inside, near, 0.0).reshape(side, side, *[1] * (images.ndim - 3))
        found += near * images[:, (top + i).clip(0, side - 1), (left + j).clip(0, side - 1)]
    return found


def _require_finite(
    name: str, value: float, *, least: float = -math.inf, most: float = math.inf
) -> None:
    if not (math.isfinite(value) and least <= value <= most):
        bounds = f" from {least:g} to {most:g}" if least > -math.inf else ""
        raise ArgumentError(
            f"{name} = {value}",
            why="clients' features are finite, and a spread is not negative",
            fix=f"pass a finite number{bounds}",
        )
