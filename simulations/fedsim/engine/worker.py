"""One worker: it trains the clients of its jobs, and adds up what they give."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedcore.tensor import blas
from fedsim.engine.jobs import ClientReport, Facts, Job
from fedsim.engine.order import total
from fedsim.engine.ways import Way

__all__ = ["Worker"]

Vector: TypeAlias = NDArray[np.float32]


class Worker:
    """Works in `way`, by the model and the facts of the round that it was told last."""

    def __init__(self, way: Way) -> None:
        self.way = way
        self._theta: Vector | None = None
        self._facts = Facts(0)

    def begin(self, theta: Vector, facts: Facts) -> None:
        """A round in which clients are sent `theta` (D,), which nobody changes meanwhile."""
        self._theta, self._facts = theta, facts

    @blas.one_thread()
    def sum(self, job: Job, out: NDArray[Any]) -> tuple[list[ClientReport], bool]:
        """Writes the sum over the job's leaves into `out`; what each client reports.

        False: nobody is in the sum, and `out` is as it was.
        """
        assert self._theta is not None
        prepared = self.way.prepare(job.members, self._theta, self._facts)
        reports: list[ClientReport] = []

        def add(member: int, into: NDArray[Any]) -> None:
            reports.append(next(prepared))
            self.way.add(into)

        first = [out]  # the leftmost leaf's memory becomes that of the whole

        def new() -> NDArray[Any]:
            made = first.pop() if first else np.empty(self.way.length, self.way.dtype)
            made.fill(0)
            return made

        found = total(job.leaves, add, new)
        if found is not None and found is not out:
            out[...] = found
        return reports, found is not None
