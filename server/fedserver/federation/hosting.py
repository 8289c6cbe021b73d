"""The tasks that a server carries out: taken from an author, shown, ended."""

from __future__ import annotations

import asyncio
import hashlib
import math
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from fedcore.errors import (
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    PrivacyError,
    TaskError,
)
from fedcore.federated.payments import Accounts, draws_clients
from fedcore.federated.task import Task
from fedcore.privacy import PrivacyPlan
from fedcore.rounds import Phase
from fedcore.rounds.waiting import waiting_for
from fedcore.secagg.identity import verify_signature
from fedcore.wire.envelope import TASK, Place, signed_bytes
from fedserver.authorisation import Caller
from fedserver.disk import finished
from fedserver.federation.attempt import Attempt
from fedserver.federation.driving import Drivers, checkpoint_of
from fedserver.federation.first_models import FirstModels
from fedserver.federation.interface import (
    ModelDescription,
    RoundWaits,
    SignedTask,
    Spent,
    Submission,
    SubmittedTask,
)
from fedserver.federation.leftovers import collect_blobs
from fedserver.federation.resources import Resources
from fedserver.store.records import (
    AuditEntry,
    HeadRecord,
    Idempotency,
    ModelRecord,
    RoundRef,
    TaskRecord,
    TaskState,
)

__all__ = ["Tasks", "unknown"]

_ID_BYTES: Final = 32
_MOST_TASKS: Final = 100  # running at once, of a tenant
_ASKED_AGAIN: Final = "asked again when started with another policy or data"


class Tasks(Drivers):
    """All tasks of a server, as those see them who may."""

    def __init__(
        self, resources: Resources, accounts: Accounts, *, owner: str, shared: bool = False
    ) -> None:
        super().__init__(resources, accounts, owner=owner, shared=shared)
        self._blobs = resources.blobs
        self._first_models = FirstModels(resources.blobs, resources.staging)

    async def collect(self) -> None:
        """Deletes what is on the disk and of no use to anybody any more."""
        await collect_blobs(self._store, self._blobs)
        await self._resources.staging.collect()

    async def submit(
        self, caller: Caller, submission: Submission, /, *, once: Idempotency
    ) -> SubmittedTask:
        """Checks, keeps and starts a task; asked again with the same request, it gives the same.

        Raises: TaskError and the like for a task that cannot be carried out; InvalidRequestError;
        ConflictError for one that has run, or runs.
        """
        if (stored := await self._store.recall(once)) is not None:
            return _submitted(stored.response)
        task = await asyncio.to_thread(Task.from_canonical, submission.canonical)
        _require_signed(caller, submission)
        await self._require_room(caller)
        await self._require_new(caller, task)
        task_id = _task_id(task, once)
        digest = await self._first_models.keep(caller, task, submission)
        model = ModelRecord(digest, task_id, b"", 0, await self._blobs.size(digest))
        record = TaskRecord(
            task_id=task_id,
            tenant=caller.tenant,
            name=task.name,
            spec=submission.canonical,
            digest=task.digest,
            author_key=caller.identity_key,
            signature=submission.signature,
            rounds=task.rounds.count,
            submitted_by=caller.principal,
        )
        # The ledger first: a task whose budget nobody keeps must never be found in the store.
        hosted = await asyncio.to_thread(self._hosted, record, None)
        answer = task_id.encode() + b"\0" + digest
        await self._store.add_task(
            record,
            model,
            audit=_entry(caller, "task.submit", task_id, once),
            idempotency=replace(once, response=answer),
        )
        self._drive(hosted)
        await self._first_models.let_go(caller, submission)
        return SubmittedTask(task_id, digest)

    async def cancel(
        self, caller: Caller, task_id: str, /, *, reason: str, once: Idempotency
    ) -> None:
        """Ends a task; its open round is given up."""
        await self._visible(caller, task_id)
        await self._pass_on(caller, task_id)
        audit = _entry(caller, "task.cancel", task_id, once)
        # Whoever asked may be gone by then: what is ended in the store is ended here too.
        await finished(self._cancelled(task_id, reason, audit, once))

    async def _cancelled(
        self, task_id: str, reason: str, audit: AuditEntry, once: Idempotency
    ) -> None:
        await self._store.set_task_state(
            task_id, TaskState.CANCELLED, reason=reason, audit=audit, idempotency=once
        )
        if (driver := self._drivers.get(task_id)) is not None:
            driver.cancel(reason)

    async def task(self, caller: Caller, task_id: str, /) -> SignedTask:
        """A task of the caller's tenant."""
        record = await self._visible(caller, task_id)
        head = await self._store.head(task_id)
        newest = head.digest if head is not None and head.round else b""
        return SignedTask(record.spec, record.author_key, record.signature, newest)

    async def model(self, caller: Caller, digest: bytes, /) -> ModelDescription:
        """A model of a task of the caller's tenant."""
        found = await self._store.model(digest)
        if found is None:
            raise unknown("model")
        task = await self._store.task(found.task_id)
        if task is None or task.tenant != caller.tenant:
            # The same task, which another tenant had before, begins with the same model.
            found = await self._own_model(caller, digest)
        return ModelDescription(found.size, found.task_id, found.round, found.parent)

    async def _own_model(self, caller: Caller, digest: bytes) -> ModelRecord:
        for task in await self._store.tasks(tenant=caller.tenant):
            found = await self._store.model(digest, task_id=task.task_id)
            if found is not None:
                return found
        raise unknown("model")

    async def spent(self, caller: Caller, task_id: str, /) -> Spent:
        """What a task has spent of its privacy budget."""
        record = await self._visible(caller, task_id)
        head = await self._store.head(task_id)  # before the ledger, which is never behind it
        trouble, budget = self._trouble(task_id), 0.0
        try:
            plan = (await asyncio.to_thread(Task.from_canonical, record.spec)).plan
            budget = 0.0 if plan is None else plan.epsilon
            found = await asyncio.to_thread(self._spent, task_id, plan, head)
        except (PrivacyError, TaskError) as error:
            # What is amiss with one keeps no other from view; nor is it known whether its sample
            # was secret.
            found, trouble = Spent(math.nan, budget, secret_sample=True), error
        if trouble is None:
            return found
        words = f"{trouble.code} {trouble.what}: {trouble.why}. Fix: {trouble.fix}"
        return replace(found, trouble=words)

    async def certificate(self, caller: Caller, task_id: str, /) -> bytes:
        """The certificate of a task's privacy, JSON. Raises: NotFoundError without privacy."""
        record = await self._visible(caller, task_id)
        head = await self._store.head(task_id)
        task = await asyncio.to_thread(Task.from_canonical, record.spec)
        if task.plan is None:
            raise NotFoundError(
                f"task {task_id} promises no privacy",
                why="it has no ledger",
                fix="name what it protects, in [privacy], when it is submitted",
            )
        checkpoint = checkpoint_of(head)
        return await asyncio.to_thread(self._accounts.certificate, task_id, checkpoint=checkpoint)

    async def show_round(self, caller: Caller, ref: RoundRef, /) -> RoundWaits:
        """What an attempt waits for now; "" once it is over."""
        await self._visible(caller, ref.task_id)
        await self._pass_on(caller, ref.task_id)
        attempt = self._attempt(ref)
        if attempt is None:
            return RoundWaits("")
        refused: dict[str, int] = {}
        words = waiting_for(attempt.state, attempt.policy, self._resources.clock())
        if attempt.state.phase is Phase.PENDING:
            driver, least = self._drivers[ref.task_id], attempt.policy.minimum
            words = f"waits for {least} clients ({driver.waiting} ask now)"
            if refused := driver.left_out.refusals:
                counts = ", ".join(f"{count} {why}" for why, count in refused.items())
                until = _time(self._resources.clock() + 1000 * driver.left_out.longest_s)
                words += f"; lately refused: {counts} ({_ASKED_AGAIN}, else by {until})"
        return RoundWaits(words, tuple(sorted(attempt.state.pending)), refused)

    async def changed(self, caller: Caller, task_id: str, /, *, after: int, wait_s: float) -> None:
        """Returns when the task has a round event later than `after`, or after `wait_s` seconds."""
        await self._visible(caller, task_id)
        await self._pass_on(caller, task_id)
        loop = asyncio.get_running_loop()
        end = loop.time() + wait_s
        while (left := end - loop.time()) > 0 and not self._draining:
            page = await self._store.rounds(task_id, after_event=after, limit=1)
            driver = self._drivers.get(task_id)
            if page.rounds or driver is None or self._running[task_id].done():
                return
            await driver.page.turned(left)

    def _spent(self, task_id: str, plan: PrivacyPlan | None, head: HeadRecord | None) -> Spent:
        if plan is None:
            return Spent()
        found = self._accounts.spent(task_id, plan, checkpoint=checkpoint_of(head))
        return Spent(found.epsilon, plan.epsilon, found.by_round, draws_clients(plan))

    async def _visible(self, caller: Caller, task_id: str) -> TaskRecord:
        record = await self._store.task(task_id)
        if record is None or record.tenant != caller.tenant:
            raise unknown("task")
        return record

    def _attempt(self, ref: RoundRef) -> Attempt | None:
        driver = self._drivers.get(ref.task_id)
        attempt = None if driver is None else driver.attempt
        return attempt if attempt is not None and attempt.ref == ref else None

    async def _require_room(self, caller: Caller) -> None:
        running = await self._store.tasks(tenant=caller.tenant, state=TaskState.RUNNING)
        if len(running) >= _MOST_TASKS:
            raise OverloadedError(
                f"{len(running)} tasks are running",
                why="so many a tenant may have at once",
                fix="cancel one, or wait until one has ended",
                retry=(60_000, 600_000),
            )

    async def _require_new(self, caller: Caller, task: Task) -> None:
        """Devices know a task by its digest, and give one update for an attempt: none a new run."""
        for other in await self._store.tasks(tenant=caller.tenant, digest=task.digest):
            begun = await self._store.latest_attempt(other.task_id, 0) is not None
            if begun or other.state is TaskState.RUNNING:
                raise ConflictError(
                    f"this very task is known as {other.task_id}",
                    why="devices give one update for each attempt at a round of a task, and know"
                    " it by its content: they would refuse to give it again",
                    fix="change its seed, or its name, to run it once more",
                )


def unknown(kind: str) -> NotFoundError:
    """What to raise for an object that is not there, or is somebody else's."""
    return NotFoundError(
        f"there is no such {kind}",
        why=f"no {kind} of that name is yours",
        fix=f"list what there is, and name the {kind} as it is listed",
    )


def _time(ms: float) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%H:%M UTC")


def _require_signed(caller: Caller, submission: Submission) -> None:
    """Clients check the author's signature: one that does not hold would be refused by all."""
    signed = signed_bytes(submission.canonical, method=TASK, place=Place())
    if not verify_signature(caller.identity_key, submission.signature, signed):
        raise InvalidRequestError(
            "the task is not signed by who submits it",
            why="its signature does not hold for the caller's key",
            fix="sign it with the key of the profile that submits it",
        )


def _task_id(task: Task, once: Idempotency) -> str:
    """Its name and a few letters that make it one of many; the same for the same request."""
    drawn = hashlib.sha256(once.principal.encode() + b"\0" + once.request_id).hexdigest()
    return f"{task.name[:48]}-{drawn[:12]}"


def _submitted(response: bytes) -> SubmittedTask:
    task_id, digest = response[:-_ID_BYTES].removesuffix(b"\0"), response[-_ID_BYTES:]
    return SubmittedTask(task_id.decode(), digest)


def _entry(caller: Caller, action: str, on: str, once: Idempotency) -> AuditEntry:
    return AuditEntry(caller.principal, action, on, request_id=once.request_id)
