"""Garments under differential privacy: every image protected."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.dp_tasks import RecordTerms, record_figures
from benchmarks.drawings import shapes
from benchmarks.figure import Figure
from benchmarks.peers import Peers
from benchmarks.registry import benchmark

__all__ = ["EPSILON", "FASHION_MNIST", "dp_fashion"]

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package `dataset-fashion-mnist` puts it."""

EPSILON = RecordTerms(epsilon=2.7, batch=8192, steps=293, rate=190.0, average=0.98)


@benchmark("dp-fashion", "How well is Fashion-MNIST told apart if every image is protected?")
def dp_fashion(_peers: Peers) -> Iterator[Figure]:
    """At (2.7, 1e-5), record level."""
    goals = (("dp-fashion", EPSILON, 89.0),)
    yield from record_figures("dp-fashion", FASHION_MNIST, shapes, goals)
