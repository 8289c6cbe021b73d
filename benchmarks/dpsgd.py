"""DP-SGD on one machine: clipped per-example gradients should cost little more than plain ones."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

import fedcore as fc
from benchmarks.figure import Figure, Target
from benchmarks.measure import compare
from benchmarks.models import Loss, initial, loss_of
from benchmarks.peers import Peers
from benchmarks.registry import benchmark
from benchmarks.tasks import DP_BATCH, LEARNING_RATE, TASKS, dp_commands, population
from fedcore.tensor import blas

__all__ = ["dpsgd_a", "dpsgd_c"]

CLIP_NORM, NOISE_MULTIPLIER = 1.0, 1.0
_REPEATS = 3
_AHEAD = 4  # steps whose noise is drawn at once: the two threads meet less often
_WINDOW_S = 0.8
_QUESTION = "What does DP-SGD cost on {}, beside the plain gradient and beside the peers?"

Gradient = Callable[[Any, Any, Any], Any]


def _of_one(loss: Loss) -> Loss:
    """The loss of one example, of that of a batch."""
    return lambda theta, x, label: loss(theta, x.reshape(1, *x.shape), label.reshape(1))


def _gradients(name: str) -> tuple[fc.Tensor, Gradient, Gradient]:
    """A model, its compiled plain gradient, and its compiled sum of clipped gradients."""
    task = TASKS[name]
    theta, rebuild = initial(task)
    loss = loss_of(task, rebuild)
    clipped = fc.clipped_sum(_of_one(loss), clip_norm=CLIP_NORM)
    return theta, fc.compile(fc.grad(loss)), fc.compile(lambda *args: clipped(*args)[0])


def normals(
    generator: np.random.Generator, out: np.ndarray[Any, np.dtype[np.float32]], deviation: float
) -> None:
    """Fill `out` (D,) by Box and Muller's formula on whole arrays: 2.4 ns a number, ziggurat 6.4.

    Simulated noise, as the peers' is; production noise is integer, from a secure generator.
    """
    half = (out.size + 1) // 2
    radius = generator.random(half, dtype=np.float32)
    angle = generator.random(half, dtype=np.float32)
    np.subtract(np.float32(1), radius, out=radius)
    np.log(radius, out=radius)
    radius *= np.float32(-2 * deviation**2)
    np.sqrt(radius, out=radius)
    angle *= np.float32(2 * np.pi)
    np.multiply(radius, np.cos(angle), out=out[:half])
    np.sin(angle, out=angle)
    np.multiply(radius[: out.size - half], angle[: out.size - half], out=out[half:])


class _Training:
    """Full steps: clipped sum, noise drawn by a second thread meanwhile, update."""

    def __init__(self, name: str) -> None:
        task = TASKS[name]
        start, rebuild = initial(task)
        clipped = fc.factored_clipped_sum(_of_one(loss_of(task, rebuild)), clip_norm=CLIP_NORM)

        def step(theta: fc.Tensor, noise: fc.Tensor, x: fc.Tensor, y: fc.Tensor) -> fc.Tensor:
            total, _, _ = clipped(theta, x, y)
            return fc.add_scaled(theta + noise, total, -LEARNING_RATE / DP_BATCH)

        self._step = fc.compile(step, donate=(0,))
        self._theta = fc.tensor(start.numpy().copy())
        data = population()
        self._x, self._y = data.x[:16], data.y[:16]
        self._noise = np.empty((2, _AHEAD, self._theta.size), np.float32)
        self._generator = np.random.Generator(np.random.SFC64(0))
        self._thread = ThreadPoolExecutor(1)
        self._pending = self._draw(0)
        self._count = 0

    def _draw(self, slot: int) -> Future[None]:
        deviation = NOISE_MULTIPLIER * CLIP_NORM * LEARNING_RATE / DP_BATCH
        out = self._noise[slot].reshape(-1)
        return self._thread.submit(normals, self._generator, out, deviation)

    def step(self) -> None:
        i = self._count
        self._count += 1
        turn, row = divmod(i, _AHEAD)
        if row == 0:
            self._pending.result()
            self._pending = self._draw((turn + 1) % 2)
        noise = self._noise[turn % 2, row]
        self._theta = self._step(self._theta, noise, self._x[i % 16], self._y[i % 16])

    def rate(self) -> float:
        """Samples a second: the median of five windows, as the peers' script takes it."""
        self.step()
        return statistics.median(self._window() for _ in range(5))

    def _window(self) -> float:
        begin, steps = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - begin) < _WINDOW_S:
            self.step()
            steps += 1
        return DP_BATCH * steps / elapsed


def _measure(name: str, peers: Peers, *, overhead: float | None, target: float) -> Iterator[Figure]:
    blas.prepare()
    theta, plain, clipped = _gradients(name)
    data = population()
    batch = (theta, data.x[0], data.y[0])
    seconds = compare(
        lambda: _time(clipped, *batch),
        {"plain gradient": lambda: _time(plain, *batch)},
        repeats=20,
        best=min,
    )
    limit = None if overhead is None else Target("ratio", "<=", overhead)
    yield Figure(
        f"dpsgd-{name}.clipping", 1e6 * seconds.value, "us", seconds.ratio, seconds.against, limit
    )
    rivals = peers.rivals(dp_commands(TASKS[name]), "full_samples_per_s")
    rates = compare(_Training(name).rate, rivals, repeats=_REPEATS, best=max)
    bound = Target("ratio", ">=", target)
    yield Figure(f"dpsgd-{name}", rates.value, "samples/s", rates.ratio, rates.against, bound)


def _time(gradient: Gradient, *batch: Any) -> float:
    best = np.inf
    for _ in range(20):
        begin = time.perf_counter()
        gradient(*batch)
        best = min(best, time.perf_counter() - begin)
    return float(best)


@benchmark("dpsgd-A", _QUESTION.format("the MLP 784-200-62"))
def dpsgd_a(peers: Peers) -> Iterator[Figure]:
    """Batch 60, dense layers: norms and the clipped sum come from the factors."""
    yield from _measure("A", peers, overhead=1.5, target=3.0)


@benchmark("dpsgd-C", _QUESTION.format("the small CNN"))
def dpsgd_c(peers: Peers) -> Iterator[Figure]:
    """Batch 60, convolutions: their gradients are made for each example."""
    yield from _measure("C", peers, overhead=1.5, target=1.5)
