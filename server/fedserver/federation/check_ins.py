"""Clients that ask for work: which task, whether now, and else when to come back.

A check-in is durable before it counts. While a selection is open or about to be, it is held, so
that a small population meets without anybody's clock; a large one is told when to come, at once,
where a round is under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from fedcore.federated.task import Task
from fedcore.rounds import CheckedIn, Lost, Phase
from fedcore.rounds.pacing import retry_window
from fedserver.authorisation import Caller
from fedserver.federation.attempt import Attempt
from fedserver.federation.driver import TaskDriver
from fedserver.federation.driving import OtherTask, between, task_of
from fedserver.federation.hosting import Tasks
from fedserver.federation.interface import Assigned, CheckIn, Held, RetryLater
from fedserver.federation.resources import HostedTask
from fedserver.store.records import AssignmentRecord, CheckInRecord

__all__ = ["CheckIns"]

_HELD_S: Final = 15.0
_MOST_HELD: Final = 4096
_LARGE: Final = 10  # times the goal: a population of which most will not be selected
_COUNTED_S: Final = 5.0  # how long a count of the population is believed
_OPEN: Final = (Phase.PENDING, Phase.SELECTING)
_IDLE_MS: Final = (5_000, 15_000)  # where no task is for this client
_DRAINING_MS: Final = (1_000, 5_000)  # about as long as a restart takes
_SOON_MS: Final = (200, 1_000)


class _NotHeldError(Exception):
    """A client is not held until a selection: there are too many, or it may not take part."""


class CheckIns(Tasks):
    """What is answered to who asks for work."""

    _held: int
    _population: tuple[float, int] = (-_COUNTED_S, 0)

    async def check_in(self, caller: Caller, ask: CheckIn, /) -> Assigned | RetryLater:
        """An assignment or a delay; the same answer for the same `request_id`.

        A server that drains gives delays, and to whom it has selected that assignment once more.
        """
        able = [d for d in self._drivers.values() if not d.ended and _able(d.hosted, caller, ask)]
        for one in able:
            one.left_out.comes(caller.id, terms=ask.terms)
        driver, wanted = await self._chosen(caller, able)
        self._require_best(caller, ask, able, driver, wanted=wanted)
        if driver is None:
            return self._counted(RetryLater(*_IDLE_MS, held=_held(caller, able)))
        # Known before it is written, so that one transaction keeps the question and the answer.
        refused = None if await self._holds(driver) else await self._window(driver)
        record = await self._store.check_in(
            caller.id,
            ask.request_id,
            wanted=ask.task_id,
            task_id=driver.hosted.task_id,
            offer={
                "programs": sorted(ask.programs),
                "datasets": sorted(ask.datasets),
                "models": sorted(ask.models),
            },
            sdk_version=ask.sdk_version,
            retry=refused,
        )
        if (answer := await self._answer(record)) is not None:
            return answer if refused is None else self._counted(answer)
        try:
            assignment = await self._selected(driver, caller.id, ask.request_id)
            if assignment is not None:
                return self._counted(_assigned(driver.hosted.task, assignment))
            # Whoever was held in vain comes back at once: the next selection may need everybody.
            window = _DRAINING_MS if self._draining else _SOON_MS
            if driver.waits(caller.id, ask.request_id):  # in another call, which is answered
                return self._counted(RetryLater(*window))
        except _NotHeldError:
            window = await self._window(driver)
        record = await self._store.refuse_check_in(caller.id, ask.request_id, window)
        return self._counted(await self._answer(record) or RetryLater(*window))

    async def _chosen(
        self, caller: Caller, able: Sequence[TaskDriver]
    ) -> tuple[TaskDriver | None, bool]:
        """A task that the client may work for, and whether that one waits for clients now.

        Of those that go on, one that selects, else the first that would hold it: behind a task
        whose round is under way, and that has more clients than it needs, the next one gets some.
        Those whose turn is over come last.
        """
        now_s = asyncio.get_running_loop().time()
        fitting = [driver for driver in able if _may_be_held(driver, caller)]
        fitting.sort(key=lambda driver: (driver.turn.over_until(now_s), not _selects(driver)))
        for driver in fitting:
            if await self._holds(driver) and _may_be_selected(driver, caller):
                return driver, not driver.turn.over_until(now_s)
        return (fitting[0], False) if fitting else (None, False)

    def _require_best(
        self,
        caller: Caller,
        ask: CheckIn,
        able: Sequence[TaskDriver],
        here: TaskDriver | None,
        *,
        wanted: bool,
    ) -> None:
        """Returns where the client is to be answered here, for the task `here` or for none.

        All servers offer the tasks in one order, so that the clients of a small population meet at
        one task, whichever server each of them came to. `wanted`: whether that of `here` has its
        turn and waits for clients; if not, each other server is asked first, and told who was. If
        none of them has a task whose turn it is, all clients meet where the earliest task is.
        Raises: ElsewhereError for a task of another server; DrainingError where there is none but
        tasks that nobody drives just now.
        """
        # Who comes back was everywhere.
        if self._owner in caller.passed or (here is not None and wanted and _selects(here)):
            return
        own = last = len(self._order)
        if here is not None and wanted:
            own = self._order.get(here.hosted.task_id, last)
        elif here is not None:
            caller = replace(caller, passed=caller.passed | {self._owner})
        asked: OtherTask | None = None
        unheld = False
        for task_id, other in self._others.items():
            if self._order[task_id] > own or not self._shared:
                break
            if not _able(other, caller, ask):
                continue
            if other.owner in caller.passed:
                asked = asked or other
            elif task_id in caller.passed:
                continue
            elif other.owner:
                raise self._elsewhere(caller, task_id, other.owner)
            else:
                unheld = True
        if wanted:
            return
        fitting = [d.hosted.task_id for d in able if _may_be_held(d, caller)]
        first = min((self._order.get(task_id, last) for task_id in fitting), default=last)
        if asked is not None and self._order[asked.task_id] < first:
            raise self._elsewhere(caller, asked.task_id, asked.owner)
        if unheld and here is None:
            raise between()

    async def _holds(self, driver: TaskDriver) -> bool:
        """Whether to wait for a selection is better than to come back later."""
        if self._draining:
            return False
        # A selection that needs more than that many would never begin without them.
        if self._held >= _MOST_HELD and not driver.wants_more:
            return False
        attempt = driver.attempt
        if attempt is None or attempt.state.phase in _OPEN:
            return True
        return await self._clients() <= _LARGE * driver.hosted.policy.goal

    async def _clients(self) -> int:
        """How many clients are active, as it was counted some seconds ago at most."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._population[0] >= _COUNTED_S:
            # Before the count, so that it is one who counts and not all that come meanwhile.
            self._population = now_s, self._population[1]
            self._population = now_s, (await self._store.statistics()).clients_active
        return self._population[1]

    async def _selected(
        self, driver: TaskDriver, client: bytes, request_id: bytes
    ) -> AssignmentRecord | None:
        """The assignment of a client once it is selected; None if it is not, or not in time.

        Raises: _NotHeldError for one that would wait for nothing.
        """
        if not await self._holds(driver):
            raise _NotHeldError
        self._held += 1
        try:
            end = asyncio.get_running_loop().time() + _HELD_S
            attempt = await driver.selecting(client, _HELD_S)
            if attempt is None:
                return None
            gone = client in driver.left_out  # perhaps since it asked
            if gone or not await self._may_take_part(attempt, client) or self._draining:
                raise _NotHeldError
            return await self._held_for(attempt, client, request_id, end)
        finally:
            self._held -= 1

    async def _held_for(
        self, attempt: Attempt, client: bytes, request_id: bytes, end: float
    ) -> AssignmentRecord | None:
        waiting = attempt.cohort.enter(client, request_id)
        attempt.post(CheckedIn(self._resources.clock(), client))
        left = max(0.0, end - asyncio.get_running_loop().time())
        try:
            return await asyncio.wait_for(asyncio.shield(waiting.answer), left)
        except TimeoutError:
            return None
        finally:
            # Whoever has gone away is not to be counted on; if it was selected, it is told again.
            if not waiting.answer.done() and attempt.cohort.leave(client, waiting):
                attempt.post(Lost(self._resources.clock(), client, "left while it waited"))

    async def _may_take_part(self, attempt: Attempt, client: bytes) -> bool:
        if attempt.invited is not None:
            return client in attempt.invited
        account = attempt.hosted.account
        return account is None or await asyncio.to_thread(account.may_take_part, client)

    async def _answer(self, record: CheckInRecord) -> Assigned | RetryLater | None:
        if record.assignment_id:
            assignment = await self._store.assignment(record.assignment_id)
            task = await self._task_of(record.task_id)
            if assignment is not None and task is not None:
                return _assigned(task, assignment)
        return None if record.retry is None else RetryLater(*record.retry)

    async def _task_of(self, task_id: str) -> Task | None:
        """The task of an assignment: also one that has ended, which is told when asked."""
        if (driver := self._drivers.get(task_id)) is not None:
            return driver.hosted.task
        record = await self._store.task(task_id)
        return None if record is None else await asyncio.to_thread(task_of, record)

    async def _window(self, driver: TaskDriver) -> tuple[int, int]:
        """When to come back: for the next selection, as far as anybody can tell."""
        if self._draining:
            return _DRAINING_MS
        now, rate = self._resources.clock(), self._resources.check_ins_per_second
        attempt = driver.attempt
        selection_ms = driver.hosted.policy.durations[Phase.SELECTING]
        begins = now if attempt is None else attempt.state.deadline or now
        shortest, longest = retry_window(await self._clients(), rate, begins, selection_ms, now)
        # A round may end long before its deadline, and whoever may be selected shall not miss it.
        return min(shortest, _SOON_MS[1]), min(max(longest, _SOON_MS[1]), 2 * selection_ms)

    def _counted(self, answer: Assigned | RetryLater) -> Assigned | RetryLater:
        kind = "assigned" if isinstance(answer, Assigned) else "later"
        self._resources.metrics.check_ins.labels(kind).inc()
        return answer


def _selects(driver: TaskDriver) -> bool:
    return driver.attempt is not None and driver.attempt.state.phase is Phase.SELECTING


def _may_be_held(driver: TaskDriver, caller: Caller) -> bool:
    """Whether the task goes on, and not without the client."""
    return caller.id not in driver.left_out and driver.trouble is None


def _may_be_selected(driver: TaskDriver, caller: Caller) -> bool:
    """Whether a selection that is open could take the client; one to come may draw others."""
    invited = None if driver.attempt is None else driver.attempt.invited
    return not _selects(driver) or invited is None or caller.id in invited


def _held(caller: Caller, able: Sequence[TaskDriver]) -> Held | None:
    """Of the tasks that the client has refused, the one that it is offered again first."""
    found = [
        Held(driver.hosted.task_id, refusal.why, refusal.left_s)
        for driver in able
        if (refusal := driver.left_out.refusal(caller.id)) is not None
    ]
    return min(found, key=lambda held: held.left_s, default=None)


def _able(hosted: HostedTask | OtherTask, caller: Caller, ask: CheckIn) -> bool:
    """Whether the client can work for the task, if it may."""
    task = hosted.task
    return (
        hosted.tenant == caller.tenant
        and ask.task_id in ("", hosted.task_id, task.name)
        and task.data.dataset in ask.datasets
        and (task.training.program == "local" or task.training.program in ask.programs)
        and (task.model.name is None or task.model.name in ask.models)
    )


def _assigned(task: Task, assignment: AssignmentRecord) -> Assigned:
    return Assigned(
        assignment_id=assignment.assignment_id,
        ref=assignment.ref,
        task_digest=task.digest,
        nonce=assignment.nonce,
        heartbeat_ms=int(1000 * task.deadlines.heartbeat_s),
        deadline_ms=assignment.expires_ms,
    )
