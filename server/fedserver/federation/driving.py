"""Which tasks this server drives, and which others do that share its database.

Whoever holds a task's lease has its rounds in memory, its uploads open and its ledger locked, so
that all that is asked about the task is answered there. Every server looks now and then for tasks
that nobody drives, and takes them up; of several that try, one gets the lease, and the others let
go of what they opened. A call about a task that another server drives raises `ElsewhereError`, for
whoever serves it to pass it on. It is passed on for a task once: where it comes to must drive that
task, or the caller is asked to come again, as after a restart.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from fedcore.errors import (
    DrainingError,
    FedcoreError,
    LeaseLostError,
    LedgerBusyError,
    TaskError,
)
from fedcore.federated.algorithms import algorithm_of
from fedcore.federated.payments import Accounts
from fedcore.federated.task import Task
from fedcore.privacy import Head
from fedserver.authorisation import Caller
from fedserver.federation.driver import TaskDriver
from fedserver.federation.interface import ElsewhereError
from fedserver.federation.interruptions import unforeseen, words_of
from fedserver.federation.journal import SCRUB
from fedserver.federation.lease import held
from fedserver.federation.leftovers import discard_uploads
from fedserver.federation.resources import HostedTask, Resources
from fedserver.federation.scrubbing import Scrubbing, scrubbed_ref
from fedserver.store.records import HeadRecord, TaskRecord, TaskState

__all__ = ["Drivers", "OtherTask", "between", "checkpoint_of", "task_of"]

_LOG: Final = structlog.get_logger("fedserver.federation")
_RETRY_MS: Final = (1_000, 3_000)
_SOON_MS: Final = (100, 500)  # about as long as a round takes to be taken up here
_TROUBLED_MS: Final = (5_000, 15_000)  # about as long as a driver pauses that fails again and again
_MENDED_MS: Final = (30_000, 60_000)  # a person has to come
_MOST_PASSED: Final = 16  # tasks for which one call is passed on, and servers that have done so
# With these a ledger may be opened a moment later. One that is damaged, or not there, is left
# alone: a person may be putting it back just now.
_MOMENTARY: Final = frozenset(
    {
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOLCK,
        errno.EIO,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.ESTALE,
        errno.ETIMEDOUT,
        errno.EBUSY,
    }
)


@dataclass(frozen=True, slots=True)
class OtherTask:
    """A running task that is not driven here. `owner`: of its lease; "" where nobody has it."""

    task_id: str
    tenant: str
    task: Task
    owner: str


class Drivers:
    """The drivers of a server.

    `owner`: the name under which it holds leases. `shared`: whether other servers have the same
    database; the names are then addresses at which they reach each other.
    """

    def __init__(
        self, resources: Resources, accounts: Accounts, *, owner: str, shared: bool = False
    ) -> None:
        self._resources, self._accounts, self._owner = resources, accounts, owner
        self._store, self._spool, self._shared = resources.store, resources.spool, shared
        self._lease_ms = resources.lease_ms
        self._drivers: dict[str, TaskDriver] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._others: dict[str, OtherTask] = {}  # in the order in which they were submitted
        self._order: Mapping[str, int] = {}  # of all that run
        self._left: dict[str, FedcoreError] = {}  # running tasks that cannot be taken up, and why
        self._looking: asyncio.Task[None] | None = None
        self._draining = False

    async def start(self) -> None:
        """Takes up every running task that nobody drives, and forgets uploads of none.

        A task that cannot be taken up, as one whose ledger is damaged, does not keep the others
        from going on; it stays as it is until the next start, or until a disk works again.
        """
        await discard_uploads(self._store, self._spool)
        await self._take_up()
        self._looking = asyncio.create_task(self._look())

    async def drain(self) -> None:
        """From now on no selection takes anybody; who waits is answered."""
        self._draining = True
        for driver in self._drivers.values():
            driver.drain()

    async def stop(self) -> None:
        """Ends the drivers after their present transaction, and lets go of the ledgers."""
        await self.drain()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        for driver in self._drivers.values():
            driver.stop()
        await asyncio.gather(*self._running.values(), return_exceptions=True)
        await asyncio.to_thread(self._accounts.close)

    async def _look(self) -> None:
        """Looks for tasks to take up, for ever."""
        while True:
            await asyncio.sleep(self._lease_ms / 10_000)
            try:
                await self._take_up()
            except Exception as error:  # whatever it was, the next look may do
                _LOG.error("tasks.not_seen", **words_of(error))

    async def _take_up(self) -> None:
        others, order = dict[str, OtherTask](), dict[str, int]()
        for record in await self._store.tasks(state=TaskState.RUNNING):
            order[record.task_id] = len(order)
            if record.task_id not in self._drivers and (found := await self._seen(record)):
                others[record.task_id] = found
        self._others, self._order = others, order
        for task_id in await self._unfinished() - order.keys():
            if (ended := await self._store.task(task_id)) is not None:
                await self._tell(ended)
        if cancelled := self._left.keys() - order.keys():
            for task_id in cancelled - await self._unfinished():
                del self._left[task_id]
        # Also what is left of one that was cancelled, where that cannot be destroyed.
        seen = order.keys() | self._drivers.keys()
        stand_still = [task_id for task_id in seen if self._trouble(task_id) is not None]
        self._resources.metrics.tasks_not_taken_up.set(len(stand_still))

    def _trouble(self, task_id: str) -> FedcoreError | None:
        """What keeps a task from going on here, if anything does."""
        driver = self._drivers.get(task_id)
        return self._left.get(task_id) if driver is None else driver.trouble

    async def _tell(self, record: TaskRecord) -> None:
        """Lets a task that has ended, behind its driver's back or without one, end its rounds."""
        if (driver := self._drivers.get(record.task_id)) is None:
            await self._seen(record)
        elif record.state is TaskState.CANCELLED and not driver.ended:
            driver.cancel(record.reason or record.state.value)

    async def _seen(self, record: TaskRecord) -> OtherTask | None:
        """As `_found`; what goes wrong with one task keeps no other from being looked at."""
        try:
            found = await self._found(record)
            if record.state is not TaskState.RUNNING and record.task_id in self._left:
                await self._give_up(record)
            return found
        except LeaseLostError as error:  # another server was faster
            _LOG.info("task.not_seen", task=record.task_id, **words_of(error))
        except Exception as error:
            _LOG.error("task.not_seen", task=record.task_id, **words_of(error))
        return self._others.get(record.task_id)

    async def _found(self, record: TaskRecord) -> OtherTask | None:
        """What a task is that is not taken up now."""
        lease = await self._store.lease(record.task_id)
        owner = "" if lease is None or lease.owner == self._owner else lease.owner
        wanted = not owner and not self._draining and not await self._is_begun_elsewhere(record)
        return None if wanted and await self._took_up(record) else await self._other(record, owner)

    async def _is_begun_elsewhere(self, record: TaskRecord) -> bool:
        """Whether the server to which a task was handed in is about to take its first lease."""
        if not self._shared or self._resources.clock() > record.submitted_ms + self._lease_ms:
            return False
        return await self._store.latest_attempt(record.task_id, 0) is None

    async def _unfinished(self) -> frozenset[str]:
        """The tasks of which something is to be ended or destroyed, though they run no more (W10).

        As of one that was cancelled, by a server that was killed then.
        """
        scrubs = [e for e in await self._store.outbox_pending(limit=1000) if e.topic == SCRUB]
        refs = [scrubbed_ref(entry.payload) for entry in scrubs]
        refs += [record.ref for record in await self._store.open_rounds()]
        return frozenset(ref.task_id for ref in refs)

    async def _took_up(self, record: TaskRecord) -> bool:
        before = self._left.get(record.task_id)
        if before is not None and not _is_momentary(before):
            return False
        head = await self._store.head(record.task_id)
        try:
            hosted = await asyncio.to_thread(self._hosted, record, head)
        except LedgerBusyError:  # a server that stands still has it, or one that is letting go
            return False
        except Exception as error:
            known = error if isinstance(error, FedcoreError) else unforeseen(error)
            self._left[record.task_id] = known
            if before is None or str(before) != str(known):
                _LOG.error("task.not_taken_up", task=record.task_id, **words_of(error))
            return False
        self._left.pop(record.task_id, None)
        self._drive(hosted)
        return True

    async def _give_up(self, record: TaskRecord) -> None:
        """Ends the rounds of a task that was cancelled because nobody could take it up."""
        try:
            policy = task_of(record).policy()
        except TaskError:  # of another version of the program, whose rounds are not known here
            return
        async with held(
            self._store, record.task_id, self._owner, ttl_ms=self._lease_ms, lost=lambda: None
        ) as lease:
            scrubbing = Scrubbing(self._resources, record.task_id, policy, lease)
            await scrubbing.give_up(record.reason or record.state.value, cancelled=True)

    async def _other(self, record: TaskRecord, owner: str) -> OtherTask | None:
        known = self._others.get(record.task_id)
        try:
            task = known.task if known else await asyncio.to_thread(task_of, record)
        except TaskError:  # of another version of the program: nobody can be asked for it
            return None
        return OtherTask(record.task_id, record.tenant, task, owner)

    def _drive(self, hosted: HostedTask) -> None:
        if hosted.task_id in self._drivers:  # found by a look just after it was submitted
            return
        driver = TaskDriver(hosted, self._resources, owner=self._owner)
        if self._draining:
            driver.drain()
        self._drivers[hosted.task_id] = driver
        # In a context of its own: what it logs is not about the call that happened to begin it.
        self._running[hosted.task_id] = asyncio.create_task(
            self._carry_out(driver), context=contextvars.Context()
        )

    async def _carry_out(self, driver: TaskDriver) -> None:
        task_id = driver.hosted.task_id
        try:
            await driver.run()
        except Exception as error:  # the next look takes the task up again
            _LOG.error("driver.lost", task=task_id, **words_of(error))
        finally:
            if driver.ended or driver.overtaken:
                self._resources.metrics.forget_budget(task_id, spent=driver.overtaken)
            if not driver.stopping:  # else the server keeps saying that it carries the task out
                await self._forget(driver)

    async def _forget(self, driver: TaskDriver) -> None:
        """Lets go of a task that has ended, or that another server or another driver takes up."""
        task_id = driver.hosted.task_id
        try:
            await asyncio.to_thread(self._accounts.let_go, task_id)
        finally:
            del self._drivers[task_id], self._running[task_id]
            driver.page.turn()  # who waits for a change finds that nobody will make one

    async def _pass_on(self, caller: Caller, task_id: str) -> None:
        """Raises: ElsewhereError if another server drives the task, and has not passed this on."""
        if not self._shared or task_id in self._drivers or task_id in caller.passed:
            return
        lease = await self._store.lease(task_id)
        if lease is not None and lease.owner != self._owner:
            raise self._elsewhere(caller, task_id, lease.owner)

    async def _require_here(self, caller: Caller, task_id: str) -> None:
        """Raises: as `_pass_on`; DrainingError while a task that runs is not carried out.

        As before its round is taken up, or until an operator has mended what keeps it from that:
        who were told that the round is over would not come again.
        """
        await self._pass_on(caller, task_id)
        if task_id in self._left:
            raise _stands_still()
        if (driver := self._drivers.get(task_id)) is not None:
            if driver.attempt is None and not driver.ended:
                raise between(_SOON_MS if driver.trouble is None else _TROUBLED_MS)
        else:
            record = await self._store.task(task_id)
            if record is not None and record.state is TaskState.RUNNING:
                raise between()

    @staticmethod
    def _elsewhere(caller: Caller, task_id: str, owner: str) -> Exception:
        if len(caller.passed) >= _MOST_PASSED:
            return between()
        return ElsewhereError(owner, caller.passed | {task_id})

    def _hosted(self, record: TaskRecord, head: HeadRecord | None) -> HostedTask:
        task = task_of(record)
        account = None
        if task.plan is not None:
            account = (
                self._accounts.create(record.task_id, task.plan)
                if head is None
                else self._accounts.open(record.task_id, task.plan, checkpoint=checkpoint_of(head))
            )
        return HostedTask(
            task_id=record.task_id,
            tenant=record.tenant,
            task=task,
            policy=task.policy(),
            algorithm=algorithm_of(task),
            account=account,
            config=None if task.secure_aggregation is None else task.session_config(),
        )


def _is_momentary(error: FedcoreError) -> bool:
    """Whether a task that could not be taken up for this may be at the next look."""
    cause = error.__cause__
    of_system = isinstance(cause, OSError) and cause.errno in _MOMENTARY
    return of_system or isinstance(cause, MemoryError)


def task_of(record: TaskRecord) -> Task:
    """The task as it was handed in. Raises: TaskError for one of another version."""
    return Task.from_canonical(record.spec)


def checkpoint_of(head: HeadRecord | None) -> Head | None:
    """The ledger's head that stands beside the newest model of a task."""
    if head is None or not head.ledger_head:
        return None
    return Head.from_json(json.loads(head.ledger_head))


def between(retry: tuple[int, int] = _RETRY_MS) -> DrainingError:
    """What to raise for a call about a task that passes from one server to another just now.

    `retry`: after how many milliseconds to ask again, from and to.
    """
    return DrainingError(
        "no server carries this task out just now",
        why="one has ended or stands still, and another takes its tasks up when its leases end",
        fix="ask again in a moment",
        retry=retry,
    )


def _stands_still() -> DrainingError:
    return DrainingError(
        "the task stands still",
        why="the server cannot go on with it, and its operator is told why",
        fix="ask again later",
        retry=_MENDED_MS,
    )
