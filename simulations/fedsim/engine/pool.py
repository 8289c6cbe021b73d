"""Workers, wherever they are: they are told a round, and then jobs, whose sums come back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedsim.engine.jobs import ClientReport, Facts, Job
from fedsim.engine.worker import Worker

__all__ = ["Done", "Here", "Pool", "Threads"]

Vector: TypeAlias = NDArray[np.float32]
Done: TypeAlias = tuple[int, list[ClientReport], NDArray[Any] | None]
"""The number of a job, what its clients report, and their sum, valid until the next is asked."""


class Pool(Protocol):
    """`count` workers. Results come as they are done, in any order."""

    @property
    def count(self) -> int: ...

    def begin(self, theta: Vector, facts: Facts) -> None:
        """Tells all workers of a round, in which clients are sent `theta` (D,)."""
        ...

    def run(self, jobs: Sequence[Job]) -> Iterator[Done]:
        """Has all jobs done. Raises: SimulationError if a worker was lost."""
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

    def begin(self, theta: Vector, facts: Facts) -> None:
        self._worker.begin(theta, facts)

    def run(self, jobs: Sequence[Job]) -> Iterator[Done]:
        for number, job in enumerate(jobs):
            reports, anybody = self._worker.sum(job, self._out)
            yield number, reports, self._out if anybody else None

    def close(self) -> None:
        """Nothing is to be ended."""


class Threads:
    """Workers in threads of this process, for models whose kernels take long: they share Python."""

    def __init__(self, make: Callable[[], Worker], count: int) -> None:
        self.count = count
        self._workers = [make() for _ in range(count)]

    def begin(self, theta: Vector, facts: Facts) -> None:
        for worker in self._workers:
            worker.begin(theta, facts)

    def run(self, jobs: Sequence[Job]) -> Iterator[Done]:
        waiting: SimpleQueue[tuple[int, Job] | None] = SimpleQueue()
        done: SimpleQueue[Done | BaseException] = SimpleQueue()
        for item in enumerate(jobs):
            waiting.put(item)
        threads = [
            Thread(target=_serve, args=(worker, waiting, done), daemon=True)
            for worker in self._workers
        ]
        for thread in threads:
            waiting.put(None)
            thread.start()
        try:
            for _ in jobs:
                found = done.get()
                if isinstance(found, BaseException):
                    raise found
                yield found
        finally:
            with suppress(Empty):
                while True:
                    waiting.get_nowait()
            for _ in threads:
                waiting.put(None)
            for thread in threads:
                thread.join()

    def close(self) -> None:
        """Threads end with their jobs."""


def _serve(
    worker: Worker,
    waiting: SimpleQueue[tuple[int, Job] | None],
    done: SimpleQueue[Done | BaseException],
) -> None:
    try:
        while (item := waiting.get()) is not None:
            number, job = item
            out = np.empty(worker.way.length, worker.way.dtype)
            reports, anybody = worker.sum(job, out)
            done.put((number, reports, out if anybody else None))
    except BaseException as error:
        done.put(error)
