"""Trains cohorts: results are the same for any number of workers, of any kind, in any chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedcore.entropy import Entropy
from fedcore.errors import ArgumentError
from fedsim.engine.jobs import ClientReport, Facts, Job
from fedsim.engine.order import Joined, SumTree
from fedsim.engine.plan import Plan
from fedsim.engine.pool import Here, Pool, Threads
from fedsim.engine.processes import Processes
from fedsim.population import Population

__all__ = ["Engine", "Kind", "Summed"]

Vector: TypeAlias = NDArray[np.float32]
Kind: TypeAlias = Literal["processes", "threads"]

_PARTS_A_WORKER = 4  # so that one which others slow down does less


@dataclass(frozen=True, slots=True, eq=False)
class Summed:
    """What a cohort gave: the sum of the vectors of all that did not fail, and each's report.

    `vector`: as the plan's way adds; None where nobody gave anything. `reports`: by place.
    """

    vector: NDArray[Any] | None
    reports: tuple[ClientReport, ...]


class Engine:
    """Workers for the clients of one population, ready to train them. Use it as a context manager.

    `workers`: how many; one works in the thread that asks. `kind`: what they are. `entropy`: a seam
    for tests, for workers in this process. Raises: what `Plan.worker` and the pools raise.
    """

    def __init__(
        self,
        plan: Plan,
        population: Population,
        *,
        workers: int,
        kind: Kind = "processes",
        entropy: Entropy | None = None,
    ) -> None:
        if workers < 1 or (entropy is not None and kind == "processes" and workers > 1):
            raise ArgumentError(
                f"{workers} workers in {kind}",
                why="there is at least one, and a seam of entropy reaches into no other process",
                fix="take a worker or more, and threads with entropy",
            )
        self.plan, self.population = plan, population.settled()
        self._sizes = self.population.sizes()
        self._pool = self._pool_of(workers, kind, entropy)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def sum(self, cohort: Sequence[int], theta: Vector, facts: Facts) -> Summed:
        """Trains the clients at these places from `theta` (D,), and adds up what they give.

        Raises: SimulationError.
        """
        # Those with as many steps stand together, so that they may share a replay.
        order = sorted(cohort, key=lambda place: (self._sizes[place], place))
        tree = SumTree.over([float(self._sizes[place]) for place in order])
        parts = tree.parts(self._pool.count * _PARTS_A_WORKER if self._pool.count > 1 else 1)
        jobs = [
            Job(tuple(tuple(order[i] for i in leaf) for leaf in tree.places(part)))
            for part in parts
        ]
        joined, reports = Joined(tree), list[ClientReport]()
        self._pool.begin(theta, facts)
        for number, found, vector in self._pool.run(jobs):
            reports += found
            joined.put(parts[number], None if vector is None else vector.copy())
        return Summed(joined.whole(), tuple(sorted(reports, key=lambda report: report.index)))

    def close(self) -> None:
        """Ends the workers."""
        self._pool.close()

    def _pool_of(self, workers: int, kind: Kind, entropy: Entropy | None) -> Pool:
        if workers == 1:
            return Here(self.plan.worker(self.population, entropy=entropy))
        if kind == "threads":
            return Threads(lambda: self.plan.worker(self.population, entropy=entropy), workers)
        length, dtype = self.plan.shape
        return Processes(self.plan, self.population, workers, length=length, dtype=dtype)
