"""A private update should cost less than drawing as many normal variables, which are no use."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.figure import Figure, Target
from benchmarks.measure import Run, compare
from benchmarks.peers import Peers
from benchmarks.registry import benchmark
from fedcore.privacy.csprng import Stream
from fedcore.privacy.quantise import decode, quantise, quantise_rows
from fedcore.privacy.sampler import rounded_gaussian

__all__ = ["dp_update"]

_COORDINATES = 1_000_000
_GRID_STEPS = 2**24
_VARIANCE = Fraction(11, 10) ** 2 * _GRID_STEPS**2
_ROWS, _ROW_SIZE = 1024, 1000
_REPEATS = 30


@benchmark("dp-update", "What does it cost to make an update of a million coordinates private?")
def dp_update(_peers: Peers) -> Iterator[Figure]:
    """One thread, float32: clipped, put on the grid and noised as a server does with a sum."""
    generator, stream = np.random.default_rng(0), Stream()
    update = generator.standard_normal(_COORDINATES, np.float32)
    rival = {"standard_normal": _timed(partial(generator.standard_normal, _COORDINATES))}
    # Draws its tables, which a process does once a variance.
    _release(update, stream)
    whole = compare(_timed(partial(_release, update, stream)), rival, repeats=_REPEATS, best=min)
    yield _figure("dp-update", whole.value, whole.ratio, whole.against, 25.0)
    grid = compare(_timed(partial(_quantised, update)), rival, repeats=_REPEATS, best=min)
    yield _figure("dp-update.quantise", grid.value, grid.ratio, grid.against, 6.0)
    gradients = generator.standard_normal((_ROWS, _ROW_SIZE), np.float32)
    rows = compare(
        _timed(partial(quantise_rows, gradients, clipping_norm=1, grid_steps=_GRID_STEPS)),
        {"row by row": _timed(partial(_row_by_row, gradients))},
        repeats=_REPEATS,
        best=min,
    )
    yield Figure(
        "dp-update.rows",
        rows.value,
        "ms",
        rows.ratio,
        rows.against,
        Target("ratio", "<=", 0.5),
    )


def _figure(
    name: str, value: float, ratio: float | None, against: str | None, most: float
) -> Figure:
    return Figure(name, value, "ms", ratio, against, Target("value", "<=", most))


def _quantised(update: NDArray[np.float32]) -> NDArray[np.int64]:
    return quantise(update, clipping_norm=1, grid_steps=_GRID_STEPS).vector


def _release(update: NDArray[np.float32], stream: Stream) -> NDArray[np.float32]:
    noisy = rounded_gaussian(_VARIANCE, _COORDINATES, stream=stream)
    noisy += _quantised(update)
    return decode(noisy, clipping_norm=1, grid_steps=_GRID_STEPS, denominator=100)


def _row_by_row(gradients: NDArray[np.float32]) -> NDArray[np.int64]:
    total = np.zeros(gradients.shape[1], np.int64)
    for row in gradients:
        total += _quantised(row)
    return total


def _timed(work: Callable[[], Any]) -> Run:
    """A run that tells the milliseconds of CPU time that the work took its thread."""

    def run() -> float:
        begin = time.thread_time()
        work()
        return 1e3 * (time.thread_time() - begin)

    return run
