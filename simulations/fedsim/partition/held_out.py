"""Rows that clients keep from training, on which their models are measured: drawn, or known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import ArgumentError
from fedsim.partition.dealing import draws, grouped
from fedsim.partition.partition import Partition

__all__ = ["HeldOutRows", "hold_out", "rows_of_names"]


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutRows:
    """The rows that each client holds out; it may have none.

    Shapes: rows (N,) int64; offsets (P + 1,) int64, rising from 0 to N: client p has
    `rows[offsets[p]:offsets[p + 1]]`.

    >>> kept = HeldOutRows.by_sizes(np.array([4, 5, 7]), np.array([1, 0, 2]))
    >>> kept[0].tolist(), kept[1].tolist(), kept[2].tolist(), kept.clients.tolist()
    ([4], [], [5, 7], [0, 2])
    """

    rows: NDArray[np.int64]
    offsets: NDArray[np.int64]

    @classmethod
    def none(cls, clients: int) -> HeldOutRows:
        """Of so many clients, nobody has any."""
        return cls(np.empty(0, np.int64), np.zeros(clients + 1, np.int64))

    @classmethod
    def by_sizes(cls, rows: NDArray[np.int64], sizes: NDArray[np.int64]) -> HeldOutRows:
        """The rows of one client after those of another, so many of each."""
        return cls(rows, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64, copy=False))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, client: int) -> NDArray[np.int64]:
        return self.rows[self.offsets[client] : self.offsets[client + 1]]

    @property
    def clients(self) -> NDArray[np.int64]:
        """Who has any, rising."""
        return np.flatnonzero(np.diff(self.offsets))


def hold_out(partition: Partition, *, share: float, seed: int) -> tuple[Partition, HeldOutRows]:
    """What clients train on, and what each holds out: a share of its rows, drawn.

    The share is rounded, but so that one row stays to train on. Rows stay in their order.
    Raises: ArgumentError where nobody has rows enough to hold any out.
    """
    sizes = partition.sizes()
    held = np.minimum(np.floor(share * sizes + 0.5).astype(np.int64), sizes - 1)
    if not held.any():
        most = int(sizes.max())
        least = math.ceil(500 / most) / 1000  # the first share of so many rows that rounds to one
        larger = f"hold out a share of {least:g} or more, or " if most > 1 else ""
        raise ArgumentError(
            f"a share of {share:g} held out of clients with {most} rows at most",
            why="rounded, it is no row of any client"
            if most > 1
            else "one row stays to train on, and nobody has another",
            fix=f"{larger}let fewer clients have the rows, or hold none out",
        )
    owners = np.repeat(np.arange(len(partition)), sizes)
    order = np.lexsort((draws(seed, "held out").random(len(owners)), owners))
    rank = np.arange(len(owners)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    chosen = np.empty(len(owners), np.bool_)
    chosen[order] = rank < np.repeat(held, sizes)
    offsets = np.concatenate([[0], np.cumsum(sizes - held)])
    trained = Partition(partition.rows[~chosen], offsets, partition.names, partition.columns)
    return trained, HeldOutRows.by_sizes(partition.rows[chosen], held)


def rows_of_names(ids: NDArray[Any], names: Sequence[str]) -> HeldOutRows:
    """The rows whose ids name clients, in their order; other rows are nobody's.

    Shapes: ids (N,), as `natural` takes them and names clients.
    """
    values, inverse = np.unique(ids, return_inverse=True)
    place_of = {name: place for place, name in enumerate(names)}
    places = np.array([place_of.get(str(value), -1) for value in values], np.int64)
    owners = places[inverse]
    known = np.flatnonzero(owners >= 0)
    rows = known[grouped(owners[known], len(names))]
    return HeldOutRows.by_sizes(rows, np.bincount(owners[known], minlength=len(names)))
