"""What of an attempt is durable: its transitions, its secrets while it lasts, and its end.

Every write names the lease under which it is made, so that a driver that was overtaken changes
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fedcore.entropy import Entropy
from fedcore.failpoints import failpoint
from fedcore.rounds import CLIENT_PHASES, Phase, RoundState, Transition
from fedcore.rounds.records import to_record
from fedserver.federation.cohort import Cohort
from fedserver.federation.results import Result
from fedserver.spool import Spool
from fedserver.store.protocol import Store
from fedserver.store.records import (
    AssignmentState,
    AuditEntry,
    Lease,
    OutboxMessage,
    RoundRecord,
    RoundRef,
    Transition as StoredTransition,
)

__all__ = ["SCRUB", "Journal"]

SCRUB = "scrub"
_AT_ONCE = 256  # uploads that are deleted with one fsync
_END = {
    Phase.COMPLETED: AssignmentState.COMPLETED,
    Phase.ABANDONED: AssignmentState.CANCELLED,
    Phase.FAILED: AssignmentState.CANCELLED,
    Phase.CANCELLED: AssignmentState.CANCELLED,
}


@dataclass(frozen=True, slots=True)
class Journal:
    """The durable side of one attempt. `lease`: what holds now; `base`: the model it began with."""

    store: Store
    spool: Spool
    ref: RoundRef
    lease: Callable[[], Lease]
    base: bytes
    entropy: Entropy

    async def open(self, state: RoundState, *, spent: float | None) -> RoundRecord:
        """Makes a new attempt durable. `spent`: in all before it, None without privacy.

        Raises: ConflictError if there is an open one.
        """
        return await self.store.open_round(
            self.ref,
            phase=state.phase.value,
            state=to_record(state),
            base_model=self.base,
            deadline_ms=state.deadline,
            lease_token=self.lease().token,
            spent=spent,
        )

    async def advance(
        self,
        transition: Transition,
        state: RoundState,
        *,
        cohort: Cohort,
        result: Result | None,
        epsilon: float | None = None,
        ledger_head: bytes = b"",
    ) -> None:
        """One transition; who was selected by it has an assignment when this returns.

        `epsilon`: what is spent in all, where the transition says so. `ledger_head`: of the task's
        privacy ledger, which from now on must hold all that was paid for so far.
        """
        assignments = []
        if transition.from_phase is Phase.SELECTING and transition.to_phase in CLIENT_PHASES:
            assignments = cohort.selected(
                self.ref, transition.cohort, self.entropy.token, expires=transition.deadline or 0
            )
        end = _END.get(transition.to_phase)
        await self.store.advance_round(
            self.ref,
            _stored(transition),
            state=to_record(state),
            lease_token=self.lease().token,
            assignments=assignments,
            end_assignments=end,
            result_digest=result.digest if result else None,
            epsilon=epsilon,
            ledger_head=ledger_head,
            outbox=self._scrub_later(end),
            audit=self._audit(transition),
        )
        if transition.from_phase is Phase.SELECTING:
            cohort.assign(assignments)
        await self._drop(transition, cohort)

    async def complete(self, transition: Transition, state: RoundState, result: Result) -> None:
        """The transition to COMPLETED, which moves the head of the task's models (W6)."""
        await self.store.complete_round(
            self.ref,
            _stored(transition),
            state=to_record(state),
            lease_token=self.lease().token,
            model=result.model(self.ref, parent=self.base),
            expected_parent=self.base,
            metrics=result.metrics,
            state_digest=result.state_digest,
            ledger_head=result.ledger_head,
            outbox=self._scrub_later(AssignmentState.COMPLETED),
            audit=self._audit(transition),
        )

    async def keep(self, records: Mapping[str, bytes]) -> None:
        """Makes records of the attempt's session durable, sealed."""
        await self.store.put_session(self.ref, records, lease_token=self.lease().token)

    async def bar(self, client: bytes, how: str) -> bool:
        """From now on the task does without this client, whoever drives it; whether it is news."""
        return await self.store.bar_client(
            self.ref.task_id,
            client,
            reason=how,
            lease_token=self.lease().token,
            audit=AuditEntry("driver", "client.bad_shares", client.hex(), decision="barred"),
        )

    async def kept(self) -> dict[str, bytes]:
        """All records of the session."""
        return await self.store.session(self.ref)

    async def scrub(self) -> None:
        """Destroys what the clients sent and what could unmask it (W10). May be repeated."""
        left = await self.store.scrub_round(self.ref, lease_token=self.lease().token)
        await self.spool.learn(left)  # another server may have sealed them
        for start in range(0, len(left), _AT_ONCE):
            await self.spool.discard(*left[start : start + _AT_ONCE])
            failpoint("scrub.midway")
        for entry in await self.store.outbox_pending(limit=1000):
            if entry.topic == SCRUB and entry.payload == str(self.ref).encode():
                await self.store.outbox_done(entry.entry_id)

    async def _drop(self, transition: Transition, cohort: Cohort) -> None:
        """Ends the assignments of those with whom the round does not go on."""
        if transition.to_phase not in CLIENT_PHASES:
            return
        for client in transition.lost:
            assignment = cohort.assignment(client)
            if assignment is not None and cohort.drop(client):
                await self.store.end_assignment(
                    assignment.assignment_id,
                    AssignmentState.DROPPED,
                    reason=transition.lost[client].why,
                )

    def _scrub_later(self, end: AssignmentState | None) -> tuple[OutboxMessage, ...]:
        return () if end is None else (OutboxMessage(SCRUB, str(self.ref).encode()),)

    def _audit(self, transition: Transition) -> AuditEntry:
        return AuditEntry(
            actor="driver",
            action=f"round.{transition.to_phase.value.lower()}",
            object=str(self.ref),
        )


def _stored(transition: Transition) -> StoredTransition:
    return StoredTransition(
        from_phase=transition.from_phase.value,
        to_phase=transition.to_phase.value,
        sequence=transition.sequence,
        reason=transition.reason,
        deadline_ms=transition.deadline,
    )
