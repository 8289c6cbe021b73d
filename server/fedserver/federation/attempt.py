"""One attempt at a round: the machine's decisions carried out, each only when it may be.

Events go through `fedcore.rounds.step` one at a time. What a client sends is durable before it is
acknowledged and before it becomes an event; a transition is durable before anything that follows
from it. So a server that is killed anywhere finds in its store all that anybody was told.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Final, TypeVar

import structlog

from fedcore.errors import (
    BudgetError,
    DamagedUpdateError,
    FedcoreError,
    LedgerError,
    PrivacyError,
    RoundOverError,
    SecAggError,
    TransitionError,
    UploadError,
)
from fedcore.failpoints import failpoint
from fedcore.federated.payments import Payment
from fedcore.rounds import (
    CLIENT_PHASES,
    ENDS,
    Aggregate,
    Aggregated,
    Arm,
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
from fedcore.secagg import Message
from fedserver.federation.cohort import Cohort
from fedserver.federation.figures import RoundFigures
from fedserver.federation.interface import Train
from fedserver.federation.journal import Journal
from fedserver.federation.left_out import LeftOut
from fedserver.federation.masked import MaskedSession
from fedserver.federation.page import Page
from fedserver.federation.reports import Reports
from fedserver.federation.resources import HostedTask, Resources
from fedserver.federation.results import Result, Results
from fedserver.federation.unwritten import Unwritten
from fedserver.store.records import RoundRef

__all__ = ["INVITED", "PAYMENT", "Attempt"]

PAYMENT, INVITED = "payment", "invited"
_WHOLE_S: Final = 60.0  # how long a base model that was read is taken to be whole
_WAITING = frozenset({Phase.PENDING, Phase.SELECTING, *CLIENT_PHASES})
_T = TypeVar("_T")


class Attempt:
    """A running attempt; `run` it, and tell it by `post` what happens.

    `policy`: its terms, and `why` they select so many. `masked`: its session of secure aggregation,
    None without. `invited`: the clients that the privacy plan has drawn, None where whoever comes
    may take part. `spent_up`: the privacy budget pays for no further round. `got_on`: it has made a
    transition here. `page`: is turned when there may be something new for clients. `left_out`: gets
    whoever is proven to have dealt bad shares.
    """

    def __init__(
        self,
        hosted: HostedTask,
        resources: Resources,
        state: RoundState,
        *,
        policy: RoundPolicy,
        why: str,
        journal: Journal,
        reports: Reports,
        results: Results,
        masked: MaskedSession | None,
        train: Train,
        payment: Payment | None = None,
        invited: frozenset[bytes] | None = None,
    ) -> None:
        self.hosted, self.state, self.policy = hosted, state, _restricted(policy, invited)
        self.reports, self.masked, self.train, self.cohort = reports, masked, train, Cohort()
        self.invited, self.spent_up, self.got_on = invited, False, False
        self._resources, self.journal, self._results = resources, journal, results
        self._why = why
        self._log = structlog.get_logger("fedserver.driver").bind(
            task=self.ref.task_id, round=self.ref.round, attempt=self.ref.attempt
        )
        self._payment = payment
        self._result: Result | None = None
        self._events: asyncio.Queue[Event | Callable[[], Awaitable[None]] | None] = asyncio.Queue()
        self._follow: deque[Event] = deque()
        self._timers: dict[Phase, asyncio.TimerHandle] = {}
        self._writing: set[asyncio.Task[object]] = set()
        self.unwritten = Unwritten()
        self.page, self.left_out = Page(), LeftOut()
        # By a clock that nobody sets: the machine's may jump, and would count everybody as late.
        self._turned_s = asyncio.get_running_loop().time()
        self._scrubbed = self._started = self._held = False
        self._figures = RoundFigures(resources.metrics, state, plan=hosted.task.plan)

    @property
    def ref(self) -> RoundRef:
        """Which attempt it is."""
        return RoundRef(self.state.task_id, self.state.round, self.state.attempt)

    @property
    def over(self) -> bool:
        """Whether nothing more is to be done."""
        return self.state.over and not self._follow and self._scrubbed

    @property
    def waits(self) -> bool:
        """Whether clients are what it waits for."""
        return self.state.phase in _WAITING and not self.state.closing

    def restrict(self, invited: frozenset[bytes]) -> None:
        """From here on only these clients may take part."""
        self.invited = invited
        self.policy = _restricted(self.policy, invited)

    def start(self) -> None:
        """Begins to select clients, if it has not begun."""
        if self.state.phase is Phase.PENDING and not self._started:
            self._started = True
            self.post(Started(self._now(), self._why))

    def post(self, event: Event) -> None:
        """Tells the attempt what has happened, and is durable where that matters."""
        self._events.put_nowait(event)

    def select_nobody(self) -> None:
        """From here on a selection takes nobody, and does not end, until another server has it.

        Whoever waits for it is answered. It is told in turn, so that it cannot come while a cohort
        is being made durable: whoever is in that gets a part.
        """
        self._events.put_nowait(self._hold)

    def stop(self) -> None:
        """Lets `run` return after what it is at, with the attempt left as it is."""
        self._events.put_nowait(None)

    async def run(self) -> None:
        """Goes on until the attempt is over and its secrets are destroyed, or until `stop`.

        Raises: StoreError, BlobError or LeaseLostError; what was durable is to be taken up again.
        """
        watching = asyncio.ensure_future(self._watch())
        try:
            while not self.over and (event := await self._events.get()) is not None:
                await (event() if callable(event) else self.feed(event))
        finally:
            watching.cancel()
            for timer in self._timers.values():
                timer.cancel()
            self.cohort.dismiss()
            self.page.turn()

    async def _watch(self) -> None:
        """Tells of clients that gave no sign of life, or take too long to train."""
        deadlines = self.hosted.task.deadlines
        patience_s = deadlines.heartbeat_s * deadlines.patience
        clock, pause_s = asyncio.get_running_loop().time, deadlines.heartbeat_s / 2
        while True:
            slept_at = clock()
            await asyncio.sleep(pause_s)
            # A process that was stopped, or starved, heard nobody: that is no client's silence.
            deaf_s = clock() - slept_at - pause_s
            self.cohort.excuse(deaf_s)
            self._turned_s += deaf_s
            for client in self.cohort.silent(self.state.pending, longer_than_s=patience_s):
                self.post(Lost(self._now(), client, "no sign of life"))
            late = clock() > self._turned_s + deadlines.compute_s
            if self.state.phase is Phase.COLLECTING and late:
                for client in self.state.pending - self.reports.begun:
                    self.post(Lost(self._now(), client, "no update begun in time"))

    async def feed(self, event: Event) -> None:
        """One event, and all that follows from it at once."""
        if isinstance(event, Started):
            await self._require_base()
        self._follow.append(event)
        while self._follow:
            await self._step(self._follow.popleft())

    async def _require_base(self) -> None:
        """Raises: BlobError where the model was damaged while too few clients came."""
        if asyncio.get_running_loop().time() > self._turned_s + _WHOLE_S:
            await self._resources.blobs.verify(self.train.model_digest)

    async def _hold(self) -> None:
        self._held = True
        self.cohort.dismiss()
        if self.state.phase is Phase.SELECTING:
            for client in self.state.arrived:
                await self.feed(Lost(self._now(), client, "the server drains"))

    async def keep(self, records: Mapping[str, bytes]) -> None:
        """Makes records of the session durable, before any phase is closed."""
        await self.durable(self.unwritten.write(records, self.journal.keep))

    def due(self, client: bytes) -> Message | None:
        """The session's last message to a client, if there is a session and one was sent."""
        return None if self.masked is None else self.masked.due(client)

    async def durable(self, work: Awaitable[_T]) -> _T:
        """Waits for a write that must be finished before a phase may be closed.

        It goes on when its caller is gone: what is half written must not be missed.
        """
        task = asyncio.ensure_future(work)
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
        return await asyncio.shield(task)

    async def _step(self, event: Event) -> None:
        selecting = self.state.phase is Phase.SELECTING
        if self._held and selecting and isinstance(event, CheckedIn | DeadlinePassed):
            return
        try:
            state, effects = step(self.state, event, self.policy)
        except TransitionError:
            # Late, as a client's message may be; what must not be late is never refused.
            return
        if not effects or not isinstance(effects[0], Persist):
            self.state = state
        for effect in effects:
            await self._perform(effect, state)
        if effects:
            self.page.turn()

    async def _perform(self, effect: Effect, state: RoundState) -> None:
        match effect:
            case Persist(transition):
                await self._persist(transition, state)
            case Invite():
                await self._invite()
            case Arm(phase, deadline):
                self._arm(phase, deadline)
            case Close(phase):
                await self._close(phase)
            case Aggregate():
                await self._aggregate()
            case Release():
                await self._release()
            case Publish():
                self._follow.append(Published(self._now()))
            case Scrub():
                await self._scrub()
            case Begin():
                pass  # the driver's, who finds in the store what is to follow

    async def _persist(self, transition: Transition, state: RoundState) -> None:
        failpoint("round.before_persist")
        if state.over or transition.to_phase is Phase.COMPLETED:
            await self._bar_culprits()
        if transition.to_phase is Phase.COMPLETED:
            failpoint("complete.before_commit")
            await self.journal.complete(transition, state, await self._known_result())
            failpoint("complete.after_commit")
        else:
            result = self._result if transition.to_phase is Phase.RELEASING else None
            epsilon = None if result is None else result.epsilon
            if transition.to_phase in ENDS and not state.digest:
                epsilon = await self._spent_in_vain(state.reason)
            await self.journal.advance(
                transition,
                state,
                cohort=self.cohort,
                result=result,
                epsilon=epsilon,
                ledger_head=self.hosted.ledger_head,
            )
        failpoint("round.after_persist")
        before, self.state, self.got_on = self.state, state, True
        self._turned_s = asyncio.get_running_loop().time()
        self._figures.moved(before, self.state, transition, result=self._result)

    async def _bar_culprits(self) -> None:
        """Before the end of the attempt is durable: it goes with what proves them."""
        if self.masked is None:
            return
        # In a thread: of a session that was ended all shares are put together for it.
        for client, how in (await asyncio.to_thread(self.masked.culprits)).items():
            if await self.journal.bar(client, how):
                self._log.warning("client.bad_shares", client=client.hex(), how=how)
            self.left_out.bar(client)

    async def _spent_in_vain(self, reason: str) -> float | None:
        """What the ledger says is spent once an attempt without a model has ended."""
        if self._payment is not None:
            await asyncio.to_thread(self._payment.give_up, reason)
        return await self.hosted.spent()

    async def _invite(self) -> None:
        """Where nothing is masked, what is sent next is all: so it is paid for now."""
        if self.state.phase is not Phase.COLLECTING or self.masked is not None:
            return
        account = self.hosted.account
        # What was paid for before a crash may not say yet who takes part.
        if account is not None and not account.draws_clients:
            await self._guarded(Phase.COLLECTING, self._pay_openly())

    async def _pay_openly(self) -> None:
        payment = await self.paid()
        await asyncio.to_thread(payment.begin, self.state.members, None)

    async def paid(self) -> Payment:
        """What the attempt is paid with, now if it was not before. Raises: BudgetError."""
        account = self.hosted.account
        assert account is not None
        if self._payment is None:
            intent = account.intent()
            await self.journal.keep({PAYMENT: intent})
            self._payment = await asyncio.to_thread(account.pay, self.state.round, intent)
        return self._payment

    async def _guarded(self, phase: Phase, work: Awaitable[None]) -> None:
        """Does what may show that the attempt cannot go on."""
        try:
            await work
        except LedgerError:  # of its disk: the driver opens it again and takes the attempt up
            raise
        except BudgetError as error:
            self.spent_up = True
            self._follow.append(CannotClose(self._now(), phase, _said(error)))
        except (PrivacyError, SecAggError, RoundOverError) as error:
            self._follow.append(CannotClose(self._now(), phase, _said(error)))

    async def _close(self, phase: Phase) -> None:
        while self._writing:
            await asyncio.wait(self._writing)
        self.unwritten.require_none()
        if self.masked is None:
            self._follow.append(Closed(self._now(), phase, frozenset(self.reports.clients)))
        else:
            await self._guarded(phase, self._freeze(phase, self.masked))

    async def _freeze(self, phase: Phase, masked: MaskedSession) -> None:
        if not masked.is_past(phase):
            if phase is Phase.KEYS and self.hosted.account is not None:
                terms = masked.parameters
                payment = await self.paid()
                await asyncio.to_thread(payment.begin, masked.members, terms)
            await self.journal.keep(await asyncio.to_thread(masked.close, phase))
            failpoint("secagg.after_persist")
        remaining = self.state.arrived if phase is Phase.UNMASKING else masked.pending
        self._follow.append(Closed(self._now(), phase, remaining))

    async def _aggregate(self) -> None:
        if await self._results.is_released(self.state.round):
            self._follow.append(Aggregated(self._now()))
        else:
            await self._guarded(Phase.AGGREGATING, self._sum_up())

    async def _sum_up(self) -> None:
        plan = None
        if self.masked is not None:
            plan = await asyncio.to_thread(self.masked.plan)
            await self._bar_culprits()  # also where the attempt is given up for its sum
        try:
            await self.reports.sum_up(self.state.survivors, plan)
        except (DamagedUpdateError, UploadError) as error:
            # To read it again would find the same.
            self._log.error("update.damaged", code=error.code, what=error.what, why=error.why)
            self._follow.append(CannotClose(self._now(), Phase.AGGREGATING, _said(error)))
            return
        self._follow.append(Aggregated(self._now()))

    async def _release(self) -> None:
        try:
            self._result = await self._results.make(
                self.state.round, self.reports, payment=self._payment
            )
        except (FedcoreError, ArithmeticError) as error:
            if isinstance(error, OSError | LedgerError):  # of a disk, and no fault of the sum
                raise
            why = _said(error) if isinstance(error, FedcoreError) else str(error)
            self._follow.append(CannotClose(self._now(), Phase.AGGREGATING, why))
            return
        await self.journal.keep({Results.RECORD: self._result.to_record()})
        self._follow.append(Released(self._now(), self._result.digest))

    async def _known_result(self) -> Result:
        if self._result is None:
            self._result = Result.from_record((await self.journal.kept())[Results.RECORD])
        return self._result

    async def _scrub(self) -> None:
        failpoint("scrub.before")
        await self.journal.scrub()
        self._scrubbed = True
        self._follow.append(Scrubbed(self._now()))

    def _arm(self, phase: Phase, deadline: int) -> None:
        if (old := self._timers.pop(phase, None)) is not None:
            old.cancel()
        delay_s = max(0.0, (deadline - self._now()) / 1000)
        loop = asyncio.get_running_loop()
        self._timers[phase] = loop.call_later(
            delay_s, lambda: self.post(DeadlinePassed(self._now(), phase))
        )

    def _now(self) -> int:
        return self._resources.clock()


def _restricted(policy: RoundPolicy, invited: frozenset[bytes] | None) -> RoundPolicy:
    """Where the plan has drawn who takes part, whoever of them comes is enough.

    To wait for others would tell who was drawn, and to go on only with many would bias the sample.
    """
    if invited is None:
        return policy
    count = max(1, len(invited))
    return replace(policy, select=count, goal=count, minimum=1)


def _said(error: FedcoreError) -> str:
    return f"{error.code} {error.what}" + (f": {error.why}" if error.why else "")
