"""Whether clients may take part often enough for all rounds: told before the first of them.

Who takes part, and which attempts are paid for in vain, depends on devices and seed alone, and on
nothing that is trained. So all rounds can be gone through before, as they will be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import suppress
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np

from fedcore.errors import FedcoreError, TaskError
from fedcore.federated.task import Task
from fedcore.privacy import PrivacyPlan, Uncontrolled
from fedcore.privacy.participation import ParticipationTable
from fedcore.privacy.rdp import compose, epsilon
from fedsim.clock import Attempt, ClockState, SynchronousClock, Work
from fedsim.modes.payments import allowed_places, members_of
from fedsim.scenario import Scenario
from fedsim.world import World

__all__ = ["require_participations"]

# A round takes 2 ms, and of 10,000 clients 4 ms: all that is gone through takes some seconds.
_MOST_LOOKS: Final = 3000
_CLIENTS_A_LOOK: Final = 10_000


def require_participations(
    scenario: Scenario, world: World, clock: SynchronousClock, work: Work
) -> None:
    """Raises: TaskError, with what would do, where privacy lets too few clients come so often.

    And where attempts that are given up use up the whole budget before anything is released. A
    round that would end the run without such bounds, too, is left to itself; so is one so late, or
    of so many clients, that to look for it would take longer than some seconds.
    """
    task, plan = scenario.task, scenario.task.plan
    if plan is None or not isinstance(plan.sampling, Uncontrolled):
        return
    bounds, names = plan.sampling, world.population.names
    if _is_ample(scenario, bounds, clients=len(names)):
        return
    rounds = _Rounds(task, names, clock, work)
    try:
        payable = _payable(plan, rounds.attempts)
        course = rounds.course(bounds, payable=payable)
        if not course.starved:
            if not course.released:
                raise _unpaid(task, bounds, rounds, payable)
            return
        free = Uncontrolled(1, rounds.attempts)
        if rounds.course(free, payable=rounds.attempts).released <= course.released:
            return
    except _LongError:
        return
    raise TaskError(
        f"round {course.released + 1} of {task.rounds.count} finds too few clients that may still "
        "take part",
        why=f"each of {len(names)} takes part {bounds.maximum_participations} times at most and "
        f"{bounds.minimum_separation} or more rounds apart; a round takes up to "
        f"{task.cohort.select} of them, and needs {task.cohort.minimum}",
        fix=", or ".join(_remedies(task, bounds, rounds, course.released))
        or "simulate more clients, or lose fewer (devices)",
        where="privacy.maximum_participations",
    )


def _is_ample(scenario: Scenario, bounds: Uncontrolled, *, clients: int) -> bool:
    """Whether enough may take part in the last round, whoever came in those before it."""
    task, apart = scenario.task, bounds.minimum_separation
    count, most = task.rounds.count, bounds.maximum_participations
    if not scenario.devices.ideal:
        return False  # who is lost or away, and in how many attempts, is for the rounds to tell
    recent, earlier = min(apart, count) - 1, max(0, count - apart)
    used_up = earlier / most if most < count else 0.0
    return clients - (recent + used_up) * task.cohort.select >= task.cohort.minimum


def _payable(plan: PrivacyPlan, attempts: int) -> int:
    """How many of so many attempts the budget pays for."""
    low, high = 0, attempts + 1
    while high - low > 1:
        middle = (low + high) // 2
        cost, _ = epsilon(compose(plan.spend(middle), plan.adjacency), plan.failure)
        low, high = (middle, high) if cost <= plan.epsilon else (low, middle)
    return low


def _unpaid(task: Task, bounds: Uncontrolled, rounds: _Rounds, payable: int) -> TaskError:
    payments, _ = rounds.payments(bounds, task.rounds.count)
    remedies, through = [], "enough clients come through none"
    if payments:
        needed, through = payments[0], f"enough clients come through number {payments[0]} first"
        with suppress(FedcoreError, _LongError):
            changed = replace(task, rounds=replace(task.rounds, count=needed), plan=None)
            course = rounds.course(bounds, count=needed)
            if course.released and not course.starved and changed.resolved():
                remedies.append(f"set rounds.count = {needed}, whose noise pays for them")
    return TaskError(
        "the privacy budget is used up before the first round comes to its end",
        why=f"it pays for {payable} attempts, and {through}: what clients were asked for is paid "
        "for, whatever comes of it",
        fix=", or ".join([*remedies, "let cohort.minimum be less, or lose fewer (devices)"]),
        where="rounds.count",
    )


def _remedies(task: Task, bounds: Uncontrolled, rounds: _Rounds, done: int) -> Iterator[str]:
    """What would do: each was gone through, and its noise can be planned."""
    with suppress(_LongError):
        yield from _other_bounds(task, bounds, rounds)
    with suppress(_LongError, FedcoreError):
        while done and (less := rounds.course(bounds, count=done).released) < done:
            done = less
        if done:
            replace(task, rounds=replace(task.rounds, count=done), plan=None).resolved()
            yield f"set rounds.count = {done}"


def _other_bounds(task: Task, bounds: Uncontrolled, rounds: _Rounds) -> Iterator[str]:
    promise = task.privacy
    assert promise is not None
    # Who may come once a round may come always; more often than that, failed attempts are not paid.
    most = max(bounds.maximum_participations, task.rounds.count)
    apart = _nearest(
        lambda apart: rounds.suffice(Uncontrolled(apart, most)), bounds.minimum_separation, 1
    )
    if apart is None:
        return
    found = _nearest(
        lambda most: rounds.suffice(Uncontrolled(apart, most)), bounds.maximum_participations, most
    )
    assert found is not None
    terms = {"maximum_participations": found, "minimum_separation": apart}
    said = [
        f"privacy.{name} = {value}"
        for name, value in terms.items()
        if value != getattr(bounds, name)
    ]
    changed = replace(promise, maximum_participations=found, minimum_separation=apart)
    with suppress(FedcoreError):
        replace(task, privacy=changed, plan=None).resolved()
        yield f"set {' and '.join(said)}"


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


class _LongError(Exception):
    """To go on looking would take too long."""


class _Course(NamedTuple):
    """How many rounds are released; whether too few may take part in the one after them."""

    released: int
    starved: bool


class _Rounds:
    """The rounds of a task with privacy, gone through without any training.

    `attempts`: how many there are at most.
    """

    def __init__(
        self, task: Task, names: Sequence[str], clock: SynchronousClock, work: Work
    ) -> None:
        self._task, self._clock, self._work = task, clock, work
        self._names = tuple(name.encode() for name in names)
        self._looks = _MOST_LOOKS / (1 + len(names) / _CLIENTS_A_LOOK)
        self.attempts = task.rounds.count * task.rounds.max_attempts

    def suffice(self, bounds: Uncontrolled) -> bool:
        """Whether all of them come to their ends. Raises: _LongError."""
        return self.course(bounds).released == self._task.rounds.count

    def course(
        self, bounds: Uncontrolled, *, count: int | None = None, payable: int | None = None
    ) -> _Course:
        """What becomes of `count` rounds under these bounds. Raises: _LongError.

        `payable`: how many attempts the budget pays for; by default as many as it surely does once
        its noise is planned for these bounds and this count.
        """
        count = self._task.rounds.count if count is None else count
        if payable is None:
            payable = self.attempts if bounds.maximum_participations <= count else count
        payments, paid = self.payments(bounds, count)
        released = sum(paid <= payable for paid in payments)
        return _Course(released, released == len(payments) < count and paid <= payable)

    def payments(self, bounds: Uncontrolled, count: int) -> tuple[list[int], int]:
        """For how many attempts was paid by the end of each round, up to one that has none.

        And with the attempts at that one. Raises: _LongError.
        """
        visits, payments = _Visits(self._task, self._names, bounds), list[int]()
        before = ClockState()
        for number in range(count):
            if self._looks < 1:
                raise _LongError
            self._looks -= 1
            try:
                timeline = self._clock.round(number, before, self._work, among=visits.allowed)
            except FedcoreError:
                break
            visits.settle(timeline.attempts)
            if not timeline.completed:
                break
            visits.released()
            before = timeline.after
            payments.append(visits.paid)
        return payments, visits.paid


class _Visits:
    """Who took part and was paid for, as a run's ledger keeps it. `paid`: for how many attempts.

    Once it is known who takes part in an attempt, no ledger takes its payment back.
    """

    def __init__(self, task: Task, names: Sequence[bytes], bounds: Uncontrolled) -> None:
        assert task.plan is not None
        self._names, self._needed = names, task.cohort.minimum
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
                self.paid += 1
        self._settled = len(attempts)

    def released(self) -> None:
        """The round's last attempt has led to a release."""
        self._table.release()
        self._settled = 0
