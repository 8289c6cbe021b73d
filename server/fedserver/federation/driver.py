"""Carries a task out, round after round, until it is done, fails or is cancelled.

Where a driver stands is in the store alone: it may be killed between any two lines, and the next
one goes on from there.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final

import structlog

from fedcore.errors import BudgetError, ConflictError, FedcoreError, LeaseLostError, LedgerError
from fedcore.rounds import Cancel, Phase
from fedserver.federation.attempt import Attempt
from fedserver.federation.base_model import BaseModel
from fedserver.federation.interruptions import Interruptions, words_of
from fedserver.federation.lease import LeaseHolder, held
from fedserver.federation.left_out import LeftOut
from fedserver.federation.opening import open_attempt, open_released, take_up
from fedserver.federation.page import Page
from fedserver.federation.resources import HostedTask, Resources
from fedserver.federation.scrubbing import Scrubbing
from fedserver.federation.turn import Turn
from fedserver.store.records import (
    EARLIER_EPOCHS,
    AuditEntry,
    HeadRecord,
    RoundRecord,
    RoundRef,
    TaskState,
)

__all__ = ["TaskDriver"]

_PAUSE_S: Final = 1.0


class TaskDriver:
    """One task's driver. `owner`: the name under which this server holds leases.

    `left_out`: whom it does not ask. `overtaken`: another server drives the task now. `stopping`:
    it was told to leave the task as it is. `page`: is turned when something may have changed.
    `turn`: for how long it keeps clients waiting.
    """

    def __init__(self, hosted: HostedTask, resources: Resources, *, owner: str) -> None:
        self.hosted, self._resources, self._owner = hosted, resources, owner
        self.attempt: Attempt | None = None
        self.left_out = LeftOut()
        self._asking: Counter[bytes] = Counter()
        self.page, self.turn = Page(), Turn()
        self.overtaken = self.stopping = self._draining = False
        self._interruptions = Interruptions(resources.most_attempts)
        self._ended, self._cancelled = False, ""
        self._base = BaseModel(resources.blobs, hosted.task_id)
        self._log = structlog.get_logger("fedserver.driver").bind(task=hosted.task_id)

    @property
    def ended(self) -> bool:
        """Whether the task has ended, or is about to."""
        return self._ended or bool(self._cancelled)

    @property
    def trouble(self) -> FedcoreError | None:
        """What keeps the task from going on, where it is lasting or has done so again and again."""
        if self._base.trouble is not None and not self.ended:
            return self._base.trouble
        attempt = self.attempt
        if attempt is not None and (attempt.got_on or attempt.waits):
            return None
        return self._interruptions.trouble

    @property
    def waiting(self) -> int:
        """How many clients wait for a selection, however often each of them asks."""
        return len(self._asking)

    @property
    def wants_more(self) -> bool:
        """Whether a client more that waits could be selected yet."""
        entered = 0 if self.attempt is None else self.attempt.cohort.waiting
        return self.waiting + entered < self.hosted.policy.select

    def waits(self, client: bytes, request_id: bytes) -> bool:
        """Whether a call waits for this check-in to be selected."""
        return self.attempt is not None and self.attempt.cohort.waits(client, request_id)

    async def run(self) -> None:
        """Goes on until the task has ended, until `stop`, or until another has its lease."""
        while not self.stopping:
            try:
                async with held(
                    self._resources.store,
                    self.hosted.task_id,
                    self._owner,
                    ttl_ms=self._resources.lease_ms,
                    lost=self._stop_attempt,
                ) as lease:
                    await self._remember_barred()
                    await self._scrubbing(lease).finish()
                    if await self._carry_out(lease):
                        self._ended = True
                        return
            except LeaseLostError as error:
                self._log.warning("driver.overtaken", why=error.why)
                self.overtaken = True
                return
            except Exception as error:
                # What is in memory may be ahead of what is durable: begin again from the latter.
                await self._interrupted(error)
            finally:
                self._let_go()

    def stop(self) -> None:
        """Ends the driver after its present transaction; an open round stays open in the store."""
        self.stopping = True
        self._stop_attempt()

    def drain(self) -> None:
        """From now on nobody is selected, and who waits to be is answered."""
        self._draining = True
        if self.attempt is not None:
            self.attempt.select_nobody()
        self.page.turn()

    def cancel(self, why: str) -> None:
        """Ends the task's open round; the task itself was ended in the store."""
        self._cancelled = why
        self.page.turn()
        if self.attempt is not None:
            self.attempt.post(Cancel(self._resources.clock(), why))

    async def selecting(self, client: bytes, timeout_s: float) -> Attempt | None:
        """The attempt that selects clients now, or will within so many seconds; else None.

        A selection begins when enough clients wait for it: one that nobody came to would be an
        attempt that was lost.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        self._asking[client] += 1
        self.turn.begins(loop.time())
        try:
            while (left := deadline - loop.time()) > 0 and not self._selects_no_more:
                self._start_if_enough()
                attempt = self.attempt
                if attempt is not None and attempt.state.phase is Phase.SELECTING:
                    self.turn.selects()
                    return attempt
                await self.page.turned(left)
            self.turn.in_vain(loop.time())
            return None
        finally:
            self._asking[client] -= 1
            if not self._asking[client]:
                del self._asking[client]

    @property
    def _selects_no_more(self) -> bool:
        return self._draining or self.stopping or self.overtaken or self.ended

    def _stop_attempt(self) -> None:
        """Who waits for a round that is carried out elsewhere by now must not go on waiting."""
        if self.attempt is not None:
            self.attempt.stop()
        self.page.turn()

    def _start_if_enough(self) -> None:
        attempt = self.attempt
        if attempt is None or self._draining:
            return
        drawn = attempt.invited is not None  # by the plan, whoever of them comes
        if drawn or self.waiting >= self.hosted.policy.minimum:
            attempt.start()

    async def _carry_out(self, lease: LeaseHolder) -> bool:
        """Whether the task has ended."""
        overruled = False
        while not self.stopping:
            try:
                if await self._goes_on(lease):
                    return True
            except ConflictError:
                # The store lets no round of a task go on that was ended meanwhile.
                if overruled or not await self._ended_elsewhere():
                    raise
                overruled = True
                self._let_go()
        return False

    async def _goes_on(self, lease: LeaseHolder) -> bool:
        """One attempt more, or what it takes to end; whether the task has ended."""
        head = await self._resources.store.head(self.hosted.task_id)
        assert head is not None
        if not self._cancelled:
            self._cancelled = await self._ended_elsewhere()
        open_now = await self._is_open(head)
        if self._cancelled and not open_now:
            return True
        if open_now and (self._cancelled or self._starts_in_vain(lease)):
            await self._give_up(lease)
            return False
        if head.round >= self.hosted.task.rounds.count:
            return await self._end(lease, TaskState.COMPLETED, "all rounds are completed")
        if self._draining and not open_now:
            await self.page.turned(_PAUSE_S)  # to open an attempt may cost privacy
            return False
        if not await self._base.is_whole(head):
            await self.page.turned(self._base.pause_s)
            return False
        if (self._cancelled or self._draining) and not open_now:
            return False  # it was told so while the model was read
        try:
            attempt = await self._next(head, lease)
        except BudgetError as error:
            return await self._end(lease, TaskState.COMPLETED, error.what)
        if attempt is None:
            why = await self._why_for_good(head.round)
            return await self._end(lease, TaskState.FAILED, why)
        await self._show_spent()
        self._begin(attempt)
        await attempt.run()
        lease()  # which may be why it returned
        if attempt.got_on:
            self._interruptions.forget()
        self._log.info(
            "attempt.ended" if attempt.over else "attempt.left",
            round=attempt.state.round,
            attempt=attempt.state.attempt,
            phase=attempt.state.phase.value,
            reason=attempt.state.reason,
        )
        if attempt.spent_up:
            why = "the privacy budget pays for no further round"
            return await self._end(lease, TaskState.COMPLETED, why)
        return False

    def _starts_in_vain(self, lease: LeaseHolder) -> bool:
        return self._interruptions.too_many(starts=lease().attempts)

    async def _give_up(self, lease: LeaseHolder) -> None:
        """Ends the open attempt without taking it up, which may be what fails."""
        why = self._cancelled
        if not why:
            last = self._interruptions.last
            why = "its driver was started again and again without getting on"
            why += f": {last}" if last else ""
        await self._scrubbing(lease).give_up(
            why, cancelled=bool(self._cancelled), hosted=self.hosted
        )
        self._log.warning("attempt.given_up", why=why)
        self._interruptions.forget()
        await lease.confirm()  # for the count of what was in vain begins anew

    async def _remember_barred(self) -> None:
        """Leaves out whom the task has barred, under whichever server that was."""
        for client in await self._resources.store.barred_clients(self.hosted.task_id):
            self.left_out.bar(client)

    def _scrubbing(self, lease: LeaseHolder) -> Scrubbing:
        hosted = self.hosted
        return Scrubbing(self._resources, hosted.task_id, hosted.policy, lease)

    async def _ended_elsewhere(self) -> str:
        """Why the task has ended, by another server or before a crash; "" if it has not."""
        record = await self._resources.store.task(self.hosted.task_id)
        assert record is not None
        return "" if record.state is TaskState.RUNNING else record.reason or record.state.value

    async def _is_open(self, head: HeadRecord) -> bool:
        record = await self._resources.store.latest_attempt(self.hosted.task_id, head.round)
        return record is not None and record.is_open

    async def _next(self, head: HeadRecord, lease: LeaseHolder) -> Attempt | None:
        """The attempt to go on with, or None where the round has failed for good."""
        store, task_id = self._resources.store, self.hosted.task_id
        record = await store.latest_attempt(task_id, head.round)
        if record is not None and record.is_open:
            return await take_up(self.hosted, self._resources, record, head=head, lease=lease)
        if record is not None and record.phase in (Phase.FAILED.value, Phase.CANCELLED.value):
            return None
        number = 1 if record is None else record.ref.attempt + 1
        ref, open_next = RoundRef(task_id, head.round, number), open_attempt
        if (account := self.hosted.account) is not None:
            if account.ledger.receipt(head.round) is not None:
                if record is not None and await self._released_in_vain(record):
                    return None  # what was released makes no model, and is not released again
                open_next = open_released
            else:
                await asyncio.to_thread(account.require_funds)
        return await open_next(self.hosted, self._resources, ref, head=head, lease=lease)

    async def _released_in_vain(self, latest: RoundRecord) -> bool:
        """Whether the latest attempt had the sum that the ledger has released.

        Else a later one had, of which a database that was restored does not know.
        """
        if latest.reason in EARLIER_EPOCHS:
            return False
        events = await self._resources.store.round_events(latest.ref)
        return any(event.from_phase == Phase.AGGREGATING.value for event in events)

    async def _why_for_good(self, round: int) -> str:
        """What a failed task says; nothing that tells how many took part in a secret sample."""
        record = await self._resources.store.latest_attempt(self.hosted.task_id, round)
        assert record is not None
        count, account = record.ref.attempt, self.hosted.account
        said = f"round {round + 1} failed for good after {count} attempt{'s' if count > 1 else ''}"
        # What fails behind a release follows from what was released, and tells no more than that.
        hidden = (
            account is not None and account.draws_clients and account.ledger.receipt(round) is None
        )
        return f"{said}: {'`fed round list` says how' if hidden else record.reason}"

    def _begin(self, attempt: Attempt) -> None:
        self.attempt, attempt.page, attempt.left_out = attempt, self.page, self.left_out
        if self._cancelled:
            attempt.post(Cancel(self._resources.clock(), self._cancelled))
        self.page.turn()
        if self._draining:  # it was told so while this attempt was opened
            attempt.select_nobody()
        if self.stopping:
            attempt.stop()
        self._start_if_enough()

    async def _interrupted(self, error: Exception) -> None:
        """Says what stopped a round, and lets some time pass: the more, the more often it did."""
        got_on = self.attempt is not None and self.attempt.got_on
        self._let_go()  # nobody waits meanwhile for what is not carried out
        if self.stopping:
            self._log.info("driver.stopped", **words_of(error))
            return
        if got_on:
            self._interruptions.forget()
        pause_s = self._interruptions.note(error)
        self._log.error("driver.interrupted", **words_of(error))
        if isinstance(error, LedgerError) and self.hosted.account is not None:
            try:
                await asyncio.to_thread(self.hosted.account.reopen)
            except Exception as again:  # of the disk, mostly: the next interruption tries it again
                self._log.error("ledger.not_opened_again", **words_of(again))
        await self.page.turned(pause_s)

    async def _show_spent(self) -> None:
        """In the metrics; after a restart nobody else says it before the next release."""
        if (account := self.hosted.account) is not None:
            metrics, task_id = self._resources.metrics, self.hosted.task_id
            spent = await asyncio.to_thread(account.ledger.epsilon)
            metrics.epsilon_spent.labels(task_id).set(spent)
            metrics.epsilon_budget.labels(task_id).set(account.plan.epsilon)

    def _let_go(self) -> None:
        """Whoever waits asks again, and finds what is taken up."""
        if self.attempt is not None:
            self.attempt.cohort.dismiss()
            self.attempt = None
        self.page.turn()

    async def _end(self, lease: LeaseHolder, state: TaskState, why: str) -> bool:
        audit = AuditEntry("driver", f"task.{state.value.lower()}", self.hosted.task_id)
        token = lease().token  # whoever was overtaken ends nothing
        await self._resources.store.set_task_state(
            self.hosted.task_id, state, reason=why, lease_token=token, audit=audit
        )
        self._log.info("task.ended", state=state.value, why=why)
        return True
