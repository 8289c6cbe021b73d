"""Trains cohorts: results are the same for any number of workers, of any kind, in any chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedcore.data import Dataset
from fedcore.entropy import Entropy
from fedcore.errors import ArgumentError, SimulationError
from fedsim.engine.commits import Commits
from fedsim.engine.jobs import ClientReport, Facts, Job, Round, Work
from fedsim.engine.measuring import pieces_of
from fedsim.engine.order import Joined, Subtree, SumTree
from fedsim.engine.plan import Plan
from fedsim.engine.pool import Here, Pool, Threads
from fedsim.engine.processes import Processes, Starting
from fedsim.engine.study import Study
from fedsim.population import Population

__all__ = ["Engine", "Kind", "Summed"]

Vector: TypeAlias = NDArray[np.float32]
Kind: TypeAlias = Literal["processes", "ray", "threads"]

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

    `workers`: how many; one works in the thread that asks, except of Ray. `kind`: what they are.
    `address`: of Ray's cluster, see `Cluster`. `starting`: processes to take as workers. `entropy`:
    a seam for tests, for workers in this process. Raises: what `Plan.worker` and the pools raise.
    """

    def __init__(
        self,
        plan: Plan,
        population: Population,
        *,
        workers: int,
        kind: Kind = "processes",
        address: str | None = None,
        starting: Starting | None = None,
        entropy: Entropy | None = None,
    ) -> None:
        elsewhere = kind == "ray" or (kind == "processes" and workers > 1)
        if workers < 1 or (entropy is not None and elsewhere):
            raise ArgumentError(
                f"{workers} workers in {kind}",
                why="there is at least one, and a seam of entropy reaches into no other process",
                fix="take a worker or more, and threads with entropy",
            )
        self.plan, self.population = plan, population.settled()
        self._sizes = self.population.sizes()
        self._test: Dataset | None = None
        self._later: list[Callable[[], None]] = []
        self._commits = _commits_of(plan)
        self._parts = workers * _PARTS_A_WORKER if workers > 1 else 1
        self._pool = self._pool_of(workers, kind, address, starting, entropy)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def sum(
        self,
        cohort: Sequence[int],
        theta: Vector,
        facts: Facts,
        *,
        sent: Mapping[str, Vector] | None = None,
    ) -> Summed:
        """Trains the clients at these places from `theta` (D,), and adds up what they give.

        `sent`: vectors that clients are sent beside it, by name. Raises: SimulationError.
        """
        order = self._ordered(cohort)
        tree = SumTree.over([float(self._sizes[place]) for place in order])
        joined, reports = Joined(tree), list[ClientReport]()
        parts: list[Subtree] = []
        for part in tree.parts(self._pool.count):
            if any(tree.places(part)):
                parts.append(part)
            else:
                joined.put(part, None)
        jobs = [
            self._job([tuple(order[i] for i in leaf) for leaf in tree.places(part)], "sum")
            for part in parts
        ]
        self._pool.begin(Round(theta, facts, sent or {}))
        with closing(self._pool.run(jobs, self.settle)) as results:
            for number, found, vector in results:
                reports += found
                joined.put(parts[number], vector)
        self._wrote(facts, reports)
        return Summed(joined.whole(), tuple(sorted(reports, key=_place)))

    def rows(
        self,
        cohort: Sequence[int],
        theta: Vector,
        facts: Facts,
        *,
        sent: Mapping[str, Vector] | None = None,
    ) -> tuple[NDArray[Any], tuple[ClientReport, ...]]:
        """As `sum`, but each client's own vector (n, M), in the order of `cohort`, and all reports.

        Those who failed have no row. Vectors are as the plan's way adds them, floats before their
        weight. Raises: SimulationError.
        """
        row_of = {place: row for row, place in enumerate(cohort)}
        self._pool.begin(Round(theta, facts, sent or {}))
        memory = self._pool.rows(len(row_of))
        jobs = [
            self._job([part], "rows", rows=[row_of[place] for place in part])
            for part in self._cut(self._ordered(cohort))
        ]
        reports = self._reports(jobs)
        self._wrote(facts, reports)
        gave = sorted(row_of[report.index] for report in reports if not report.failure)
        return memory if len(gave) == len(memory) else memory[gave], reports

    def measure(self, theta: Vector, test: Dataset) -> dict[str, float]:
        """The sums of `evaluate_sums` over a test set for the model `theta` (D,), to the bit.

        Raises: SimulationError, also for data that do not fit the task.
        """
        if self._test is not test:
            self._pool.load(test)
            self._test = test
        self._pool.begin(Round(theta, Facts(0)))
        found = self._reports(Job((part,), "pieces") for part in self._cut(range(pieces_of(test))))
        total: dict[str, float] = {}
        for report in found:
            if report.failure:
                raise _unmeasured(report)
            for name, value in report.measured.items():
                total[name] = total.get(name, 0) + value
        return total

    def measure_clients(self, places: Sequence[int], theta: Vector) -> tuple[ClientReport, ...]:
        """How good the models are that clients use themselves, each on its own rows.

        These are those that it holds out, where anybody holds any out; `places` are of
        `Population.measured`.
        `measured` of each report holds the sums of `evaluate_sums`; reports are sorted by place.
        Where the algorithm makes models of clients' own, they follow from `theta` (D,) and what
        each client keeps. Raises: SimulationError.
        """
        self._pool.begin(Round(theta, Facts(0)))
        order = self._ordered(places)
        return self._reports(self._job([part], "clients") for part in self._cut(order))

    def commit(self, round: int, members: Sequence[int]) -> None:
        """The vectors of these clients have entered the mean of a round: what they kept counts.

        To be called before the model that came of it is kept; what others kept is deleted. Without
        states nothing happens, here as in the three methods below. Raises: SimulationError.
        """
        if self._commits is not None:
            self._commits.commit(round, members)

    def discard(self, round: int) -> None:
        """An attempt at a round is abandoned: what its clients kept is deleted."""
        if self._commits is not None:
            self._commits.discard(round)

    def rewind(self, round: int) -> None:
        """Clients are as they were before `round`, with which a run begins, or begins again.

        Raises: SimulationError where their states of then are lost.
        """
        if self._commits is not None:
            self._commits.rewind(round)

    def prune(self, round: int) -> None:
        """The model after a round is kept: nobody needs what clients kept before it any more."""
        if self._commits is not None:
            self._commits.prune(round)

    def meanwhile(self, work: Callable[[], None]) -> None:
        """Has `work` done while the workers are at what they are asked for next.

        The process that waits for them has time for it: of a round of 50 small clients, which took
        31 ms, the workers had waited 8 while others wrote down the last and planned the next.
        """
        self._later.append(work)

    def settle(self) -> None:
        """Does now what was left for later. Raises: what it raises."""
        while self._later:
            self._later.pop(0)()

    def close(self) -> None:
        """Ends the workers."""
        self._pool.close()

    def _pool_of(
        self,
        workers: int,
        kind: Kind,
        address: str | None,
        starting: Starting | None,
        entropy: Entropy | None,
    ) -> Pool:
        if kind == "ray":
            from fedsim.engine.ray_pool import RayActors  # which no other run needs

            return RayActors(self.plan, self.population, workers, address=address)
        if workers == 1:
            return Here(self.plan.worker(self.population, entropy=entropy))
        if kind == "threads":
            return Threads(lambda: self.plan.worker(self.population, entropy=entropy), workers)
        return Processes(self.plan, self.population, workers, starting)

    def _job(
        self, leaves: Sequence[tuple[int, ...]], work: Work, *, rows: Sequence[int] = ()
    ) -> Job:
        members = [member for leaf in leaves for member in leaf]
        versions = () if self._commits is None else self._commits.versions(members)
        return Job(tuple(leaves), work, rows=tuple(rows), versions=versions)

    def _wrote(self, facts: Facts, reports: Iterable[ClientReport]) -> None:
        if self._commits is not None:
            gave = (report.index for report in reports if not report.failure)
            self._commits.wrote(facts.round, gave)

    def _ordered(self, places: Sequence[int]) -> list[int]:
        """Those with as many steps stand together, so that they may share a replay."""
        return sorted(places, key=lambda place: (self._sizes[place], place))

    def _cut(self, members: Sequence[int]) -> Iterator[tuple[int, ...]]:
        """Consecutive parts, one job each."""
        length = max(1, -(-len(members) // self._parts))
        for begin in range(0, len(members), length):
            yield tuple(members[begin : begin + length])

    def _reports(self, jobs: Iterable[Job]) -> tuple[ClientReport, ...]:
        with closing(self._pool.run(list(jobs), self.settle)) as results:
            return tuple(sorted((one for _, found, _ in results for one in found), key=_place))


def _commits_of(plan: Plan) -> Commits | None:
    if plan.study is None or not Study(plan.study, plan.task).stateful:
        return None
    return Commits(Path(plan.study.states))


def _place(report: ClientReport) -> int:
    return report.index


def _unmeasured(report: ClientReport) -> SimulationError:
    return SimulationError(
        f"piece {report.index} of the test set cannot be measured",
        why=report.failure,
        fix="take a test set whose rows are as the clients' are",
    )
