"""Workers, wherever they are: they are told a round, and then jobs, whose sums come back."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedcore.data import Dataset
from fedsim.engine.jobs import ClientReport, Job, Round
from fedsim.engine.worker import Worker

__all__ = ["Done", "Here", "Pool", "Threads"]

Vector: TypeAlias = NDArray[np.float32]
Done: TypeAlias = tuple[int, list[ClientReport], NDArray[Any] | None]
"""The number of a job, what its members report, and their sum, valid until the next is asked."""


class Pool(Protocol):
    """`count` workers. Results come as they are done, in any order.

    Who leaves off in the middle of `run` may begin again: what is under way ends first. All
    methods raise SimulationError once a worker was lost whom no other replaces, and all workers
    are ended then.
    """

    @property
    def count(self) -> int: ...

    def begin(self, round: Round) -> None:
        """Tells all workers of a round."""
        ...

    def rows(self, count: int) -> NDArray[Any]:
        """Memory of so many rows, for the jobs that write into rows."""
        ...

    def load(self, test: Dataset) -> None:
        """Gives all workers a test set."""
        ...

    def run(
        self, jobs: Sequence[Job], meanwhile: Callable[[], None]
    ) -> Generator[Done, None, None]:
        """Has all jobs done; calls `meanwhile` once, when the workers have something to do."""
        ...

    def close(self) -> None:
        """Ends the workers."""
        ...


class Here:
    """One worker, in the thread that asks."""

    count = 1

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._out = np.empty(worker.way.length, worker.way.dtype)

    def begin(self, round: Round) -> None:
        self._worker.begin(round)

    def rows(self, count: int) -> NDArray[Any]:
        return _rows([self._worker], count)

    def load(self, test: Dataset) -> None:
        self._worker.load(test)

    def run(
        self, jobs: Sequence[Job], meanwhile: Callable[[], None]
    ) -> Generator[Done, None, None]:
        meanwhile()
        for number, job in enumerate(jobs):
            reports, anybody = self._worker.do(job, self._out)
            yield number, reports, self._out if anybody else None

    def close(self) -> None:
        self._worker.close()


class Threads:
    """Workers in threads of this process, for models whose kernels take long: they share Python."""

    def __init__(self, make: Callable[[], Worker], count: int) -> None:
        self.count = count
        self._workers = [make() for _ in range(count)]
        self._threads: list[Thread] = []
        self._waiting: SimpleQueue[tuple[int, Job] | None] = SimpleQueue()

    def begin(self, round: Round) -> None:
        self._settle()
        for worker in self._workers:
            worker.begin(round)

    def rows(self, count: int) -> NDArray[Any]:
        return _rows(self._workers, count)

    def load(self, test: Dataset) -> None:
        self._settle()
        for worker in self._workers:
            worker.load(test)

    def run(
        self, jobs: Sequence[Job], meanwhile: Callable[[], None]
    ) -> Generator[Done, None, None]:
        self._settle()
        waiting, done = self._waiting, SimpleQueue[Done | BaseException]()
        for item in enumerate(jobs):
            waiting.put(item)
        for worker in self._workers:
            waiting.put(None)
            self._threads.append(Thread(target=_serve, args=(worker, waiting, done), daemon=True))
            self._threads[-1].start()
        try:
            meanwhile()
            for _ in jobs:
                found = done.get()
                if isinstance(found, BaseException):
                    raise found
                yield found
        finally:
            self._settle(waiting)

    def close(self) -> None:
        self._settle()
        for worker in self._workers:
            worker.close()

    def _settle(self, of: SimpleQueue[tuple[int, Job] | None] | None = None) -> None:
        """Lets nobody take another job of a run, by default the last, and waits for all to end."""
        if of is not None and of is not self._waiting:
            return  # another run has waited for it
        with suppress(Empty):
            while True:
                self._waiting.get_nowait()
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()
        self._threads, self._waiting = [], SimpleQueue()


def _rows(workers: Sequence[Worker], count: int) -> NDArray[Any]:
    way = workers[0].way
    memory = np.empty((count, way.length), way.dtype)
    for worker in workers:
        worker.rows(memory)
    return memory


def _serve(
    worker: Worker,
    waiting: SimpleQueue[tuple[int, Job] | None],
    done: SimpleQueue[Done | BaseException],
) -> None:
    try:
        while (item := waiting.get()) is not None:
            number, job = item
            out = np.empty(worker.way.length if job.work == "sum" else 0, worker.way.dtype)
            reports, anybody = worker.do(job, out)
            done.put((number, reports, out if anybody else None))
    except BaseException as error:
        done.put(error)
