"""What the tests of rounds share: policies, and a driver in memory that can crash anywhere."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fedcore.rounds import (
    CLIENT_PHASES,
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
    from_record,
    step,
    to_record,
)

DURATIONS = {phase: 1_000 for phase in (Phase.SELECTING, *CLIENT_PHASES)}
DIGEST = hashlib.sha256(b"released").digest()


def plain(**options: Any) -> RoundPolicy:
    terms: dict[str, Any] = {"goal": 3, "minimum": 2, "select": 4, "durations": DURATIONS}
    return RoundPolicy(**{**terms, **options})


def secure(**options: Any) -> RoundPolicy:
    return plain(**{"secure": True, "confirming": True, **options})


def clients(count: int) -> list[bytes]:
    return [bytes([ord("a") + i]) for i in range(count)]


class Crash(Exception):
    """The process is gone, and with it all that was not durable."""


@dataclass(frozen=True)
class Fate:
    """Where a client stops in its n-th attempt, if anywhere, and how that is noticed.

    Its report of a failure is durable; that its heart stopped beating is noticed anew after a
    crash; and of the third kind only the deadline tells.
    """

    stops_in: Phase | None = None
    noticed_by: Literal["report", "heartbeat", "deadline"] = "report"


@dataclass
class Disk:
    """What survives a crash."""

    records: dict[int, str] = field(default_factory=dict)
    transitions: dict[int, list[Transition]] = field(default_factory=dict)
    arrived: dict[tuple[int, Phase], list[bytes]] = field(default_factory=dict)
    failed: dict[tuple[int, Phase], dict[bytes, str]] = field(default_factory=dict)
    frozen: dict[tuple[int, Phase], frozenset[bytes]] = field(default_factory=dict)
    begun: list[int] = field(default_factory=list)
    released: dict[int, bytes] = field(default_factory=dict)
    scrubbed: set[int] = field(default_factory=set)


class Driver:
    """Drives a round to its end over a `Disk`; crashes before its n-th act, each time n is given.

    Every act is one durable write or one effect, so these are all the places between two of them.
    """

    def __init__(
        self,
        policy: RoundPolicy,
        fates: Mapping[bytes, Mapping[int, Fate]],
        *,
        cannot_close: Mapping[int, Phase] | None = None,
        crashes: tuple[int, ...] = (),
    ) -> None:
        self.policy, self.fates = policy, fates
        self.cannot_close = cannot_close or {}
        self.crashes = deque(crashes)
        self.disk, self.acts, self.now = Disk(), 0, 0

    def run(self) -> tuple[object, ...]:
        """The outcome of every attempt: how it ended, of whom, and with what bytes."""
        while True:
            try:
                self._boot()
                while self._advance():
                    pass
                break
            except Crash:
                continue
        ends = [from_record(json.loads(record)) for _, record in sorted(self.disk.records.items())]
        assert self.disk.scrubbed == set(self.disk.records)
        return tuple((s.phase, s.cohort, s.survivors, s.digest) for s in ends)

    def _act(self) -> None:
        if self.crashes and self.acts == self.crashes[0]:
            self.crashes.popleft()
            raise Crash
        self.acts += 1

    def _boot(self) -> None:
        self.effects: deque[tuple[Effect, RoundState]] = deque()
        self.timer: Arm | None = None
        if not self.disk.records:
            self._begin(1)
        attempt = max(self.disk.records)
        self.state = from_record(json.loads(self.disk.records[attempt]))
        key = (attempt, self.state.phase)
        arrived, failed = self.disk.arrived.get(key, []), self.disk.failed.get(key, {})
        self._tell(Recovered(self.now, tuple(arrived), failed))

    def _begin(self, attempt: int) -> None:
        self._act()
        if attempt not in self.disk.records:
            opened = RoundState.opened("t", round=0, attempt=attempt, at=self.now)
            self.disk.begun.append(attempt)
            self.disk.transitions[attempt] = []
            self.disk.records[attempt] = json.dumps(to_record(opened))

    def _tell(self, event: Event) -> None:
        self.state, effects = step(self.state, event, self.policy)
        self.effects.extend((effect, self.state) for effect in effects)

    def _advance(self) -> bool:
        """Do one thing; false when nothing is left to do."""
        self.now += 1
        if self.effects:
            self._act()
            self._perform(*self.effects.popleft())
        elif self.state.phase is Phase.PENDING:
            self._tell(Started(self.now))
        elif frozen := self.disk.frozen.get((self.state.attempt, self.state.phase)):
            self._tell(Closed(self.now, self.state.phase, frozen))
        elif self._timer_is_due() or not self._client_acts():
            if self.timer is None or self.timer.phase is not self.state.phase:
                return False
            self.now = max(self.now, self.timer.deadline)
            self._tell(DeadlinePassed(self.now, self.state.phase))
        return True

    def _timer_is_due(self) -> bool:
        return (
            self.timer is not None
            and self.timer.phase is self.state.phase
            and self.timer.deadline <= self.now
        )

    def _client_acts(self) -> bool:
        phase, attempt = self.state.phase, self.state.attempt
        if phase is Phase.SELECTING:
            awaited = sorted(self.fates.keys() - self.state.arrived - self.state.lost.keys())
        else:
            awaited = sorted(self.state.pending) if not self.state.closing else []
        for client in awaited:
            fate = self.fates[client].get(attempt, Fate())
            if fate.stops_in is not phase:
                self._act()
                self.disk.arrived.setdefault((attempt, phase), []).append(client)
                selecting = phase is Phase.SELECTING
                event = (
                    CheckedIn(self.now, client) if selecting else Arrived(self.now, phase, client)
                )
                self._tell(event)
                return True
            if fate.noticed_by != "deadline" and phase is not Phase.SELECTING:
                self._act()
                if fate.noticed_by == "report":
                    self.disk.failed.setdefault((attempt, phase), {})[client] = "gone"
                self._tell(Lost(self.now, client, "gone"))
                return True
        return False

    def _perform(self, effect: Effect, after: RoundState) -> None:
        attempt, phase = self.state.attempt, self.state.phase
        match effect:
            case Persist(transition):
                self.disk.transitions[attempt].append(transition)
                self.disk.records[attempt] = json.dumps(to_record(after))
            case Invite(cohort):
                assert cohort == self.state.members
            case Arm():
                self.timer = effect
            case Close(phase) if self.cannot_close.get(attempt) is phase:
                self._tell(CannotClose(self.now, phase, "no session would"))
            case Close(phase):
                frozen = self.disk.frozen.setdefault((attempt, phase), self.state.arrived)
                self._act()
                self._tell(Closed(self.now, phase, frozen))
            case Aggregate():
                self._tell(Aggregated(self.now))
            case Release():
                names = b"".join(sorted(self.state.survivors))
                self._tell(Released(self.now, hashlib.sha256(names).digest()))
            case Publish(digest):
                assert self.disk.released.setdefault(attempt, digest) == digest
                self._tell(Published(self.now))
            case Scrub():
                self.disk.scrubbed.add(attempt)
                self._tell(Scrubbed(self.now))
            case Begin(following):
                self._begin(following)
                self.state = from_record(json.loads(self.disk.records[following]))
                self.timer = None
