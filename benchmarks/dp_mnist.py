"""Digits under differential privacy: every image protected, at two budgets."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.dp_tasks import MNIST, RecordTerms, record_figures
from benchmarks.drawings import strokes
from benchmarks.figure import Figure
from benchmarks.peers import Peers
from benchmarks.registry import benchmark

__all__ = ["EPSILON_1", "EPSILON_3", "dp_mnist"]

EPSILON_3 = RecordTerms(epsilon=3.0, batch=4096, steps=586, rate=63.0, average=0.98)
EPSILON_1 = RecordTerms(epsilon=1.0, batch=8192, steps=150, rate=90.0)


@benchmark("dp-mnist", "How well is MNIST read if every image of the training set is protected?")
def dp_mnist(_peers: Peers) -> Iterator[Figure]:
    """At (3, 1e-5) and (1, 1e-5), record level."""
    goals = (("dp-mnist", EPSILON_3, 98.3), ("dp-mnist.epsilon-1", EPSILON_1, 97.7))
    yield from record_figures("dp-mnist", MNIST, strokes, goals)
