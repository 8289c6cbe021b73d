"""Clients by size: rows are dealt at random, and some clients get many more than others.

Sizes follow weights that rise with the client's number, or are drawn; they are whole, have the sum
N exactly, and none is below the minimum (see `dealing.sizes_by_weight`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import ArgumentError
from fedsim.partition.dealing import by_owner, draws, require_rows, row_count, sizes_by_weight
from fedsim.partition.partition import Partition

__all__ = [
    "LARGEST_RATIO",
    "LARGEST_SIGMA",
    "exponential",
    "linear",
    "log_normal",
    "square",
]

LARGEST_RATIO, LARGEST_SIGMA = 1e12, 100.0


def linear(
    labels_or_count: NDArray[Any] | int, clients: int, *, minimum: int = 1, seed: int
) -> Partition:
    """Sizes in proportion to 1, 2, …, P.

    Raises: ArgumentError if clients · minimum is above the number of rows; DatasetError for none.

    >>> linear(60, 3, seed=1).sizes().tolist()
    [10, 20, 30]
    """
    require_rows(rows := row_count(labels_or_count), clients, minimum)
    weights = np.arange(1.0, clients + 1)
    return _dealt(weights, rows, minimum=minimum, rng=draws(seed, "linear"))


def square(
    labels_or_count: NDArray[Any] | int, clients: int, *, minimum: int = 1, seed: int
) -> Partition:
    """Sizes in proportion to 1, 4, …, P². Raises: as `linear`."""
    require_rows(rows := row_count(labels_or_count), clients, minimum)
    weights = np.arange(1.0, clients + 1) ** 2
    return _dealt(weights, rows, minimum=minimum, rng=draws(seed, "square"))


def exponential(
    labels_or_count: NDArray[Any] | int,
    clients: int,
    *,
    ratio: float = 100.0,
    minimum: int = 1,
    seed: int,
) -> Partition:
    """Sizes that rise by one factor from client to client, the last being `ratio` times the first.

    Raises: ArgumentError for a ratio outside [1, 1e12], or if clients · minimum is above the number
    of rows; DatasetError for no rows.
    """
    require_rows(rows := row_count(labels_or_count), clients, minimum)
    if not 1 <= ratio <= LARGEST_RATIO:
        raise ArgumentError(
            f"ratio = {ratio}",
            why="it is the size of the last client over that of the first",
            fix=f"pass a number from 1 to {LARGEST_RATIO:g}",
        )
    weights = ratio ** np.linspace(0.0, 1.0, clients)
    return _dealt(weights, rows, minimum=minimum, rng=draws(seed, "exponential"))


def log_normal(
    labels_or_count: NDArray[Any] | int,
    clients: int,
    *,
    sigma: float = 1.0,
    minimum: int = 1,
    seed: int,
) -> Partition:
    """Sizes in proportion to draws of which the logarithm is normal, with deviation `sigma`.

    Raises: ArgumentError for a sigma outside [0, 100], or if clients · minimum is above the number
    of rows; DatasetError for no rows.
    """
    require_rows(rows := row_count(labels_or_count), clients, minimum)
    if not 0 <= sigma <= LARGEST_SIGMA:
        raise ArgumentError(
            f"sigma = {sigma}",
            why="it is the standard deviation of the logarithm of a client's size",
            fix=f"pass a number from 0 to {LARGEST_SIGMA:g}; 1 is strong, and 0 makes sizes equal",
        )
    rng = draws(seed, "log_normal")
    logarithms = sigma * rng.standard_normal(clients)
    weights = np.exp(logarithms - logarithms.max())
    return _dealt(weights, rows, minimum=minimum, rng=rng)


def _dealt(
    weights: NDArray[np.float64], rows: int, *, minimum: int, rng: np.random.Generator
) -> Partition:
    sizes = sizes_by_weight(weights, rows, minimum=minimum)
    return by_owner(rng.permutation(np.repeat(np.arange(len(sizes)), sizes)), len(sizes))
