"""Noise that repeats was not drawn but replayed: a stretch found twice betrays its seed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["repeated_windows"]

Integers = npt.NDArray[np.int64]

_CHUNK = 2**14
"""Pairs compared at a time: noise that is constant makes every window a pair."""


def repeated_windows(rounds: Integers, window: int) -> int:
    """How many windows of so many samples, at any offset of any round, equal an earlier one.

    `rounds`: shape (rounds, n). Windows are sorted by a multilinear hash modulo 2^64, and equal
    hashes are compared in full: nothing is counted that does not repeat. A million samples take
    0.2 s.

    >>> repeated_windows(np.array([[1, 2, 3, 4], [9, 2, 3, 7]]), 2)
    1
    """
    starts = rounds.shape[1] - window + 1
    if starts < 1:
        return 0
    # Fixed multipliers: the samples are nobody's attempt to provoke collisions, which would only
    # cost time.
    multipliers = np.random.default_rng(0).integers(
        2**64, size=window, dtype=np.uint64, endpoint=False
    )
    words = rounds.astype(np.uint64)
    hashes = np.zeros((len(rounds), starts), np.uint64)
    for place, multiplier in enumerate(multipliers | np.uint64(1)):
        hashes += words[:, place : place + starts] * multiplier
    flat = hashes.reshape(-1)
    order = np.argsort(flat, kind="stable")
    equal = np.flatnonzero(flat[order[1:]] == flat[order[:-1]])
    windows = np.lib.stride_tricks.sliding_window_view(rounds, window, axis=1)
    count = 0
    for start in range(0, len(equal), _CHUNK):
        places = equal[start : start + _CHUNK]
        first, second = (windows[np.divmod(order[index], starts)] for index in (places, places + 1))
        count += int((first == second).all(axis=1).sum())
    return count
