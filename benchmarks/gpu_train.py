"""Training on a GPU beside other systems on the same card: one model, and a cohort in lanes.

All compute in float32 proper, without the shorter products of tensor cores. Data lie on the card.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

import fedcore as fc
from benchmarks.figure import Figure
from benchmarks.gpu_rivals import STEPS, jax_step, torch_graph_step, torch_lanes_step, torch_step
from benchmarks.measure import Run, compare
from benchmarks.models import initial, loss_of
from benchmarks.peers import Peers
from benchmarks.registry import benchmark
from benchmarks.tasks import BATCH, CLASSES, COHORT, LEARNING_RATE, SIDE, TASKS, Task
from fedcore.tensor.backend import Backend, use_backend

__all__ = ["gpu_lanes", "gpu_step"]

_LARGE_BATCH = 256
_REPEATS = 5


@benchmark("gpu-step", "How fast is an SGD step on a GPU, beside PyTorch and JAX on it?")
def gpu_step(_peers: Peers) -> Iterator[Figure]:
    """One model, batches of 256, replayed."""
    with use_backend("cupy") as gpu:
        for task in TASKS.values():
            batch = _batch(_LARGE_BATCH)
            rivals = {
                "PyTorch": partial(torch_step, task, *batch),
                "PyTorch CUDA graph": partial(torch_graph_step, task, *batch),
                "JAX": partial(jax_step, task, *batch, lanes=0),
            }
            yield _figure(f"gpu-step.{task.name}", _ours(task, *batch, lanes=0, gpu=gpu), rivals)


@benchmark(
    "gpu-lanes", "How fast does a GPU train a cohort in lanes, beside PyTorch and JAX on it?"
)
def gpu_lanes(_peers: Peers) -> Iterator[Figure]:
    """Fifty clients at once, each with parameters of its own: a step on batches of 20 of each."""
    with use_backend("cupy") as gpu:
        for task in TASKS.values():
            batch = _batch(COHORT, BATCH)
            rivals = {
                "torch.func vmap(grad)": partial(torch_lanes_step, task, *batch),
                "JAX vmap(grad)": partial(jax_step, task, *batch, lanes=COHORT),
            }
            ours = _ours(task, *batch, lanes=COHORT, gpu=gpu)
            yield _figure(f"gpu-lanes.{task.name}", ours, rivals)


def _figure(name: str, ours: Run, rivals: Mapping[str, Callable[[], Callable[[], None]]]) -> Figure:
    found = compare(
        ours, {rival: _prepared(make) for rival, make in rivals.items()}, repeats=_REPEATS, best=min
    )
    faster = None if found.rival_value is None else found.rival_value / found.value
    return Figure(name, 1e6 * found.value, "us a step", faster, found.against)


def _ours(task: Task, x: Any, y: Any, *, lanes: int, gpu: Backend) -> Run:
    start, rebuild = initial(task)
    gradient = fc.factored_grad(loss_of(task, rebuild))

    def step(theta: fc.Tensor, x: fc.Tensor, y: fc.Tensor, rate: fc.Tensor) -> fc.Tensor:
        return fc.add_scaled(theta, gradient(theta, x, y), -rate)

    mapped = fc.vmap(step, (0, 0, 0, None)) if lanes else step
    replayed = fc.compile(mapped, donate=(0,))
    vector = np.array(start.numpy())
    theta = fc.tensor(gpu.asarray(np.tile(vector, (lanes, 1)) if lanes else vector))
    images, labels = fc.tensor(gpu.asarray(x)), fc.tensor(gpu.asarray(y))
    rate = fc.tensor(gpu.asarray(np.float32(LEARNING_RATE)))

    def steps() -> None:
        nonlocal theta
        for _ in range(STEPS):
            theta = replayed(theta, images, labels, rate)
        gpu.synchronize()

    return _timed(steps)


def _prepared(make: Callable[[], Callable[[], None]]) -> Run:
    """A run of a rival, which is made, warmed up and kept when it is first run."""
    made: list[Run] = []

    def run() -> float:
        if not made:
            made.append(_timed(make()))
        return made[0]()

    return run


def _timed(steps: Callable[[], None]) -> Run:
    """A run that tells the seconds of one step of a function that makes all of them and waits."""
    steps()

    def run() -> float:
        begin = time.perf_counter()
        steps()
        return (time.perf_counter() - begin) / STEPS

    return run


def _batch(*leading: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((*leading, SIDE, SIDE, 1), dtype=np.float32)
    return x, rng.integers(0, CLASSES, leading)
