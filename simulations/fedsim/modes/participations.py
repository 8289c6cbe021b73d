"""Whether clients may take part often enough for all rounds: told before the first of them.

Who takes part depends on devices and seed alone, and on nothing that is trained. So all rounds can
be gone through before, as they will be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import suppress
from dataclasses import replace
from typing import Final

import numpy as np

from fedcore.errors import FedcoreError, TaskError
from fedcore.federated.task import Task
from fedcore.privacy import CentralNoise, Uncontrolled
from fedcore.privacy.participation import ParticipationTable
from fedsim.clock import Attempt, ClockState, SynchronousClock, Work
from fedsim.devices import DevicesSpec
from fedsim.modes.payments import allowed_places, members_of
from fedsim.scenario import Scenario
from fedsim.world import World

__all__ = ["require_participations"]

_IDEAL: Final = DevicesSpec()


def require_participations(
    scenario: Scenario, world: World, clock: SynchronousClock, work: Work
) -> None:
    """Raises: TaskError, with what would do, where privacy lets too few clients come so often.

    A round that would end the run without such bounds, too, is left to itself.
    """
    task, plan = scenario.task, scenario.task.plan
    if plan is None or not isinstance(plan.sampling, Uncontrolled):
        return
    bounds, names = plan.sampling, world.population.names
    if _is_ample(scenario, bounds, clients=len(names)):
        return
    rounds = _Rounds(task, names, clock, work)
    if (done := rounds.through(bounds)) == task.rounds.count:
        return
    if rounds.through(Uncontrolled(1, _unbounded(task))) <= done:
        return
    raise TaskError(
        f"round {done + 1} of {task.rounds.count} finds too few clients that may still take part",
        why=f"each of {len(names)} takes part {bounds.maximum_participations} times at most and "
        f"{bounds.minimum_separation} or more rounds apart; a round takes up to "
        f"{task.cohort.select} of them, and needs {task.cohort.minimum}",
        fix=", or ".join(_remedies(task, bounds, rounds, done)) or "simulate more clients",
        where="privacy.maximum_participations",
    )


def _is_ample(scenario: Scenario, bounds: Uncontrolled, *, clients: int) -> bool:
    """Whether enough may take part in the last round, whoever came in those before it."""
    task, apart = scenario.task, bounds.minimum_separation
    count, most = task.rounds.count, bounds.maximum_participations
    if apart == 1 and most >= _unbounded(task):
        return True
    if scenario.devices != _IDEAL:
        return False  # who is lost or away, and in how many attempts, is for the rounds to tell
    recent, earlier = min(apart, count) - 1, max(0, count - apart)
    kept_away = (recent + earlier / most) * task.cohort.select
    return clients - kept_away >= task.cohort.minimum


def _unbounded(task: Task) -> int:
    """More often than this nobody can take part."""
    return task.rounds.count * task.rounds.max_attempts


def _remedies(task: Task, bounds: Uncontrolled, rounds: _Rounds, done: int) -> Iterator[str]:
    """What would do: each was gone through, and its noise can be planned."""
    promise = task.privacy
    assert promise is not None
    unbounded = _unbounded(task)
    apart = _nearest(
        lambda apart: rounds.suffice(Uncontrolled(apart, unbounded)), bounds.minimum_separation, 1
    )
    if apart is not None:
        most = _nearest(
            lambda most: rounds.suffice(Uncontrolled(apart, most)),
            bounds.maximum_participations,
            unbounded,
        )
        assert most is not None
        terms = {"maximum_participations": most, "minimum_separation": apart}
        said = [
            f"privacy.{name} = {value}"
            for name, value in terms.items()
            if value != getattr(bounds, name)
        ]
        changed = replace(promise, maximum_participations=most, minimum_separation=apart)
        with suppress(FedcoreError):
            replace(task, privacy=changed, plan=None).resolved()
            yield f"set {' and '.join(said)}"
    if done:
        with suppress(FedcoreError):
            replace(task, rounds=replace(task.rounds, count=done), plan=None).resolved()
            yield f"set rounds.count = {done}"


def _nearest(holds: Callable[[int], bool], wanted: int, sure: int) -> int | None:
    """The number next to `wanted` on the way to `sure` that was seen to hold; None if none was."""
    if holds(wanted):
        return wanted
    if not holds(sure):
        return None
    step = 1 if sure > wanted else -1
    broken, held = wanted, sure
    while held - broken != step:
        middle = (broken + held) // 2
        broken, held = (broken, middle) if holds(middle) else (middle, held)
    return held


class _Rounds:
    """The rounds of a task with privacy, gone through without any training."""

    def __init__(
        self, task: Task, names: Sequence[str], clock: SynchronousClock, work: Work
    ) -> None:
        self._task, self._clock, self._work = task, clock, work
        self._names = tuple(name.encode() for name in names)

    def suffice(self, bounds: Uncontrolled) -> bool:
        """Whether enough may take part in each of them."""
        return self.through(bounds) == self._task.rounds.count

    def through(self, bounds: Uncontrolled) -> int:
        """How many come before one that too few take part in."""
        count = self._task.rounds.count
        visits = _Visits(self._task, self._names, bounds)
        before = ClockState()
        for number in range(count):
            if visits.paid >= count:
                return count  # what was paid for in vain has used up the budget
            try:
                timeline = self._clock.round(number, before, self._work, among=visits.allowed)
            except FedcoreError:
                return number
            visits.settle(timeline.attempts)
            if not timeline.completed:
                return number
            visits.released()
            before = timeline.after
        return count


class _Visits:
    """Who took part and was paid for, as a run's ledger keeps it. `paid`: for how many attempts."""

    def __init__(self, task: Task, names: Sequence[bytes], bounds: Uncontrolled) -> None:
        assert task.plan is not None
        self._names, self._needed = names, task.cohort.minimum
        self._takes_back = isinstance(task.plan.noise, CentralNoise)
        self._table = ParticipationTable(
            bounds.minimum_separation, bounds.maximum_participations, task.plan.population
        )
        self._settled = self.paid = 0

    def allowed(self, attempts: Sequence[Attempt]) -> Set[int]:
        """Who may take part after these attempts at a round. Raises: BudgetError for too few."""
        self.settle(attempts)
        may = np.ones(len(self._names), bool)
        may[self._table.refused(self._names, anew=True)] = False
        return allowed_places(may, needed=self._needed)

    def settle(self, attempts: Sequence[Attempt]) -> None:
        """Takes down each attempt that asked clients for updates, once."""
        for attempt in attempts[self._settled :]:
            if members := members_of(attempt):
                self._table.begin()
                self._table.admit([self._names[place] for place in members])
                self.paid += attempt.completed or not self._takes_back
        self._settled = len(attempts)

    def released(self) -> None:
        """The round's last attempt has led to a release."""
        self._table.release()
        self._settled = 0
