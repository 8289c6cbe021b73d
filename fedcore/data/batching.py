"""Batches of one constant shape: the ragged end is filled with rows of weight zero.

A compiled training step wants every batch to have the same shape, and a client's loss must still
be exact. So the last batch repeats rows of the epoch's beginning and gives them weight 0: every
row of the data has weight 1 exactly once an epoch, and `sum(weight * loss)` is the epoch's loss.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedcore.errors import ArgumentError, DatasetError
from fedcore.tensor.random import Key

__all__ = ["Batch", "BatchPlan", "batch_plan", "steps_per_epoch"]


class Batch(NamedTuple):
    """Rows to train on and what each counts.

    Shapes: x (B, ...), y (B, ...), weight (B,) float32, 0 on padding and 1 elsewhere; or, from
    `stack_clients`, the same with leading axes (clients, steps).
    """

    x: NDArray[Any]
    y: NDArray[Any]
    weight: NDArray[np.float32]


class BatchPlan(NamedTuple):
    """Which row goes where in an epoch: rows (steps, B) int64, weight (steps, B) float32."""

    rows: NDArray[np.int64]
    weight: NDArray[np.float32]


def steps_per_epoch(examples: int, size: int, *, drop_last: bool = False) -> int:
    """The number of batches of `size` that an epoch over `examples` rows takes.

    Raises: ArgumentError if `size` is less than 1; DatasetError if `drop_last` leaves no batch.

    >>> steps_per_epoch(10, 4), steps_per_epoch(10, 4, drop_last=True)
    (3, 2)
    """
    if not isinstance(size, int | np.integer) or isinstance(size, bool) or size < 1:
        raise ArgumentError(
            f"batches: size is {size!r:.80}",
            why="a batch holds at least one row",
            fix="pass an integer of at least 1",
        )
    if drop_last and examples < size:
        raise DatasetError(
            f"batches: no full batch of {size} rows in {examples}",
            why="drop_last=True would drop every row, and training would do nothing",
            fix="pass a smaller size, or drop_last=False",
        )
    return examples // int(size) if drop_last else -(-examples // int(size))


def batch_plan(
    examples: int,
    size: int,
    *,
    key: Key | int | None = None,
    epoch: int = 0,
    shuffle: bool = True,
    drop_last: bool = False,
) -> BatchPlan:
    """The order of one epoch, from `(key, epoch)` alone; an integer key is a seed.

    Raises: ArgumentError if `shuffle` has no key; what `steps_per_epoch` raises.
    """
    steps = steps_per_epoch(examples, size, drop_last=drop_last)
    order = np.arange(examples, dtype=np.int64)
    if shuffle:
        order = _shuffle_key(key).fold(epoch).generator().permutation(order)
    frame = _kept_frame if steps * size <= _MOST_KEPT else _frame
    places, weight = frame(examples, int(size), steps)
    return BatchPlan(order[places], weight.copy())


def _frame(examples: int, size: int, steps: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Where in an order each row of each batch comes from, and what it counts."""
    places = np.resize(np.arange(examples, dtype=np.int64), (steps, size))
    weight = (np.arange(steps * size) < examples).astype(np.float32).reshape(steps, size)
    return places, weight


# A simulation asks for plans of thousands of clients, most of a few sizes: 30 µs of 56 each.
_MOST_KEPT = 4096
_kept_frame = lru_cache(maxsize=256)(_frame)


def _shuffle_key(key: Key | int | None) -> Key:
    if key is None:
        raise ArgumentError(
            "batches: shuffle=True needs a key",
            why="an order drawn from nothing could not be repeated",
            fix="pass key=seed or key=Key(seed, purpose, round=..., client=...), or shuffle=False",
        )
    return key if isinstance(key, Key) else Key(key, "shuffle")
