"""Replaying a recorded program: how much faster than the function, and what it allocates."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import fedcore as fc
from benchmarks.figure import Figure, Target
from benchmarks.measure import compare
from benchmarks.models import initial, loss_of
from benchmarks.peers import Peers
from benchmarks.registry import benchmark
from benchmarks.tasks import BATCH, CLASSES, LEARNING_RATE, SIDE, TASKS, Dense, Task
from fedcore.tensor import blas

__all__ = ["compile_a", "compile_b", "compile_c", "compile_small"]

_QUESTION = "How much faster than eager is a replayed SGD step of {}?"
_SMALL = Task("small", "MLP 64-32-10", (Dense(64, 32), Dense(32, 10)), 1)


def _measure(
    name: str, task: Task, x: np.ndarray[Any, Any], classes: int, *, target: float
) -> Iterator[Figure]:
    blas.prepare()
    start, rebuild = initial(task)
    loss = loss_of(task, rebuild)
    labels = np.arange(len(x)) % classes

    def step(theta: fc.Tensor, x: fc.Tensor, y: fc.Tensor, rate: float) -> fc.Tensor:
        return fc.add_scaled(theta, fc.factored_grad(loss)(theta, x, y), -rate)

    replayed = fc.compile(step, donate=(0,))
    theta = replayed(fc.tensor(start.numpy().copy()), x, labels, LEARNING_RATE)
    found = compare(
        lambda: _time(replayed, theta, x, labels),
        {"eager": lambda: _time(step, start, x, labels)},
        repeats=10,
        best=min,
    )
    assert found.rival_value is not None
    faster = found.rival_value / found.value
    yield Figure(name, 1e6 * found.value, "us", faster, "eager", Target("ratio", ">=", target))
    tracemalloc.start()
    replayed(theta, x, labels, LEARNING_RATE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    limit = Target("value", "<=", 1.0)
    yield Figure(f"{name}.allocated", peak / 2**20, "MiB a replay", target=limit)


def _time(step: Callable[..., Any], theta: Any, x: Any, labels: Any) -> float:
    """Seconds of the fastest of 20 steps."""
    best = np.inf
    for _ in range(20):
        begin = time.perf_counter()
        step(theta, x, labels, LEARNING_RATE)
        best = min(best, time.perf_counter() - begin)
    return float(best)


def _images() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).standard_normal((BATCH, SIDE, SIDE, 1), dtype=np.float32)


@benchmark("compile-small", _QUESTION.format("one 64-32-10 client"))
def compile_small(_peers: Peers) -> Iterator[Figure]:
    """Where Python is most of the time: batch 10."""
    x = np.random.default_rng(0).standard_normal((10, 64), dtype=np.float32)
    yield from _measure("compile-small", _SMALL, x, 10, target=3.0)


@benchmark("compile-A", _QUESTION.format("the MLP 784-200-62"))
def compile_a(_peers: Peers) -> Iterator[Figure]:
    """Batch 20."""
    yield from _measure("compile-A", TASKS["A"], _images(), CLASSES, target=1.0)


@benchmark("compile-B", _QUESTION.format("the CNN of the FedAvg paper"))
def compile_b(_peers: Peers) -> Iterator[Figure]:
    """Batch 20, 1.7 million parameters."""
    yield from _measure("compile-B", TASKS["B"], _images(), CLASSES, target=1.0)


@benchmark("compile-C", _QUESTION.format("the small CNN"))
def compile_c(_peers: Peers) -> Iterator[Figure]:
    """Batch 20."""
    yield from _measure("compile-C", TASKS["C"], _images(), CLASSES, target=1.0)
