"""Shares take arithmetic in a prime field: how near it comes to the multiplications alone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.figure import Figure, Target
from benchmarks.measure import Comparison, compare
from benchmarks.peers import Peers
from benchmarks.registry import benchmark
from fedcore.entropy import SystemEntropy
from fedcore.secagg.shamir import LIMBS, PRIME, combine, share

__all__ = ["secagg_shamir"]

_HOLDERS, _THRESHOLD, _SECRETS, _CLIENTS = 100, 51, 2, 100
_RIVAL = "uint64 multiplications"


@benchmark(
    "secagg-shamir", "What do Shamir's shares cost, dealt and combined, beside the products?"
)
def secagg_shamir(_peers: Peers) -> Iterator[Figure]:
    """One client's two secrets dealt 51 of 100, then one secret each of 100 clients rebuilt.

    The products counted: t - 1 for each limb of a share; for each share that a secret is rebuilt
    from, t of its weight and one for each limb.
    """
    points, entropy = np.arange(1, _HOLDERS + 1), SystemEntropy()
    secrets = [os.urandom(32) for _ in range(_SECRETS)]
    found = _compare(
        lambda: share(secrets, threshold=_THRESHOLD, points=points, entropy=entropy),
        _products((_HOLDERS, LIMBS * _SECRETS), _THRESHOLD - 1),
    )
    yield _figure("secagg-shamir.share", found, "ms", 1e3, bound=2.0)

    rng = np.random.default_rng(0)
    x = np.stack([rng.permutation(points)[:_THRESHOLD] for _ in range(_CLIENTS)])
    dealt = np.stack(
        [share([os.urandom(32)], threshold=_THRESHOLD, points=row, entropy=entropy) for row in x]
    )
    found = _compare(
        lambda: combine(dealt, x),
        _products((_CLIENTS, _THRESHOLD), _THRESHOLD + LIMBS),
    )
    yield _figure("secagg-shamir.combine", found, "ms a client", 1e3 / _CLIENTS, bound=0.2)


def _products(shape: tuple[int, ...], count: int) -> Callable[[], Any]:
    """Multiplies an array of `shape` by another `count` times, modulo 2^64."""
    values, factor = np.random.default_rng(0).integers(1, PRIME, (2, *shape), np.uint64)

    def multiply() -> None:
        for _ in range(count):
            np.multiply(values, factor, out=values)

    return multiply


def _compare(ours: Callable[[], Any], rival: Callable[[], Any]) -> Comparison:
    return compare(lambda: _seconds(ours), {_RIVAL: lambda: _seconds(rival)}, repeats=10, best=min)


def _seconds(work: Callable[[], Any]) -> float:
    """Seconds of the fastest of 10 runs."""
    best = np.inf
    for _ in range(10):
        begin = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begin)
    return float(best)


def _figure(name: str, found: Comparison, unit: str, scale: float, *, bound: float) -> Figure:
    target = Target("value", "<=", bound)
    return Figure(name, scale * found.value, unit, found.ratio, found.against, target)
