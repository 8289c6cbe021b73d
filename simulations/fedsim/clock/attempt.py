"""One attempt at a round in virtual time: the machine decides, and this obeys it.

What a server does with clients and clocks, it does here with numbers and a queue of events, over
the same `fedcore.rounds.step`. Nothing is durable, and nothing ever crashes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence, Set
from itertools import islice
from typing import Final, NamedTuple

import numpy as np

from fedcore.errors import FedcoreError
from fedcore.rounds import (
    Aggregate,
    Aggregated,
    Arm,
    Arrived,
    Begin,
    CannotClose,
    CheckedIn,
    Close,
    Closed,
    DeadlinePassed,
    Effect,
    Event,
    Invite,
    Lost,
    Persist,
    Phase,
    Publish,
    Published,
    Recovered,
    Release,
    Released,
    RoundPolicy,
    RoundState,
    Scrub,
    Scrubbed,
    Started,
    Transition,
    step,
)
from fedcore.tensor.random import Key
from fedsim.clock.candidates import Candidate, Candidates
from fedsim.clock.course import Course
from fedsim.clock.queue import EventQueue
from fedsim.clock.sessions import Session
from fedsim.clock.timeline import Cause, Loss
from fedsim.clock.work import Work
from fedsim.devices import NEVER, Devices

__all__ = ["AttemptRun", "client_id", "place_of"]

_ID_BYTES: Final = 8
# In the words of a server, which knows no more.
_LEFT, _SILENT = "left while it waited", "no sign of life"
_IDLE, _FAILED = "no update begun in time", "its program failed"


def client_id(place: int) -> bytes:
    """The name of a client to the machine."""
    return place.to_bytes(_ID_BYTES, "big")


def place_of(client: bytes) -> int:
    """The place in the population of a client of that name."""
    return int.from_bytes(client, "big")


class _Came(NamedTuple):
    """The message that a phase awaits of a client arrives."""

    phase: Phase
    client: bytes


class _Missed(NamedTuple):
    """The server notices in a phase that a client is gone."""

    phase: Phase
    client: bytes
    why: str


class _Timer(NamedTuple):
    """The deadline of a phase passes."""

    phase: Phase


class AttemptRun:
    """An attempt that `run` takes to its end; `timeline.Attempt` then says what came of it.

    `state`: opened at the time of its begin. `key`: of who is lost. `silence_ms`, `compute_ms`: see
    `Terms`. `failing`: clients whose program fails.
    """

    def __init__(
        self,
        state: RoundState,
        *,
        policy: RoundPolicy,
        devices: Devices,
        work: Work,
        candidates: Candidates,
        session: Session,
        key: Key,
        silence_ms: int,
        compute_ms: int,
        failing: Set[int] = frozenset(),
    ) -> None:
        self.state, self._policy = state, policy
        self._devices, self.work, self._session, self._key = devices, work, session, key
        self._silence, self._compute, self._failing = silence_ms, compute_ms, failing
        self._candidates = iter(candidates)
        self._queue: EventQueue[_Came | _Missed | _Timer] = EventQueue(now=state.since)
        self._follow: deque[Event] = deque()
        self._asked: dict[bytes, Candidate] = {}
        self._leaving: set[bytes] = set()
        self._scrubbed = False
        self.left: dict[bytes, Loss] = {}
        self.transitions: list[Transition] = []
        self.arrived: dict[Phase, frozenset[bytes]] = {}
        self.reports: dict[bytes, int] = {}
        self.cohort: list[bytes] = []
        self.course = self._course([])

    @property
    def now(self) -> int:
        """The virtual time, in milliseconds."""
        return self._queue.now

    def run(self) -> None:
        """Goes on until the attempt is over."""
        self._feed(Started(self.now))
        while not self._scrubbed:
            item = self._queue.pop()
            if item.phase is not self.state.phase:
                continue
            match item:
                case _Came():
                    self._come(item)
                case _Missed(_, client, why):
                    self._miss(client, why)
                case _Timer(phase):
                    self._feed(DeadlinePassed(self.now, phase))

    def _feed(self, event: Event) -> None:
        """One event, and all that follows from it at once."""
        self._follow.append(event)
        while self._follow:
            state, effects = step(self.state, self._follow.popleft(), self._policy)
            if not effects or not isinstance(effects[0], Persist):
                self.state = state
            for effect in effects:
                self._perform(effect, state)

    def _perform(self, effect: Effect, state: RoundState) -> None:
        match effect:
            case Persist(transition):
                self._pass(transition, state)
            case Invite():
                self._invite()
            case Arm(phase, deadline):
                self._queue.push(deadline, _Timer(phase))
                if phase is Phase.SELECTING:
                    self._ask(self._policy.select)
            case Close(phase):
                self._follow.append(self._closed(phase))
            case Aggregate():
                self._follow.append(Aggregated(self.now))
            case Release():
                self._follow.append(self._released())
            case Publish():
                self._follow.append(Published(self.now))
            case Scrub():
                self._scrubbed = True
                self._follow.append(Scrubbed(self.now))
            case Begin():
                pass  # the clock's, which opens it

    def _pass(self, transition: Transition, state: RoundState) -> None:
        before, self.state = self.state, state
        self.transitions.append(transition)
        self.arrived[before.phase] = frozenset(before.arrived)
        if before.phase is Phase.SELECTING and state.members:
            self.cohort = [client for client in self._asked if client in state.cohort]
            self.course = self._course([self._asked[client] for client in self.cohort])
            gone = [row for row, client in enumerate(self.cohort) if client in self._leaving]
            self.course.lose(np.array(gone, np.int64), np.full(len(gone), self.now), Cause.DROPPED)

    def _course(self, candidates: Sequence[Candidate]) -> Course:
        return Course(
            np.array([one.client for one in candidates], np.int64),
            devices=self._devices,
            work=self.work,
            key=self._key,
            until=np.array([one.until for one in candidates], np.int64),
            failing=self._failing,
        )

    def _ask(self, count: int) -> None:
        """Lets so many more clients check in, each after an exchange, if it is there so long."""
        deadline = self.state.deadline
        assert deadline is not None
        while count and (chosen := list(islice(self._candidates, count))):
            course = self._course(chosen)
            times = np.maximum(self.now, [one.begin for one in chosen]) + course.exchange
            leaving = course.leaving().tolist()
            for one, at, leaves in zip(chosen, times.tolist(), leaving, strict=True):
                if at >= one.until:
                    continue
                count -= 1
                client = client_id(one.client)
                self._asked[client] = one
                self._queue.push(at, _Came(Phase.SELECTING, client))
                if one.until <= deadline:
                    self._queue.push(one.until, _Missed(Phase.SELECTING, client, _LEFT))
                if leaves:
                    self._leaving.add(client)

    def _come(self, item: _Came) -> None:
        """Takes messages that arrive one after the other, up to the first that decides something.

        The machine copies its sets for each event; to take over many messages at once is as good.
        """
        came = [item.client]
        self._note(item)
        room = _undecided(self.state, self._policy)
        while len(came) <= room and came[-1] not in self._leaving:
            following = self._queue.peek()
            if not isinstance(following, _Came) or following.phase is not item.phase:
                break
            self._note(self._queue.pop())
            came.append(following.client)
        if len(came) > 1:
            self.state, _ = step(self.state, Recovered(self.now, came[:-1]), self._policy)
        self._feed(
            CheckedIn(self.now, came[-1])
            if item.phase is Phase.SELECTING
            else Arrived(self.now, item.phase, came[-1])
        )
        if item.phase is self.state.phase is Phase.SELECTING and came[-1] in self._leaving:
            self._miss(came[-1], _LEFT)

    def _note(self, item: object) -> None:
        if isinstance(item, _Came) and item.phase is Phase.COLLECTING:
            self.reports[item.client] = self.now

    def _miss(self, client: bytes, why: str) -> None:
        selecting = self.state.phase is Phase.SELECTING
        if selecting and client not in self.state.arrived:
            return
        self._feed(Lost(self.now, client, why))
        if selecting:
            cause = Cause.DROPPED if client in self._leaving else Cause.AWAY
            self.left[client] = Loss(Phase.SELECTING, cause, self.now)
            self._ask(1)

    def _invite(self) -> None:
        phase, deadline = self.state.phase, self.state.deadline
        assert deadline is not None
        rows = np.flatnonzero([client in self.state.members for client in self.cohort])
        answers = self.course.answers(phase, rows, self.now)
        missed = self.course.missed(rows, self.now, silence=self._silence)
        for row, answer, miss in zip(rows.tolist(), answers.tolist(), missed.tolist(), strict=True):
            client = self.cohort[row]
            if answer <= deadline:
                self._queue.push(answer, _Came(phase, client))
            elif answer == NEVER and miss <= deadline:
                failed = self.course.cause(row) is Cause.FAILED
                self._queue.push(miss, _Missed(phase, client, _FAILED if failed else _SILENT))
        late = self.now + self._compute
        if phase is Phase.COLLECTING and late <= deadline:
            for row in rows[self.course.begun[rows] > late].tolist():
                self._queue.push(late, _Missed(phase, self.cohort[row], _IDLE))

    def _closed(self, phase: Phase) -> Event:
        arrived = frozenset(map(place_of, self.state.arrived))
        try:
            remaining = self._session.close(phase, arrived)
        except FedcoreError as error:
            return CannotClose(self.now, phase, _said(error))
        return Closed(self.now, phase, frozenset(map(client_id, remaining)))

    def _released(self) -> Event:
        survivors = frozenset(map(place_of, self.state.survivors))
        try:
            return Released(self.now, self._session.release(survivors))
        except FedcoreError as error:
            return CannotClose(self.now, Phase.AGGREGATING, _said(error))


def _undecided(state: RoundState, policy: RoundPolicy) -> int:
    """How many may arrive, and leave the machine nothing to decide."""
    came = len(state.arrived)
    if state.phase is Phase.SELECTING:
        return policy.select - came - 1
    pending = len(state.pending)
    return (min(pending, policy.goal - came) if state.phase is Phase.COLLECTING else pending) - 1


def _said(error: FedcoreError) -> str:
    return f"{error.code} {error.what}" + (f": {error.why}" if error.why else "")
