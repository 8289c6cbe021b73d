"""Workers as actors of Ray, on many machines: who is lost is replaced, and its jobs done again."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fedcore.data import Dataset
from fedcore.errors import SimulationError
from fedsim.engine.jobs import ClientReport, Job, Round
from fedsim.engine.plan import Plan
from fedsim.engine.pool import Done
from fedsim.engine.ray_cluster import Cluster, LostError, Reference
from fedsim.engine.ray_worker import RayWorker, packed_states, unpacked_states, versions_here
from fedsim.engine.scratch import SLOTS
from fedsim.population import Population

__all__ = ["RayActors"]

_START_S: Final = 120.0  # in which a machine that is cold has imported what a worker needs
_IN_A_ROW: Final = 3  # lost workers, with nothing done between them: one more would be lost, too


@dataclass(eq=False)
class _Member:
    """One worker, and how many jobs are on their way to it."""

    actor: Any
    under_way: int = 0


@dataclass(eq=False)
class _Sent:
    """A job on its way; a start, where there is none."""

    member: _Member
    number: int = -1
    job: Job | None = None
    answer: dict[str, Any] = field(default_factory=dict)
    arrays: list[NDArray[Any]] = field(default_factory=list)


class RayActors:
    """`count` workers in the cluster at `address`, or in a new one on this machine.

    What clients keep lies in the plan's folder, on this machine, and comes and goes with jobs.
    Raises: what `Cluster` raises; SimulationError if a worker does not start, or not as others do.
    """

    def __init__(
        self, plan: Plan, population: Population, count: int, *, address: str | None = None
    ) -> None:
        self.count, (self._length, self._dtype) = count, plan.shape
        self._states, self._begun, self._is_closed = plan.states(), False, False
        self._members: list[_Member] = []
        self._under_way: dict[Reference, _Sent] = {}
        self._waiting: deque[tuple[int, Job]] = deque()
        self._told: dict[str, Any] = {"round": 0, "test": 0}
        self._vectors: Reference = None
        self._test: Reference = None
        self._rows: NDArray[Any] | None = None
        self._lost, self._versions = 0, dict[str, str]()
        self._cluster = Cluster(address, workers=count)
        try:
            data, trained, held = population.data, population.partition, population.held_out
            rows = (trained.rows, trained.offsets, held.rows, held.offsets)
            arrays = (data.x, data.y, *rows)
            self._people = [self._cluster.put(array) for array in arrays]
            self._plan, self._names = json.dumps(plan.to_json()), json.dumps(population.names)
            for _ in range(count):
                self._hire()
            while len(self._members) < count:
                self._next(_START_S)
        except BaseException:
            self.close()
            raise

    def begin(self, round: Round) -> None:
        self._settle()
        self._vectors = self._cluster.put([round.theta, *round.sent.values()])
        facts, number = asdict(round.facts), self._told["round"] + 1
        self._told |= {"round": number, "facts": facts, "names": list(round.sent)}
        self._begun = False

    def rows(self, count: int) -> NDArray[Any]:
        self._rows = np.empty((count, self._length), self._dtype)
        return self._rows

    def load(self, test: Dataset) -> None:
        self._settle()
        self._test = self._cluster.put([test.x, test.y])
        self._told["test"] += 1

    def run(
        self, jobs: Sequence[Job], meanwhile: Callable[[], None]
    ) -> Generator[Done, None, None]:
        self._settle()
        self._waiting.extend(enumerate(jobs))
        left = len(jobs)
        try:
            self._give()
            meanwhile()
            while left:
                done = self._next(self._patience)
                self._give()
                if done is not None:
                    left -= 1
                    yield self._kept(done)
        except SimulationError:
            self.close()
            raise

    def close(self) -> None:
        self._is_closed = True
        for member in [*self._members, *(sent.member for sent in self._under_way.values())]:
            self._cluster.end(member.actor)
        self._members.clear()
        self._under_way.clear()
        self._people, self._vectors, self._test = [], None, None
        self._cluster.close()
        if self._states is not None:
            self._states.close()

    def _hire(self) -> None:
        """Has a worker start, wherever there is room. It gets jobs once it has."""
        member = _Member(self._cluster.actor(RayWorker))
        start = member.actor.start.remote(self._plan, self._names, *self._people)
        self._under_way[start] = _Sent(member)

    def _give(self) -> None:
        """One job each before anybody has two: nobody waits for a neighbour's second."""
        for most in range(1, SLOTS + 1):
            for member in self._members:
                if self._waiting and member.under_way < most:
                    self._send(member, *self._waiting.popleft())

    def _send(self, member: _Member, number: int, job: Job) -> None:
        keys, states = self._brought(job)
        told = json.dumps({**self._told, "do": job.to_json(), "states": keys})
        test = self._test if job.work == "pieces" else []
        answer = member.actor.work.remote(told, self._vectors, test, states)
        self._under_way[answer] = _Sent(member, number, job)
        member.under_way += 1

    @property
    def _patience(self) -> float | None:
        """How long to wait: for who works as long as it takes, else for somebody to start."""
        return None if self._members else _START_S

    def _next(self, timeout_s: float | None) -> _Sent | None:
        """Waits for something: a job that is done, or a worker that has started or is lost."""
        found = self._cluster.first([*self._under_way], timeout_s=timeout_s)
        if found is None:
            raise self._unstarted()
        sent = self._under_way.pop(found)
        try:
            answer = self._cluster.get(found)
        except LostError as error:
            self._lose(sent, str(error))
            return None
        if sent.job is None:
            self._enter(sent.member, json.loads(answer))
            return None
        told, arrays = answer
        sent.answer, sent.arrays = json.loads(told), arrays
        sent.member.under_way -= 1
        self._lost = 0
        return sent

    def _enter(self, member: _Member, answer: dict[str, Any]) -> None:
        """A worker that has started, if what it computes are the bits that others would."""
        self._require(answer)
        versions = answer["versions"]
        # The processor of this process may be another: it trains nobody.
        expected = versions | self._versions | versions_here()
        for name, version in versions.items():
            if version != expected[name]:
                raise SimulationError(
                    f"{name} is {version} where one worker is, and {expected[name]} elsewhere",
                    why="last bits of a model would depend on who computes it",
                    fix="install the same on all machines, and take machines of one kind",
                )
        self._versions = versions
        self._members.append(member)

    def _lose(self, sent: _Sent, why: str) -> None:
        """Has its job done by another, and another take its place."""
        if sent.job is not None:
            self._waiting.appendleft((sent.number, sent.job))
        if sent.job is not None and sent.member not in self._members:
            return  # its other job has told of it
        if sent.member in self._members:
            self._members.remove(sent.member)
        self._cluster.end(sent.member.actor)
        self._lost += 1
        if self._lost == _IN_A_ROW:
            raise SimulationError(
                f"{_IN_A_ROW} workers were lost one after another, and nothing was done",
                why=why,
                fix="take fewer workers or lanes, and resume the run: nothing kept is lost",
            )
        self._hire()

    def _kept(self, sent: _Sent) -> Done:
        """What a job has given, once what its clients keep is on the disk."""
        answer, arrays, job = self._require(sent.answer), sent.arrays, sent.job
        found, cut = None, answer["found"]
        if self._states is not None:
            for client, state in unpacked_states(answer["states"], arrays[cut:]).items():
                self._states.put(client, self._told["facts"]["round"], state)
            self._states.flush()
        if cut:
            [found] = arrays[:cut]
        if found is not None and job is not None and job.work == "rows":
            assert self._rows is not None
            self._rows[list(job.rows)], found = found, None
        return sent.number, list(map(ClientReport.from_json, answer["reports"])), found

    def _brought(self, job: Job) -> tuple[list[tuple[int, list[str]]], list[NDArray[Any]]]:
        """What the clients of a job keep."""
        if self._states is None or job.work == "pieces":
            return [], []
        if job.work != "clients" and not self._begun:
            self._states.begin(self._told["facts"]["round"])
            self._begun = True
        self._states.know(job.members, job.versions)
        return packed_states({member: self._states.get(member) for member in job.members})

    def _settle(self) -> None:
        """Waits for what a run that nobody read to its end has left under way."""
        if self._is_closed:
            raise SimulationError(
                "the engine is closed",
                why="its owner closed it, or it was closed because workers were lost",
                fix="make an Engine anew, and rewind it to the round that the run has kept",
            )
        try:
            while any(sent.job for sent in self._under_way.values()):
                self._next(self._patience)
        except SimulationError:
            self.close()
            raise
        self._waiting.clear()

    def _require(self, answer: dict[str, Any]) -> dict[str, Any]:
        if "failure" in answer:
            raise SimulationError(
                "a worker cannot go on",
                why=answer["failure"],
                fix="look at the reason, and resume the run: nothing that was kept is lost",
            )
        return answer

    def _unstarted(self) -> SimulationError:
        return SimulationError(
            f"{len(self._members)} of {self.count} workers have started in {_START_S:.0f} s",
            why="machines are busy with other work, are gone, or cannot make workers",
            fix="look whether the cluster is well (ray status), and resume the run",
        )
