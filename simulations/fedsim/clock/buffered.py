"""FedBuff's schedule: clients train at their own pace, and every so many updates make a new model.

It is found from devices and seed alone, without any training. So whoever trains may look ahead
(`BufferedSchedule`), train all clients that start from one version together, and give each update
its place afterwards.

Source: Nguyen et al., "Federated learning with buffered asynchronous aggregation" (AISTATS 2022),
algorithm 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence, Set
from itertools import islice, takewhile
from typing import Final, NamedTuple

import numpy as np

from fedcore.errors import TaskError
from fedcore.rounds import Phase
from fedcore.tensor.random import Key
from fedsim.clock.buffered_schedule import BufferedSchedule, ServerStep, Start, Update, Waste
from fedsim.clock.candidates import Candidate, Candidates
from fedsim.clock.course import Course
from fedsim.clock.queue import EventQueue
from fedsim.clock.spec import ClockSpec
from fedsim.clock.terms import Terms
from fedsim.clock.timeline import Cause
from fedsim.clock.work import Traffic, Work
from fedsim.devices import NEVER, Devices

__all__ = ["BufferedClock"]

_MOST_IN_VAIN: Final = 500  # starts that are lost for each update that a step needs


class BufferedClock:
    """A buffered schedule with these devices; a function of their seed.

    `terms`: of them the deadlines hold, of each client from its start on.
    Raises: TaskError for a synchronous `spec`, or more clients at a time than there are.
    """

    def __init__(self, spec: ClockSpec, terms: Terms, devices: Devices) -> None:
        if spec.concurrency is None or spec.buffer is None:
            raise TaskError(
                "a buffered clock with the terms of a synchronous one",
                why="how many train at a time, and how many make a step, is not said",
                fix='set schedule = "buffered", concurrency and buffer',
                where="clock",
            )
        if spec.concurrency > len(devices):
            raise TaskError(
                f"clock.concurrency = {spec.concurrency} of {len(devices)} clients",
                why="a client trains once at a time",
                fix=f"set concurrency to {len(devices)} at most, or simulate more clients",
                where="clock.concurrency",
            )
        self._spec, self._terms, self._devices = spec, terms, devices

    def schedule(self, work: Work, *, count: int, first: int = 0) -> BufferedSchedule:
        """Step `first` and those after it, of `count` in all, found as they are asked for."""
        return BufferedSchedule(self.steps(work), count=count, first=first)

    def steps(self, work: Work, *, failing: Set[int] = frozenset()) -> Iterator[ServerStep]:
        """Step after step, for ever. `failing`: clients whose program fails.

        Raises: TaskError where nobody is ever there again, or not in time, or nearly all is lost.
        """
        return _Run(self._spec, self._terms, self._devices, work, failing).steps()


class _Ending(NamedTuple):
    """A start comes to its end: with an update, or with the reason why there is none."""

    start: Start
    cause: Cause | None
    downloaded: bool


class _Run:
    """One walk along the schedule."""

    def __init__(
        self, spec: ClockSpec, terms: Terms, devices: Devices, work: Work, failing: Set[int]
    ) -> None:
        assert spec.concurrency is not None and spec.buffer is not None
        self._concurrency, self._buffer = spec.concurrency, spec.buffer
        self._spec, self._terms, self._devices = spec, terms, devices
        self._work, self._failing = work, failing
        self._queue: EventQueue[_Ending | None] = EventQueue(now=0)
        # In the order in which they began: from which version.
        self._running: dict[int, int] = {}
        self._version, self._looks_at, self._stepped_at = 0, NEVER, 0
        self._begin_version()

    def _begin_version(self) -> None:
        self._updates: list[Update] = []
        self._wasted: list[Waste] = []
        self._traffic = Traffic()
        self._draws = 0
        self._turns: Counter[int] = Counter()

    def steps(self) -> Iterator[ServerStep]:
        """All that ends in one moment ends before anybody starts anew, so from the newest model."""
        self._fill()
        while True:
            at = self._queue.next_at
            assert at is not None
            while self._queue.next_at == at:
                ending = self._queue.pop()
                if ending is None:
                    self._looks_at = NEVER
                elif (step := self._end(ending)) is not None:
                    yield step
            self._fill()

    def _end(self, ending: _Ending) -> ServerStep | None:
        start, cause, now = ending.start, ending.cause, self._queue.now
        del self._running[start.client]
        staleness = self._version - start.version
        traffic = self._work.traffic(Phase.COLLECTING).times(ending.downloaded, cause is None)
        self._traffic = self._traffic.plus(traffic)
        most = self._spec.largest_staleness
        if cause is None and most is not None and staleness > most:
            cause = Cause.STALE
        if cause is not None:
            self._waste(start, cause)
            return None
        weight = self._spec.staleness.weight(staleness)
        self._updates.append(Update(start, now, staleness, weight))
        if len(self._updates) < self._buffer:
            return None
        self._version += 1
        step = ServerStep(
            version=self._version - 1,
            begin=self._stepped_at,
            at=now,
            updates=tuple(self._updates),
            wasted=tuple(self._wasted),
            traffic=self._traffic,
            oldest=self._oldest(),
        )
        self._stepped_at = now
        self._begin_version()
        return step

    def _oldest(self) -> int:
        oldest = next(iter(self._running.values()), self._version)
        most = self._spec.largest_staleness
        return oldest if most is None else max(oldest, self._version - most)

    def _waste(self, start: Start, cause: Cause) -> None:
        self._wasted.append(Waste(start, cause, self._queue.now))
        if len(self._wasted) > _MOST_IN_VAIN * self._buffer:
            counted = Counter(waste.cause.value for waste in self._wasted)
            said = ", ".join(f"{count} {why}" for why, count in counted.most_common())
            raise TaskError(
                f"version {self._version} of the model has {len(self._updates)} of"
                f" {self._buffer} updates after {len(self._wasted)} were lost",
                why=said,
                fix="lower the drop-out, lengthen the deadlines, or allow more staleness",
                where="clock",
            )

    def _fill(self) -> None:
        """Lets clients start where there is room, drawn from those that are there and idle."""
        room = self._concurrency - len(self._running)
        if not room:
            return
        self._draws += 1
        chosen = self._choose(room)
        by_turn: dict[int, list[Candidate]] = {}
        for one in chosen:
            self._turns[one.client] += 1
            by_turn.setdefault(self._turns[one.client], []).append(one)
        for turn, some in sorted(by_turn.items()):
            self._start(some, turn)
        if len(chosen) < room:
            self._look_again()

    def _choose(self, count: int) -> list[Candidate]:
        """Whom a synchronous attempt of this number at the round of this number would select."""
        key = Key(self._devices.seed, "cohort", round=self._version).fold(self._draws)
        now = self._queue.now
        found = Candidates(self._devices, key, at=now, among=self._devices.order)
        there = takewhile(lambda one: one.begin <= now, found)
        return list(islice((one for one in there if one.client not in self._running), count))

    def _start(self, chosen: Sequence[Candidate], turn: int) -> None:
        now = self._queue.now
        rows = np.arange(len(chosen))
        course = Course(
            np.array([one.client for one in chosen], np.int64),
            devices=self._devices,
            work=self._work,
            key=Key(self._devices.seed, "dropout", round=self._version).fold(turn),
            until=np.array([one.until for one in chosen], np.int64),
            failing=self._failing,
        )
        leaving = np.flatnonzero(course.leaving())
        course.lose(leaving, np.full(len(leaving), now), Cause.DROPPED)
        answers = course.answers(Phase.COLLECTING, rows, now)
        missed = course.missed(rows, now, silence=self._terms.silence_ms)
        for row, one in enumerate(chosen):
            self._running[one.client] = self._version
            start = Start(one.client, self._version, turn, now)
            self._queue.push(*_ending(course, row, start, answers[row], missed[row], self._terms))

    def _look_again(self) -> None:
        """When the next client comes, if one does. Raises: TaskError if that is too late."""
        now, patience = self._queue.now, self._spec.patience_ms
        begins, _ = self._devices.availability.window(self._devices.order, now)
        soonest = int(begins[begins > now].min(initial=NEVER))
        if not self._running and (soonest == NEVER or soonest - now > patience):
            when = "ever" if soonest == NEVER else f"before {soonest / 1000:g} s"
            raise TaskError(
                f"version {self._version} of the model waits in vain: nobody is there {when}",
                why=f"it is {now / 1000:g} s"
                + (f", and it waits for {patience / 1000:g} s at most" if patience < NEVER else ""),
                fix="let clients be there for longer, or simulate fewer steps",
                where="clock",
            )
        if soonest < self._looks_at:
            self._looks_at = soonest
            self._queue.push(soonest, None)


def _ending(
    course: Course, row: int, start: Start, answer: int, miss: int, terms: Terms
) -> tuple[int, _Ending]:
    """When a start ends, and how: with its update, missed, or given up at a deadline."""
    late = start.at + terms.policy.durations[Phase.COLLECTING]
    if course.begun[row] > start.at + terms.compute_ms:
        late = min(late, start.at + terms.compute_ms)
    came = answer < NEVER
    at = int(answer if came else miss)
    cause = None if came else course.cause(row)
    if at > late:
        at, cause = late, course.cause(row) if course.gone[row] <= late else Cause.SLOW
    return at, _Ending(start, cause, bool(course.downloaded[row] <= at))
