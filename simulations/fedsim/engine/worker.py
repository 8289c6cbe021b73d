"""One worker: it trains the clients of its jobs and adds up what they give, or measures models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedcore.data import Dataset
from fedcore.tensor import blas
from fedsim.engine.client_states import States
from fedsim.engine.jobs import ClientReport, Job, Round, described
from fedsim.engine.order import total
from fedsim.engine.personal import Personal
from fedsim.engine.ways import Way

__all__ = ["Worker"]

Vector: TypeAlias = NDArray[np.float32]
Done: TypeAlias = tuple[list[ClientReport], bool]


class Worker:
    """Works in `way`, by the round that it was told last.

    `personal` measures models. `states`: what clients keep, None if that is nothing.
    """

    def __init__(self, way: Way, personal: Personal, *, states: States | None = None) -> None:
        self.way, self._personal, self._states = way, personal, states
        self._round: Round | None = None
        self._begun = False
        self._rows: NDArray[Any] | None = None

    def begin(self, round: Round) -> None:
        """A round, whose vectors nobody changes meanwhile."""
        self._round, self._begun = round, False

    def rows(self, memory: NDArray[Any]) -> None:
        """Where vectors of single clients are to be written, one a row."""
        self._rows = memory

    def load(self, test: Dataset) -> None:
        """The rows that pieces are cut from."""
        self._personal.load(test)

    def close(self) -> None:
        """Ends what it started."""
        if self._states is not None:
            self._states.close()

    @blas.one_thread()
    def do(self, job: Job, out: NDArray[Any]) -> Done:
        """Does a job: what each of its members reports, and whether anybody's sum is in `out`.

        What clients keep of it is on the disk then. Raises: CheckpointError, DataFormatError.
        """
        assert self._round is not None
        if self._states is not None and job.work != "pieces":
            self._states.know(job.members, job.versions)
        if job.work in ("sum", "rows"):
            return self._train(job, self._round, out)
        measure = self._personal.client if job.work == "clients" else self._personal.piece
        return [_measured(measure, member, self._round.theta) for member in job.members], False

    def _train(self, job: Job, round: Round, out: NDArray[Any]) -> Done:
        if self._states is not None and not self._begun:
            self._states.begin(round.facts.round)
        self._begun = True
        done = self._sum(job, round, out) if job.work == "sum" else self._write(job, round)
        if self._states is not None:
            self._states.flush()
        return done

    def _sum(self, job: Job, round: Round, out: NDArray[Any]) -> Done:
        prepared = self.way.prepare(job.members, round)
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
        return reports, any(not report.failure for report in reports)

    def _write(self, job: Job, round: Round) -> Done:
        assert self._rows is not None
        reports = []
        prepared = self.way.prepare(job.members, round)
        for row, report in zip(job.rows, prepared, strict=True):
            self.way.write(self._rows[row])
            reports.append(report)
        return reports, False


def _measured(
    measure: Callable[[Vector, int], dict[str, float]], member: int, theta: Vector
) -> ClientReport:
    try:
        sums = measure(theta, member)
    except Exception as error:
        return ClientReport(member, failure=described(error))
    return ClientReport(member, examples=int(sums["evaluation_examples"]), measured=sums)
