"""Exact noise should cost less than the inexact: a draw beside one of numpy's normal variables."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np

from benchmarks.figure import Figure, Target
from benchmarks.measure import Run, compare
from benchmarks.peers import Peers
from benchmarks.registry import benchmark
from fedcore.privacy.csprng import Stream
from fedcore.privacy.sampler import discrete_gaussian, rounded_gaussian

__all__ = ["dp_sampler"]

_SIGMAS = (1, 8, 64, 100, 2**10, 2**16, 2**20, 2**24)
_DRAWS = 2_000_000
_REPEATS = 20


@benchmark("dp-sampler", "What does a draw of exact noise cost, beside numpy's normal variable?")
def dp_sampler(_peers: Peers) -> Iterator[Figure]:
    """One thread, two million draws into a new vector each time; tables are there already."""
    stream, generator = Stream(), np.random.default_rng()
    for kind, draw in (("rounded", rounded_gaussian), ("discrete", discrete_gaussian)):
        for sigma in _SIGMAS:
            sigma2 = Fraction(sigma**2)
            found = compare(
                _timed(partial(draw, sigma2, _DRAWS, stream=stream)),
                {"standard_normal": _timed(partial(generator.standard_normal, _DRAWS))},
                repeats=_REPEATS,
                best=min,
            )
            yield Figure(
                f"dp-sampler.{kind}-{sigma}",
                found.value,
                "ns/draw",
                found.ratio,
                found.against,
                Target("value", "<=", 6.0 if sigma <= 100 else 13.0),
            )


def _timed(draw: Callable[[], Any]) -> Run:
    """A run that tells the nanoseconds of CPU time for each of the draws."""

    def run() -> float:
        begin = time.thread_time()
        draw()
        return 1e9 * (time.thread_time() - begin) / _DRAWS

    return run
