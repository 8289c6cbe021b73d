"""Rounds one after the other, as a server holds them: a clock that decides who reports when.

It works with sizes alone. What clients train and what comes of it, a mode computes afterwards, of
the survivors that a timeline names; so every mode sees the same rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import replace

import numpy as np

from fedcore.errors import TaskError
from fedcore.rounds import RoundPolicy, RoundState, seen_in
from fedcore.tensor.random import Key
from fedsim.clock.attempt import AttemptRun
from fedsim.clock.candidates import Candidates
from fedsim.clock.record import recorded
from fedsim.clock.sessions import CountedSession, OpenSession, Session
from fedsim.clock.terms import REMEMBERED, Terms
from fedsim.clock.timeline import Attempt, ClockState, RoundTimeline
from fedsim.clock.work import Work
from fedsim.devices import NEVER, Devices
from fedsim.devices.availability import Places

__all__ = ["SynchronousClock"]


class SynchronousClock:
    """Rounds on these `terms` with these devices; a function of their seed and a `ClockState`.

    `patience_ms`: for how long a round waits for enough clients to begin.
    Raises: TaskError for a cohort that the population cannot be, with what it can.
    """

    def __init__(self, terms: Terms, devices: Devices, *, patience_ms: int = NEVER) -> None:
        self._terms, self._devices, self._patience = terms, devices, patience_ms
        select = terms.policy.select
        if select > len(devices):
            raise TaskError(
                f"a round selects {select} of {len(devices)} clients",
                why="each client takes part once in a round",
                fix=f"let goal · overselection be {len(devices)} at most, or simulate more clients",
                where="cohort",
            )

    def round(
        self,
        number: int,
        before: ClockState,
        work: Work,
        *,
        among: Callable[[Sequence[Attempt]], Set[int] | None] | None = None,
        drawn: Callable[[int], Set[int]] | None = None,
        failing: Set[int] = frozenset(),
        session: Callable[[int], Session] | None = None,
    ) -> RoundTimeline:
        """A round, with as many attempts as its policy allows and it needs.

        `among`: places that may take part in the attempt after these; None: all. `drawn`: whom a
        privacy plan draws for each attempt, numbered from 1. `failing`: clients whose program
        fails. A mode learns who they are only by training, and then asks for the round again:
        nobody else's fate changes.
        `session`: makes the aggregation of each attempt; by default one that counts.
        Raises: TaskError where too few clients are ever there, or not in time.
        """
        at, seen = before.at, before.seen
        attempts: list[Attempt] = []
        for attempt in range(1, self._terms.policy.max_attempts + 1):
            policy = self._terms.after(seen)
            places = among(attempts) if among is not None else None
            if drawn is not None:
                places = drawn(attempt)
                policy = _restricted(policy, len(places))
            candidates, begin = self._candidates(number, attempt, at, places, policy, drawn is None)
            run = AttemptRun(
                RoundState.opened("simulated", round=number, attempt=attempt, at=begin),
                policy=policy,
                devices=self._devices,
                work=work,
                candidates=candidates,
                session=session(attempt) if session is not None else self._session(),
                key=self._key("dropout", number, attempt),
                silence_ms=self._terms.silence_ms,
                compute_ms=self._terms.compute_ms,
                failing=failing,
            )
            run.run()
            attempts.append(recorded(run))
            at = attempts[-1].end
            seen = (*seen, seen_in(run.state))[-REMEMBERED:]
            if attempts[-1].completed:
                break
        return RoundTimeline(number, before.at, tuple(attempts), ClockState(at, seen))

    def _session(self) -> Session:
        terms = self._terms.session
        return OpenSession() if terms is None else CountedSession(terms)

    def _key(self, purpose: str, number: int, attempt: int) -> Key:
        return Key(self._devices.seed, purpose, round=number).fold(attempt)

    def _candidates(
        self,
        number: int,
        attempt: int,
        at: int,
        among: Set[int] | None,
        policy: RoundPolicy,
        waits: bool,
    ) -> tuple[Candidates, int]:
        """Who may come, and when the attempt begins: as soon as enough wait for it.

        Where a plan has drawn who takes part, it begins at once, whoever of them is there.
        """
        places = self._devices.order
        if among is not None:
            places = places[np.isin(places, list(among))]
        key = self._key("cohort", number, attempt)
        found = Candidates(self._devices, key, at=at, among=places)
        if not waits or found.there(policy.minimum) >= policy.minimum:
            return found, at
        begin = self._enough(found, places, number, at, policy)
        return Candidates(self._devices, key, at=begin, among=places), begin

    def _enough(
        self, found: Candidates, places: Places, number: int, at: int, policy: RoundPolicy
    ) -> int:
        begin, most = found.first_with(policy.minimum)
        now_s = at / 1000
        if begin == NEVER:
            raise TaskError(
                f"round {number + 1} needs {policy.minimum} clients, and at most {most} of"
                f" {len(places)} are ever there at once after {now_s:g} s",
                why="a round begins when as many clients wait for it as have to report",
                fix=f"let cohort.minimum be {most} at most, or clients be there for longer"
                if most
                else "let clients be there for longer, or end the task before",
                where="cohort.minimum",
            )
        if begin - at > self._patience:
            raise TaskError(
                f"round {number + 1} would wait until {begin / 1000:g} s for"
                f" {policy.minimum} clients",
                why=f"it is {now_s:g} s, and a round waits for {self._patience / 1000:g} s at most",
                fix=f"wait for {(begin - at) / 1000:g} s, or ask for fewer clients",
                where="cohort.minimum",
            )
        return begin


def _restricted(policy: RoundPolicy, count: int) -> RoundPolicy:
    """Whoever comes of those that a plan has drawn is enough, as on a server."""
    wanted = max(1, count)
    return replace(policy, select=wanted, goal=wanted, minimum=1)
