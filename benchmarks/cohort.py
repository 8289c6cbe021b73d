"""Federated rounds on the public API: worker processes, one BLAS thread each, clients in turn.

A worker holds one client's parameters and one arena, so that both stay in its cache over the local
steps. Rounds are exchanged through shared memory.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import fedcore as fc
from benchmarks.models import initial, loss_of
from benchmarks.tasks import BATCH, COHORT, LEARNING_RATE, SAMPLES, TASKS, cohort, population
from fedcore.tensor import blas

__all__ = ["Cohort", "training"]


class Cohort:
    """Worker processes that train the cohorts of one task; `rate` times whole rounds."""

    def __init__(self, task_name: str, folder: Path, processes: int) -> None:
        self._task = TASKS[task_name]
        theta, _ = initial(self._task)
        self._size = theta.size
        self._memory = SharedMemory(create=True, size=4 * self._size * (processes + 1))
        self.theta, *self._shares = _vectors(self._memory, self._size, processes)
        self.theta[:] = theta.numpy()
        self._rounds, self._next = 0, cohort(0)
        context = multiprocessing.get_context("spawn")
        self._pipes, self._workers = [], []
        for position in range(processes):
            ours, theirs = context.Pipe()
            arguments = (task_name, folder, self._memory.name, processes, position, theirs)
            worker = context.Process(target=_work, args=arguments, daemon=True)
            worker.start()
            self._pipes.append(ours)
            self._workers.append(worker)
        for pipe in self._pipes:
            pipe.recv()

    def round(self) -> None:
        """Train one cohort and replace the model by the mean of its clients' models."""
        for position, pipe in enumerate(self._pipes):
            pipe.send(self._next[position :: len(self._pipes)])
        self._rounds += 1
        self._next = cohort(self._rounds)
        for pipe in self._pipes:
            pipe.recv()
        first, *others = self._shares
        np.add(first, others[0] if others else 0, out=self.theta)
        for share in others[1:]:
            self.theta += share

    def rate(self) -> float:
        """Client-trainings per second over the task's timed rounds, after one that warms up."""
        self.round()
        begin = time.perf_counter()
        for _ in range(self._task.timed_rounds):
            self.round()
        return COHORT * self._task.timed_rounds / (time.perf_counter() - begin)

    def close(self) -> None:
        """End the workers and free the shared memory."""
        for pipe, worker in zip(self._pipes, self._workers, strict=True):
            pipe.send(None)
            worker.join()
        self.theta, self._shares = np.empty(0, np.float32), []
        self._memory.close()
        self._memory.unlink()


@contextmanager
def training(task_name: str, *, processes: int = 2) -> Iterator[Cohort]:
    """A cohort of `processes` workers on the task's data, which is written to disk once."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        data = population()
        np.save(folder / "x.npy", data.x)
        np.save(folder / "y.npy", data.y)
        workers = Cohort(task_name, folder, processes)
        try:
            yield workers
        finally:
            workers.close()


def _vectors(memory: SharedMemory, size: int, processes: int) -> list[Any]:
    whole = np.ndarray((processes + 1, size), np.float32, buffer=memory.buf)
    return list(whole)


def _work(
    task_name: str, folder: Path, memory_name: str, processes: int, position: int, pipe: Connection
) -> None:
    blas.prepare()
    task = TASKS[task_name]
    x_all, y_all = np.load(folder / "x.npy"), np.load(folder / "y.npy")
    memory = SharedMemory(memory_name)
    start, rebuild = initial(task)
    shared = _vectors(memory, start.size, processes)
    total, theta_global = shared[1 + position], shared[0]
    loss = loss_of(task, rebuild)
    gradient = fc.factored_grad(loss)

    def epoch(theta: fc.Tensor, total: fc.Tensor, x: fc.Tensor, y: fc.Tensor) -> fc.Tensor:
        for begin in range(0, SAMPLES, BATCH):
            rows = slice(begin, begin + BATCH)
            theta = fc.add_scaled(theta, gradient(theta, x[rows], y[rows]), -LEARNING_RATE)
        return total + theta

    train = fc.compile(epoch, donate=(0, 1, 2, 3))
    theta = np.empty_like(theta_global)
    x, y = np.empty_like(x_all[0]), np.empty_like(y_all[0])
    rng = np.random.default_rng(position)
    pipe.send("ready")
    while (clients := pipe.recv()) is not None:
        total.fill(0)
        for client in clients:
            np.copyto(theta, theta_global)
            order = rng.permutation(SAMPLES)
            for data, batch in ((x_all, x), (y_all, y)):
                np.take(data[client], order, axis=0, out=batch, mode="clip")  # "raise" copies twice
            train(theta, total, x, y)
        total *= np.float32(1 / COHORT)
        pipe.send("done")
    del shared, total, theta_global
    memory.close()
