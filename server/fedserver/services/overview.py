"""`AdminService`, what is only looked at: status, clients, tasks, rounds, models, privacy, audit.

The rows come from the store; what the rows do not say, such as what a round waits for, from the
federation. Everything is of the caller's tenant, which its certificate names, never the request.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from fedcore.errors import ForbiddenError, NotFoundError
from fedcore.rounds import Phase
from fedcore.v1 import admin_service_pb2, common_pb2
from fedcore.wire.channels import LONGEST_WAIT_S
from fedserver.audit_heads import AuditHeads
from fedserver.authorisation import OPERATORS, Caller
from fedserver.federation.interface import Federation, RoundWaits, Spent
from fedserver.services import fields
from fedserver.store.audit import canonical
from fedserver.store.protocol import Store
from fedserver.store.records import NOT_NOTED, AssignmentRecord, RoundRecord, TaskRecord

__all__ = ["About", "Overview"]

_PAGE, _LARGEST_PAGE = 100, 1000
# Entries of a page may have a kilobyte each, and a client takes messages of 4 MiB.
_LARGEST_WAIT_MS = LONGEST_WAIT_S * 1000


@dataclass(frozen=True, slots=True)
class About:
    """What a server says of itself. `server_id`: 16 bytes; `database`: which one, in a word."""

    server_id: bytes
    version: str
    started_ms: int
    database: str


class Overview:
    """`now_ms`: Unix milliseconds. `audit`: the signed heads of the log."""

    def __init__(
        self,
        store: Store,
        federation: Federation,
        *,
        about: About,
        now_ms: Callable[[], int],
        draining: Callable[[], bool],
        audit: AuditHeads,
    ) -> None:
        self._store, self._federation, self._about = store, federation, about
        self._now_ms, self._draining, self._audit = now_ms, draining, audit

    async def GetStatus(
        self, caller: Caller, request: admin_service_pb2.GetStatusRequest
    ) -> admin_service_pb2.GetStatusResponse:
        counts = await self._store.statistics()
        return admin_service_pb2.GetStatusResponse(
            version=self._about.version,
            server_id=self._about.server_id,
            tenant=caller.tenant,
            role=caller.role,
            started_ms=self._about.started_ms,
            server_time_ms=self._now_ms(),
            draining=self._draining(),
            clients=counts.clients_active,
            tasks_running=counts.tasks_running,
            rounds_open=counts.rounds_open,
            database=self._about.database,
            schema=int(counts.schema) if counts.schema.isdigit() else 0,
        )

    async def ListClients(
        self, caller: Caller, request: admin_service_pb2.ListClientsRequest
    ) -> admin_service_pb2.ListClientsResponse:
        after = fields.identifier(request.after, "after") if request.after else b""
        found = await self._store.clients(
            tenant=caller.tenant, after=after, limit=_limit(request.limit)
        )
        return admin_service_pb2.ListClientsResponse(
            clients=[
                admin_service_pb2.ClientEntry(
                    client_id=client.client_id,
                    state=client.state.value,
                    sdk_version=client.sdk_version,
                    attributes=client.attributes,
                    last_seen_ms=client.last_seen_ms,
                    certificate_expires_ms=client.certificate_expires_ms,
                )
                for client in found
            ]
        )

    async def ListTasks(
        self, caller: Caller, request: admin_service_pb2.ListTasksRequest
    ) -> admin_service_pb2.ListTasksResponse:
        found = await self._store.tasks(tenant=caller.tenant)
        return admin_service_pb2.ListTasksResponse(
            tasks=[
                await self._task_entry(task, await self._federation.spent(caller, task.task_id))
                for task in found
            ]
        )

    async def ShowTask(
        self, caller: Caller, request: admin_service_pb2.ShowTaskRequest
    ) -> admin_service_pb2.ShowTaskResponse:
        task = await self._task(caller, request.task_id)
        spent = await self._federation.spent(caller, task.task_id)
        return admin_service_pb2.ShowTaskResponse(
            task=await self._task_entry(task, spent), spec=task.spec
        )

    async def ListRounds(
        self, caller: Caller, request: admin_service_pb2.ListRoundsRequest
    ) -> admin_service_pb2.ListRoundsResponse:
        task = await self._task(caller, request.task_id)
        after = fields.number(request.after_event, "after_event")
        if request.wait_ms:
            wait_s = min(request.wait_ms, _LARGEST_WAIT_MS) / 1000
            await self._federation.changed(caller, task.task_id, after=after, wait_s=wait_s)
            task = await self._task(caller, request.task_id)
        page = await self._store.rounds(
            task.task_id, after_event=after, limit=_limit(request.limit)
        )
        spent = await self._federation.spent(caller, task.task_id)
        shown = _shows_participants(caller, spent)
        waits = await self._selection(caller, task) if shown else RoundWaits("")
        return admin_service_pb2.ListRoundsResponse(
            rounds=[await self._round_entry(task, one, shown, spent) for one in page.rounds],
            last_event=page.last_event,
            task=await self._task_entry(task, spent),
            waiting_for=waits.waiting_for,
            refused=waits.refused,
        )

    async def ShowRound(
        self, caller: Caller, request: admin_service_pb2.ShowRoundRequest
    ) -> admin_service_pb2.ShowRoundResponse:
        ref = fields.round_ref(request.round)
        task = await self._task(caller, ref.task_id)
        record = await self._store.round(ref)
        if record is None:
            raise _nothing("round")
        waits = await self._federation.show_round(caller, ref)
        events = await self._store.round_events(ref)
        spent = await self._federation.spent(caller, ref.task_id)
        shown = _shows_participants(caller, spent)
        if not shown:
            waits = RoundWaits("")
        return admin_service_pb2.ShowRoundResponse(
            round=await self._round_entry(task, record, shown, spent),
            transitions=[
                admin_service_pb2.Transition(
                    at_ms=event.at_ms,
                    from_phase=event.from_phase,
                    to_phase=event.to_phase,
                    reason=event.reason if shown else "",
                )
                for event in events
            ],
            waiting_for=waits.waiting_for,
            pending=waits.pending,
            participants=_participants(await self._store.assignments(ref)) if shown else [],
            refused=waits.refused,
        )

    async def ListModels(
        self, caller: Caller, request: admin_service_pb2.ListModelsRequest
    ) -> admin_service_pb2.ListModelsResponse:
        task = await self._task(caller, request.task_id)
        head = await self._store.head(task.task_id)
        newest = head.digest if head is not None else b""
        return admin_service_pb2.ListModelsResponse(
            models=[
                admin_service_pb2.ModelEntry(
                    digest=model.digest,
                    parent=model.parent,
                    round=model.round,
                    size=model.size,
                    created_ms=model.created_ms,
                    head=model.digest == newest,
                )
                for model in await self._store.models(task.task_id)
            ]
        )

    async def ShowPrivacy(
        self, caller: Caller, request: admin_service_pb2.ShowPrivacyRequest
    ) -> admin_service_pb2.ShowPrivacyResponse:
        task = await self._task(caller, request.task_id)
        return admin_service_pb2.ShowPrivacyResponse(
            certificate=await self._federation.certificate(caller, task.task_id)
        )

    async def ExportAudit(
        self, caller: Caller, request: admin_service_pb2.ExportAuditRequest
    ) -> admin_service_pb2.ExportAuditResponse:
        # The log is one chain over all tenants, which nobody could check in parts.
        if caller.role != "admin" and (await self._store.statistics()).tenants > 1:
            raise ForbiddenError(
                "the audit log is not for auditors here",
                why="the server has several tenants, and one log of them all",
                fix="ask an administrator for an export",
            )
        records = await self._store.audit_entries(
            fields.number(request.after, "after"), _limit(request.limit)
        )
        return admin_service_pb2.ExportAuditResponse(
            entries=[canonical(record) for record in records], head=self._audit.newest
        )

    async def _selection(self, caller: Caller, task: TaskRecord) -> RoundWaits:
        """What a task's newest attempt waits for, while nobody was selected for it."""
        found = await self._store.latest_attempt(task.task_id, task.rounds_completed)
        if found is None or found.phase != Phase.PENDING.value:
            return RoundWaits("")
        return await self._federation.show_round(caller, found.ref)

    async def _task(self, caller: Caller, task_id: str) -> TaskRecord:
        task = await self._store.task(fields.task_id(task_id))
        if task is None or task.tenant != caller.tenant:
            raise _nothing("task")
        return task

    async def _spent_with(self, task: TaskRecord, record: RoundRecord, spent: Spent) -> float:
        """What was spent in all when an attempt ended; NaN where nobody can say.

        `spent`: by now, which counts for an attempt that is open, and for one that was ended
        without a look at the ledger as long as nothing was begun since.
        """
        if record.is_open:
            return spent.epsilon
        if record.epsilon != NOT_NOTED:
            return record.epsilon
        if not spent.budget:  # the task has no ledger
            return spent.epsilon
        latest = await self._store.latest_attempt(task.task_id, task.rounds_completed)
        return spent.epsilon if latest and latest.ref == record.ref else math.nan

    async def _task_entry(self, task: TaskRecord, spent: Spent) -> admin_service_pb2.TaskEntry:
        head = await self._store.head(task.task_id)
        return admin_service_pb2.TaskEntry(
            task_id=task.task_id,
            name=task.name,
            digest=task.digest,
            state=task.state.value,
            rounds_completed=task.rounds_completed,
            rounds=task.rounds,
            submitted_ms=task.submitted_ms,
            model_digest=head.digest if head is not None else b"",
            epsilon=spent.epsilon,
            epsilon_budget=spent.budget,
            reason=task.reason or spent.trouble,
        )

    async def _round_entry(
        self, task: TaskRecord, record: RoundRecord, participants: bool, spent: Spent
    ) -> admin_service_pb2.RoundEntry:
        """`participants`: whether what tells how many they were is shown."""
        metrics = await self._store.metrics(record.ref)
        record = replace(record, epsilon=await self._spent_with(task, record, spent))
        if not participants:
            record = replace(record, assigned=0, uploaded=0, state={}, reason="", bytes_up=0)
        return admin_service_pb2.RoundEntry(
            round=common_pb2.RoundRef(
                task_id=record.ref.task_id, round=record.ref.round, attempt=record.ref.attempt
            ),
            phase=record.phase,
            since_ms=record.since_ms,
            until_ms=record.deadline_ms or 0,
            selected=record.assigned,
            reported=record.uploaded,
            lost=_lost(record.state),
            reason=record.reason,
            model_digest=record.result_digest,
            metrics={name: metric.value for name, metric in metrics.items()},
            epsilon=record.epsilon,
            bytes_up=record.bytes_up,
            started_ms=record.started_ms,
            server_time_ms=self._now_ms(),
        )


def _shows_participants(caller: Caller, spent: Spent) -> bool:
    """Whether the caller may learn who took part in a round, and how many.

    Where the plan draws clients in secret, only who runs the server may: it draws them.
    """
    return caller.role in OPERATORS or not spent.secret_sample


def _participants(found: Iterable[AssignmentRecord]) -> list[admin_service_pb2.Participant]:
    participants = []
    for assignment in found:
        participant = admin_service_pb2.Participant(
            client_id=assignment.client_id,
            state=assignment.state.value,
            failure=common_pb2.FailureCode.ValueType(assignment.failure),
        )
        if assignment.report is not None:
            participant.bytes_up = assignment.report.bytes_up
            participant.bytes_down = assignment.report.bytes_down
            participant.energy_j = assignment.report.energy_j
        participants.append(participant)
    return participants


def _lost(state: Mapping[str, object]) -> dict[str, int]:
    """How many clients were lost in each phase: the record has {client: [phase, why]}."""
    lost = state.get("lost")
    if not isinstance(lost, Mapping):
        return {}
    return dict(Counter(str(loss[0]) for loss in lost.values()))


def _limit(asked: int) -> int:
    return min(asked, _LARGEST_PAGE) if asked else _PAGE


def _nothing(kind: str) -> NotFoundError:
    return NotFoundError(
        f"there is no such {kind}",
        why=f"no {kind} of that name belongs to your tenant",
        fix=f"list the {kind}s",
    )
